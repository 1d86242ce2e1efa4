"""What one night is about: the job as values, where things lie, and what was asked besides the job file."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from thirdshift.flows.errors import UserError
from thirdshift.flows.jobs.building import (
    books,
    endpoint_values,
    input_spec,
    judge_value,
    policies_of,
    policy_value,
    scorer_of,
)
from thirdshift.flows.jobs.deadlines import duration, resolve_deadline
from thirdshift.flows.jobs.job import Job, load_job
from thirdshift.flows.runs.clusters import cluster_problems, surveyed
from thirdshift.flows.runs.ids import derive_run_id
from thirdshift.flows.runs.options import RunOptions
from thirdshift.flows.runs.spot_prices import with_spot_price
from thirdshift.flows.runs.unfinished import unfinished_run
from thirdshift.router.certification.judge import Judge
from thirdshift.router.certification.scorers import Basis, Need, Scorer, kind_of, needs
from thirdshift.router.learning.quality_target import QualityTarget
from thirdshift.router.planning.options import Throughput
from thirdshift.router.planning.problem import Terms
from thirdshift.router.policy import Policy, eligible, masks, say
from thirdshift.router.values import Endpoint
from thirdshift.warehouse.errors import StoreUnreachable
from thirdshift.warehouse.intake.intake import InputSpec, Intake, first_reasons
from thirdshift.warehouse.journal.run_folder import run_folder
from thirdshift.warehouse.store.prices import price_rows
from thirdshift.world import REAL, World

NEED_COLUMNS = {Need.REFERENCE: "reference", Need.RESPONSE_SCHEMA: "response_schema"}
"""What a scorer needs of a row, to the frozen input's column that has it."""
JUDGES_SHARE = Decimal("0.2")
"""The share of the cap for judging, where the job does not say: answers are what the night is for."""
EVEN = 0.5
"""A plan without a margin: as likely above its floor as below."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """One night's givens; nothing in it changes while the night goes on."""

    call: RunOptions
    job: Job
    run_id: str
    warehouse: Path
    folder: Path
    """The run's own: frozen input, journals, parts."""
    endpoints: tuple[Endpoint, ...]
    deadline: datetime | None
    cap_usd: Decimal | None
    throughputs: Mapping[str, Throughput] = field(default_factory=dict)
    speeds: Mapping[str, str] = field(default_factory=dict)
    """What the workers of an endpoint are taken to do in a second and what that is believed by, in a sentence."""
    silent: tuple[int, ...] = ()
    """Positions of the endpoints that answered nothing in the job's last run."""
    judge: Judge | None = None
    """Who scores answers, where the scorer is a judge."""
    world: World = REAL
    """Where time, chance, connections and disk come from."""

    def clock(self) -> datetime:
        return self.world.now()

    @property
    def input(self) -> InputSpec:
        return input_spec(self.job)

    @property
    def policy(self) -> Policy:
        return policy_value(self.job.policy)

    @property
    def policies(self) -> dict[str, Policy]:
        return policies_of(self.job)

    @property
    def allowed(self) -> NDArray[np.bool_]:
        """[policies, endpoints]"""
        return masks(self.endpoints, self.policy, list(self.policies.values()))

    @property
    def refused(self) -> str:
        """Which endpoints the job's policy refuses, said per rule; empty where none."""
        refusals = eligible(self.endpoints, self.policy)[1]
        return say(refusals) if refusals else ""

    @property
    def scorer(self) -> Scorer | None:
        scorer = scorer_of(self.job)
        return scorer if scorer is None or self.judge is None else replace(scorer, judge=self.judge.name)

    @property
    def basis(self) -> Basis:
        """Whose opinion the job's scores are. Raises ValueError where it has no scorer."""
        scorer = self.scorer
        if scorer is None:
            raise ValueError("no scorer, no opinion")
        return kind_of(scorer).basis

    @property
    def needs(self) -> list[str]:
        """Columns of the frozen input that a score takes."""
        scorer = self.scorer
        return [NEED_COLUMNS[need] for need in needs(scorer) if need in NEED_COLUMNS] if scorer else []

    @property
    def scores_free(self) -> bool:
        """Whether a score costs nothing. A function's is taken to, unless the job says how many are allowed."""
        scorer = self.scorer
        costly = scorer is not None and scorer.function is not None and self.job.quality.labels is not None
        return scorer is not None and kind_of(scorer).free and not costly

    @property
    def by_sample(self) -> bool:
        """Whether the rows with a reference are a random sample, and so the audit of the whole."""
        return self.scorer is not None and self.job.quality.references == "sample"

    @property
    def scores_all(self) -> bool:
        """Whether every answer that can be scored is, because scoring is free."""
        return self.scores_free and not self.by_sample

    @property
    def pays_for_scores(self) -> bool:
        """Whether it learns from scores of some answers alone, because a score costs something."""
        return self.learns and not self.scores_all

    @property
    def reached(self) -> dict[str, Endpoint]:
        """All that may be sent to, by name: who answers, and who judges."""
        judges = () if self.judge is None else (self.judge.endpoint,)
        return {endpoint.name: endpoint for endpoint in (*judges, *self.endpoints)}

    @property
    def pools(self) -> tuple[str, ...]:
        """The endpoints whose workers this run starts and stops."""
        return tuple(endpoint.name for endpoint in self.endpoints if endpoint.workers is not None)

    @property
    def judge_usd(self) -> Decimal | None:
        """What judging may cost at most; None: no limit of its own."""
        judge = self.job.quality.judge
        if judge is None or judge.max_usd is not None:
            return None if judge is None else judge.max_usd
        return None if self.cap_usd is None else self.cap_usd * JUDGES_SHARE

    @property
    def looks(self) -> int:
        """Answers that the pilot may have scored at most."""
        most = self.pilots * len(self.endpoints)
        return most if self.pilot_labels is None else min(most, self.pilot_labels)

    @property
    def pilot_labels(self) -> int | None:
        """Scores that cost money which the pilot may use: what the audit leaves, or half; None: as many as it wants."""
        quality = self.job.quality
        if self.scores_free or quality.labels is None:
            return None
        return quality.labels - min(quality.audit or quality.labels // 2, quality.labels)

    @property
    def baseline(self) -> int | None:
        """Position of the endpoint that the floor is a share of."""
        names = [endpoint.name for endpoint in self.endpoints]
        relative = self.job.quality.relative_to
        return None if relative is None else names.index(relative)

    @property
    def learns(self) -> bool:
        """Whether scores of tonight's answers tell if a floor is cleared."""
        return self.aim is not None and self.scorer is not None

    @property
    def aim(self) -> QualityTarget | None:
        """None: no floor to clear, so that the cheapest will do. Without a scorer it is cleared by what is believed."""
        quality = self.job.quality
        if quality.floor <= 0:
            return None
        if self.baseline is None:
            return QualityTarget(quality.floor, (), quality.confidence)
        # once all is scored, it is known what is wrong and the anchor can be asked where that tells most: a margin, and
        # answers of the anchor to narrow it, cost five times as much beforehand (docs/design/floor.md)
        confidence = EVEN if self.scores_all else quality.confidence
        return QualityTarget(quality.floor, (self.baseline,), confidence)

    @property
    def pilots(self) -> int:
        """Requests that may be tried before the plan; none where there is nothing to choose, or nothing can be scored."""
        learns = self.aim is not None and self.scorer is not None and len(self.endpoints) > 1
        return self.job.quality.pilot if learns else 0

    @property
    def priors(self) -> NDArray[np.float64]:
        """[endpoints] quality believed beforehand; NaN: unknown."""
        known = [endpoint.quality_prior for endpoint in self.endpoints]
        return np.array([np.nan if prior is None else prior for prior in known], np.float64)

    def terms(self, *, spent_usd: Decimal = Decimal(0)) -> Terms:
        """What a plan must keep from now on; the floor is put in by who decides."""
        left = None if self.cap_usd is None else float(max(self.cap_usd - spent_usd, Decimal(0)))
        seconds = None if self.deadline is None else max((self.deadline - self.clock()).total_seconds(), 0.0)
        return Terms(
            per_task=self.job.quality.per_task,
            cap_usd=left,
            max_vendor_share=self.policy.max_vendor_share,
            seconds=seconds,
        )

    @property
    def prices(self) -> pa.Table:
        return price_rows(self.endpoints, self.clock())

    def check_rejects(self, intake: Intake, rejects: Path) -> None:
        """Raises UserError where more rows are refused than the job tolerates. `rejects`: the file that has them."""
        share, most = intake.rejects / max(intake.source_rows, 1), self.job.tolerate.rejects
        if share > most:
            # what `plan` reads is gone when it ends
            place = f" (all in {rejects})" if rejects.parent == self.folder else ""
            raise UserError(
                f"{intake.rejects:,} of {intake.source_rows:,} rows are rejected, a share of {share:.4g}; tolerate.rejects "
                f"allows {most:g}. Mend the rows or raise it{place}: {first_reasons(rejects)}"
            )


def with_clusters(context: RunContext) -> RunContext:
    """Return the context with what the clusters of its workers have, and what their hours cost now. Raises UserError where
    one cannot be reached, or a price is not told."""
    if context.call.emulated:
        return context
    priced = tuple(with_spot_price(endpoint, context.job.base) for endpoint in context.endpoints)
    return replace(context, endpoints=tuple(map(surveyed, priced)))


def ready(context: RunContext) -> None:
    """Raises UserError where local workers could not be started, or what will be written could not be: said before
    anything is spent."""
    if context.call.emulated:
        return
    writable(context)
    problems = [problem for endpoint in context.endpoints for problem in _problems(endpoint)]
    if problems:
        raise UserError(
            "\n  ".join(["workers cannot be started:", *problems] if len(problems) > 1 else problems)
        )


def too_large(context: RunContext) -> list[str]:
    """Return what is known before a plan of models whose weights this machine's devices do not hold: a run refuses them."""
    local = [one for one in context.endpoints if one.workers is not None and one.workers.cluster is None]
    if context.call.emulated or not local:
        return []
    from thirdshift.engines.vllm.preflight import oversized

    return [problem for one in local for problem in oversized(one)]


def _problems(endpoint: Endpoint) -> list[str]:
    if endpoint.workers is not None and endpoint.workers.cluster is not None:
        return cluster_problems(endpoint)
    from thirdshift.engines.vllm.preflight import check

    return check(endpoint)


def writable(context: RunContext) -> None:
    """Raises UserError where `output:` or `warehouse_copy:` cannot be written to. A rehearsal publishes nothing."""
    copy = context.job.warehouse_copy_path
    targets = {
        "output": context.job.output_path,
        "warehouse_copy": None if copy is None else str(copy.parent),
    }
    for key, target in targets.items():
        if target is None or context.call.emulated:
            continue
        try:
            from thirdshift.warehouse.object_stores import probe

            probe(target)
        except (StoreUnreachable, ImportError) as error:
            raise UserError(f"{key} {error}") from error
    if copy is not None and copy.resolve() == context.warehouse.resolve():
        raise UserError(f"warehouse_copy: {copy} is the warehouse itself; name another file")


def load(call: RunOptions) -> tuple[Job, Path]:
    """The job and the warehouse it writes to. A rehearsal needs no keys, and keeps to a warehouse of its own."""
    job = load_job(call.job, call.params, environ=None) if call.emulated else load_job(call.job, call.params)
    place = call.warehouse or job.warehouse_path.resolve()
    if call.emulated and call.warehouse is None:
        place = place.with_suffix(".rehearsal" + place.suffix)
    return job, place


def name_of_run(call: RunOptions, say: Callable[[str], None] = lambda _: None) -> str:
    """The run id: given, or derived from the job's name and params, or that of the job's last run on this input where it
    was cut short (which is said), or new."""
    if call.run_id is not None:
        return call.run_id
    job, warehouse = load(call)
    if not job.given and not call.fresh:
        unfinished = unfinished_run(job, warehouse, emulated=call.emulated, say=say)
        if unfinished is not None:
            say(f"going on with {unfinished}, which was cut short on the same input; --fresh starts anew")
            return unfinished
    return derive_run_id(job, now=datetime.now(UTC), token=secrets.token_hex(3))


def context_for(
    call: RunOptions, run_id: str, *, started: datetime | None = None, world: World = REAL
) -> RunContext:
    """Everything that is known before the input is read. Raises UserError (JobError lists every mistake)."""
    job, place = load(call)
    prices, facts = books()
    endpoints = endpoint_values(job, prices, facts)
    judge = _judge(job, judge_value(job, prices, facts), emulated=call.emulated)
    if call.emulated:
        endpoints = tuple(replace(endpoint, emulated=True) for endpoint in endpoints)
    text = call.deadline or job.deadline
    begun = world.now()
    if started is not None and call.deadline is None and text is not None and duration(text) is not None:
        begun = started  # 8h are 8 hours from the run's start, however often it is resumed
    return RunContext(
        call=call,
        job=job,
        run_id=run_id,
        warehouse=place,
        folder=run_folder(place, run_id),
        endpoints=endpoints,
        deadline=None if text is None else resolve_deadline(text, begun),
        cap_usd=call.cap if call.cap is not None else job.budget.cap_usd,
        judge=judge,
        world=world,
    )


def _judge(job: Job, endpoint: Endpoint | None, *, emulated: bool) -> Judge | None:
    """Raises UserError where the job's policy lets the judge see nothing."""
    if endpoint is None or job.quality.judge is None:
        return None
    refusals = eligible((endpoint,), policy_value(job.policy))[1]
    if refusals:
        raise UserError(f"quality.judge.endpoint may see no request under the job's policy: {say(refusals)}")
    return Judge(replace(endpoint, emulated=emulated), job.quality.judge.rubric)
