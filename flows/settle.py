"""After answers came: score them, say who serves what, certify, and judge how the night ended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flows import auditing, relative
from flows.exits import Verdict, exit_code, status
from flows.learning import drifts_of
from flows.setting import Setting
from router.certificate import Certificate, Claim, Sample, certify
from router.scorers import Scorer, ScorerError, kind_of, score_batch
from router.values import FailureKind
from warehouse.earlier import reused
from warehouse.publish import publish
from warehouse.store import Warehouse

SCORES = """
select request_id, task, score from results where run_id = $run_id and score is not null order by request_id
"""
UNANSWERED = """
update results set score = 0
where run_id = $run_id and error is not null and score is null and request_id in (
    select q.request_id from requests q join scorable s on s.row = q.row where q.run_id = $run_id)
"""
ENDED = """
select count(*) as results, count(*) filter (where error is not null) as errors, avg(score) as mean_score
from results where run_id = $run_id
"""

CERTIFICATE = """
select floor, confidence, basis, scorer, population, scored, mean, lower_bound, certified, method
from certificates where run_id = $run_id and task is null
"""
FOR_ALL = ("reference", "response_schema")
FOR_FUNCTIONS = (*FOR_ALL, "messages", "metadata")
"""Columns of the frozen input that scorers get, and those that a user's function gets."""
MOST_FAULTS = 3
"""So many of a function's faults are told one by one."""
PUBLISHED = "published"
"""A file of this name in the run's folder: what was to be published is."""
Say = Callable[[str], None]
_STOPPED = frozenset({Verdict.BUDGET, Verdict.APPROVAL, Verdict.DEADLINE})
HELD_BACK: dict[str, frozenset[Verdict]] = {
    "always": frozenset(),
    "complete": _STOPPED,
    "certified": _STOPPED | {Verdict.FLOOR_MISSED, Verdict.NOT_CERTIFIED},
}
"""`output.when` to the verdicts that keep a run's results back."""
STOPS = {FailureKind.BUDGET: Verdict.BUDGET, FailureKind.DEADLINE: Verdict.DEADLINE}
"""Why requests were not sent, to what that makes of the run."""


def score_new(warehouse: Warehouse, run_id: str, scorer: Scorer, say: Say) -> tuple[int, float]:
    """Score every reply that has no score yet: how many, and the sum of their scores. Rows that lack what the scorer
    needs are left alone; an answer that the user's function fails on scores 0, which is said."""
    scored, total = 0, 0.0
    now = datetime.now(UTC)
    faults: list[ScorerError] = []
    columns = FOR_FUNCTIONS if scorer.function is not None else FOR_ALL
    for batch in warehouse.unscored(run_id, columns):
        scores = score_batch(scorer, batch, faults.append)
        known = ~np.isnan(scores)
        if not known.any():
            continue
        warehouse.observe(_observations(batch.filter(pa.array(known)), scores[known], run_id, scorer, now))
        scored += int(known.sum())
        total += float(scores[known].sum())
    for fault in faults[:MOST_FAULTS]:
        say(f"{fault}; its answer scores 0")
    if len(faults) > MOST_FAULTS:
        say(f"scorer {scorer.name}: {len(faults) - MOST_FAULTS:,} more answers like these score 0")
    return scored, total


def unanswered_score_nothing(warehouse: Warehouse, run_id: str, scorable: NDArray[np.bool_]) -> None:
    """A request without an answer scores 0, also where none was ever sent (and so there is nothing to observe)."""
    rows = pa.table({"row": pa.array(np.flatnonzero(scorable))})
    warehouse.execute(UNANSWERED, tables={"scorable": rows}, run_id=run_id)


def _observations(
    batch: pa.RecordBatch, scores: NDArray[np.float64], run_id: str, scorer: Scorer, now: datetime
) -> pa.Table:
    count, at = batch.num_rows, pa.scalar(now, pa.timestamp("us", "UTC"))
    told = pa.Table.from_batches([batch]).select(["request_id", "task", "endpoint", "model", "purpose"])
    added = {
        "run_id": pa.array([run_id] * count),
        "score": pa.array(scores),
        "scorer": pa.array([scorer.name] * count),
        "basis": pa.array([kind_of(scorer).basis.value] * count),
        # a clock set back must not make a score older than its answer: it would be asked for again and again
        "observed_at": pc.if_else(pc.greater(batch["settled_at"], at), batch["settled_at"], at),
    }
    for name, values in added.items():
        told = told.append_column(name, values)
    return told


@dataclass(frozen=True, slots=True)
class Quality:
    """What a night claims of its quality."""

    certificates: tuple[Certificate, ...] = ()
    """The whole batch first, then tasks where the floor is per task."""

    @property
    def overall(self) -> Certificate | None:
        return self.certificates[0] if self.certificates else None


def quality_of(warehouse: Warehouse, setting: Setting) -> Quality:
    """Certificates from the scores of all results that can be scored; from the audit's where scoring is not free."""
    scorer = setting.scorer
    if scorer is None:
        return Quality()
    if not setting.scores_all:
        return Quality(auditing.certificates(warehouse, setting))
    found = warehouse.query(SCORES, run_id=setting.run_id)
    scores = np.asarray(found["score"], np.float64)
    if not len(scores):
        return Quality()
    asked = setting.job.quality
    whole = Claim(asked.floor, asked.confidence, kind_of(scorer).basis, scorer.name)
    if setting.anchor is not None:
        return Quality(relative.certificates(warehouse, setting, whole))
    tasks = found["task"].to_numpy() if asked.per_task else np.zeros(0)
    of_tasks = [
        _census(replace(whole, task=str(task)), scores[tasks == task]) for task in dict.fromkeys(tasks)
    ]
    return Quality((_census(whole, scores), *of_tasks))


def _census(claim: Claim, scores: NDArray[np.float64]) -> Certificate:
    return certify(claim, Sample(population=len(scores), known=scores, audit=np.zeros(0)))


def save_quality(warehouse: Warehouse, run_id: str, quality: Quality) -> None:
    now = datetime.now(UTC)
    rows = [
        {**asdict(each), "basis": each.basis.value, "method": each.method.value, "certified": each.certified}
        for each in quality.certificates
    ]
    if rows:
        table = pa.Table.from_pylist([row | {"run_id": run_id, "issued_at": now} for row in rows])
        task = table.column_names.index("task")
        warehouse.save_certificates(table.set_column(task, "task", table["task"].cast(pa.string())))


@dataclass(frozen=True, slots=True)
class Ended:
    """Figures of a night that is over."""

    results: int
    errors: int
    mean_score: float | None


def ended(warehouse: Warehouse, run_id: str) -> Ended:
    row = warehouse.query(ENDED, run_id=run_id).to_pylist()[0]
    return Ended(row["results"], row["errors"], row["mean_score"])


def finish(
    warehouse: Warehouse,
    setting: Setting,
    unsent: Collection[FailureKind],
    *,
    out_of_reach: bool,
    unapproved: bool = False,
) -> dict[str, Any]:
    """Certificates, verdicts and the end of the run, written down; the summary that `run --json` prints.

    `unapproved`: what stopped it is not that the money was gone, but that nobody approved of the plan.
    """
    end = ended(warehouse, setting.run_id)
    stopped = bool({FailureKind.BUDGET, FailureKind.DEADLINE} & set(unsent))
    quality = Quality() if stopped else quality_of(warehouse, setting)
    save_quality(warehouse, setting.run_id, quality)
    verdicts = _verdicts(setting, end, unsent, quality, out_of_reach=out_of_reach)
    if unapproved:
        verdicts = [Verdict.APPROVAL if each is Verdict.BUDGET else each for each in verdicts]
    published = setting.job.output is None or may_publish(setting, verdicts)
    (setting.folder / PUBLISHED).unlink(missing_ok=True)
    warehouse.finish_run(
        setting.run_id,
        status=status(verdicts),
        outcomes=[each.value for each in verdicts],
        published=published,
    )
    return summary(warehouse, setting, warehouse.run(setting.run_id) or {})


def _verdicts(
    setting: Setting, end: Ended, unsent: Collection[FailureKind], quality: Quality, *, out_of_reach: bool
) -> list[Verdict]:
    """Everything that applies."""
    verdicts = [verdict for kind, verdict in STOPS.items() if kind in unsent]
    if end.results and end.errors / end.results > setting.job.tolerate.errors:
        verdicts.append(Verdict.ERRORS)
    if setting.scorer is not None and setting.job.quality.floor > 0:
        verdicts += of_quality(quality.certificates, out_of_reach=out_of_reach and not quality.certificates)
    return verdicts


def summary(warehouse: Warehouse, setting: Setting, run: Mapping[str, Any]) -> dict[str, Any]:
    """What `run --json` answers, from the warehouse alone: the same for a run that was over before."""
    end = ended(warehouse, setting.run_id)
    verdicts = [Verdict(name) for name in run["outcomes"] or ()]
    found = warehouse.query(CERTIFICATE, run_id=setting.run_id).to_pylist()
    rejects = warehouse.query(
        "select count(*) as n from rejects where run_id = $run_id", run_id=setting.run_id
    )
    return {
        "run_id": setting.run_id,
        "exit": exit_code(verdicts),
        "outcomes": [verdict.value for verdict in verdicts] or ["done"],
        "results": end.results,
        "rejects": rejects["n"][0].as_py(),
        "errors": end.errors,
        "spent_usd": float(warehouse.spent(setting.run_id)),
        "planned_usd": None if run["planned_usd"] is None else float(run["planned_usd"]),
        "mean_score": end.mean_score if setting.scores_all or not found else _estimate(setting, found[0]),
        "certificate": found[0] if found else None,
        "drift": drifts_of(setting.folder),
        **reused(warehouse, setting.run_id),
        "warehouse": str(setting.warehouse),
    }


def _estimate(setting: Setting, certificate: Mapping[str, Any]) -> float | None:
    """Of an audited night: results that have a score are no fair part of all, since the worst of them were mended.

    None where the certificate is of a share of an endpoint's mean.
    """
    return float(certificate["mean"]) if setting.anchor is None and certificate["scored"] else None


def may_publish(setting: Setting, verdicts: Collection[Verdict]) -> bool:
    """Whether `output.when` lets a run that ended so be published."""
    output = setting.job.output
    return output is not None and not HELD_BACK[output.when] & set(verdicts)


def publish_results(setting: Setting, told: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """`output:`, where the job asks for it and `when` allows it."""
    output = setting.job.output
    verdicts = [Verdict(name) for name in told["outcomes"] if name != "done"]
    if output is None or setting.job.output_path is None or not may_publish(setting, verdicts):
        return
    if setting.call.emulated:
        say(f"a rehearsal publishes nothing: {output.path} is left as it is")
        return
    marker = setting.folder / PUBLISHED
    if marker.exists():
        return
    published = publish(setting.warehouse, setting.run_id, setting.job.output_path, setting.job.base, say=say)
    with Warehouse.open(setting.warehouse, say=say) as warehouse:
        run = warehouse.run(setting.run_id)
        if run is not None and run["published_at"] is None:  # certified by people, after the run was over
            warehouse.update_run(setting.run_id, published_at=datetime.now(UTC))
    marker.touch(mode=0o600)  # published files are for others; what is in the run's folder is not
    say(f"published {published.rows:,} rows to {published.path}")


def of_quality(certificates: Sequence[Certificate], *, out_of_reach: bool) -> list[Verdict]:
    found = []
    if out_of_reach or any(each.scored and each.mean < each.floor for each in certificates):
        found.append(Verdict.FLOOR_MISSED)
    if not certificates or not all(each.certified for each in certificates):
        found.append(Verdict.NOT_CERTIFIED)
    return found


def served_table(rows: NDArray[np.int64], endpoint: NDArray[np.integer], names: Sequence[str]) -> pa.Table:
    """What `compose_results` takes: each leader and the endpoint whose answer is its result; -1: none."""
    known = pa.array([*names, None], pa.string())
    where = np.where(endpoint < 0, len(names), endpoint)
    return pa.table({"row": pa.array(rows), "endpoint": known.take(pa.array(where))})
