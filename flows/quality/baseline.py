"""A relative floor where all answers are scored: what is known of the baseline endpoint, and what more to ask of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from thirdshift.flows.planning.tiers import realtime_counterparts
from thirdshift.flows.runs.context import RunContext
from thirdshift.router.certification import baseline
from thirdshift.router.certification.baseline import Baseline
from thirdshift.router.certification.certificate import Certificate, Claim
from thirdshift.router.learning.greedy_path import Ladder
from thirdshift.warehouse.store.store import Warehouse

BASELINE_SCORES = """
-- `place`: an order drawn at random, the same whenever it is asked for
with known as (
    select request_id, arg_max(score, observed_at) as score, arg_min(purpose, observed_at) as purpose,
           min(observed_at) as at
    from observations where run_id = $run_id and endpoint in (select unnest($baselines)) group by all),
others as (
    select request_id, avg(score) as beside
    from observations
    where run_id = $run_id and endpoint not in (select unnest($baselines)) and purpose in ('pilot', 'main')
    group by all)
select a.task, a.score as served, k.score as baseline, coalesce(k.purpose, '') as purpose, o.beside, q.leader
from results a
join requests q using (run_id, request_id)
left join known k using (request_id)
left join others o using (request_id)
where run_id = $run_id and a.score is not null
order by k.purpose = 'pilot' desc nulls last, case when k.purpose = 'pilot' then k.at end, md5(run_id || a.request_id)
"""


@dataclass(frozen=True, slots=True)
class BaselineScores:
    """By scored request: those that the pilot asked the baseline first, in that order; then all others, in an
    order drawn at random."""

    task: NDArray[np.object_]
    served: NDArray[np.float64]
    baseline: NDArray[np.float64]
    """NaN: not known."""
    purpose: NDArray[np.object_]
    """For what the baseline was asked."""
    beside: NDArray[np.float64]
    """What others scored on the request before the audit."""
    leader: NDArray[np.int64]

    def part(self, chosen: NDArray[np.bool_]) -> BaselineScores:
        return BaselineScores(
            self.task[chosen], self.served[chosen], self.baseline[chosen], self.purpose[chosen],
            self.beside[chosen], self.leader[chosen],
        )  # fmt: skip

    @property
    def rest(self) -> NDArray[np.bool_]:
        """Whether the audit is drawn from it: neither asked by the pilot nor served by the baseline as planned."""
        return ~np.isin(self.purpose, ("pilot", "main"))

    def known(self) -> Baseline:
        rest = self.rest
        answered = np.isfinite(self.baseline[rest])
        count = (
            len(answered) if answered.all() else int(answered.argmin())
        )  # up to the first that was not asked
        beside = np.nan_to_num(self.beside[rest], nan=0.5)
        return Baseline(
            population=len(self.task),
            drawn=self.baseline[self.purpose == "pilot"],
            known=self.baseline[self.purpose == "main"],
            audit=self.baseline[rest][:count],
            beside=beside[:count],
            beside_rest=float(beside.mean()) if len(beside) else 0.0,
        )


def baseline_scores(warehouse: Warehouse, context: RunContext) -> BaselineScores:
    same = {context.baseline, int(realtime_counterparts(context.endpoints)[context.baseline or 0])} - {
        -1,
        None,
    }
    names = [context.endpoints[endpoint].name for endpoint in same if endpoint is not None]
    rows = warehouse.query(BASELINE_SCORES, run_id=context.run_id, baselines=names)
    return BaselineScores(
        _objects(rows["task"]), _floats(rows["served"]), _floats(rows["baseline"]), _objects(rows["purpose"]),
        _floats(rows["beside"]), np.asarray(rows["leader"], np.int64),
    )  # fmt: skip


def _floats(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)


def _objects(column: pa.ChunkedArray) -> NDArray[np.object_]:
    return np.asarray(column.to_numpy(), np.object_)


def certificates(warehouse: Warehouse, context: RunContext, claim: Claim) -> tuple[Certificate, ...]:
    """The whole batch first, then the tasks where the floor is per task."""
    all_of_it = baseline_scores(warehouse, context)
    if not len(all_of_it.task):
        return ()
    parts: Sequence[tuple[str | None, BaselineScores]] = [(None, all_of_it)]
    if context.job.quality.per_task:
        tasks = dict.fromkeys(sorted(all_of_it.task.tolist()))
        parts = [*parts, *((task, all_of_it.part(all_of_it.task == task)) for task in tasks)]
    return tuple(
        baseline.certify(replace(claim, task=task), part.served, part.known()) for task, part in parts
    )


# --- how much more to ask of it ---------------------------------------------------------------------------------------

STEPS = (0, 25, 50, 100, 200, 400, 800, 1600, 3200)
"""Numbers of answers of the baseline that are weighed against each other."""


def answers_worth(
    parts: Sequence[tuple[Certificate, BaselineScores]],
    ladders: Sequence[Rise],
    price_usd: float,
    left_usd: float,
) -> int:
    """Return how many more answers of the baseline make the run cheapest: each narrows what it may be, and so what must be
    reached. `parts`: what a floor is asked of; `ladders`: what reaching costs there; `price_usd`: of one answer."""
    rest = min(int(part.rest.sum()) for _, part in parts)
    best, least = 0, np.inf
    for step in STEPS:
        asked = min(step, rest)
        total = asked * price_usd
        for (claim, part), rise in zip(parts, ladders, strict=True):
            share = asked * len(part.task) / max(len(parts[0][1].task), 1)
            most = baseline.expected_ceiling(part.known(), claim.confidence, round(share))
            total += rise.cost_usd(claim.floor * most * len(part.task) - float(part.served.sum()))
        if total < least and total <= left_usd:
            best, least = asked, total
    return best


@dataclass(frozen=True, slots=True)
class Rise:
    """What it costs to raise a sum of scores, the best bargain first."""

    gained: NDArray[np.float64]
    spent: NDArray[np.float64]

    @staticmethod
    def of(ladder: Ladder, weight: NDArray[np.int32], rows: NDArray[np.bool_]) -> Rise:
        chosen = rows[ladder.row]
        gained = ladder.quality[chosen] * weight[ladder.row[chosen]]
        return Rise(np.cumsum(gained), np.cumsum(ladder.cost_usd[chosen]))

    def cost_usd(self, gain: float) -> float:
        if gain <= 0.0:
            return 0.0
        at = int(np.searchsorted(self.gained, gain))
        return float(self.spent[at]) if at < len(self.spent) else np.inf
