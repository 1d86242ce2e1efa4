"""The end of a run: scores, certificates, verdicts and the summary."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from thirdshift.flows.console import money
from thirdshift.flows.planning.learner import drifts_of
from thirdshift.flows.quality import audit, baseline
from thirdshift.flows.quality.population import about, accepted
from thirdshift.flows.quality.publishing import PUBLISHED, may_publish
from thirdshift.flows.runs.context import RunContext
from thirdshift.flows.runs.summary import IssuedCertificate, RunSummary
from thirdshift.flows.verdicts import Verdict, exit_code, outcomes_of, status, verdicts_of
from thirdshift.router.certification.certificate import Certificate, Claim, ScoredSample, certify
from thirdshift.router.certification.scorers import Scorer, ScorerError, kind_of, score_batch
from thirdshift.router.values import FailureKind
from thirdshift.warehouse.store import ledger, observations, runs
from thirdshift.warehouse.store.judgements import record
from thirdshift.warehouse.store.reuse import reused
from thirdshift.warehouse.store.store import Warehouse

SCORES = """
select request_id, task, score from results where run_id = $run_id and score is not null order by request_id
"""
UNANSWERED = """
update results set score = 0
where run_id = $run_id and error is not null and score is null and request_id in (
    select q.request_id from requests q join scorable s on s.row = q.row where q.run_id = $run_id)
"""
ENDED = """
select count(*) as results, count(*) filter (where error is not null or not coalesce(valid, true)) as errors,
       avg(score) as mean_score
from results where run_id = $run_id
"""
"""An answer that does not satisfy its request's schema is of no more use than none."""

CERTIFICATE = """
select floor, confidence, basis, scorer, population, requests, scored, mean, lower_bound, certified, method
from certificates where run_id = $run_id and task is null order by issued_at desc
"""
OVERRUN = """
select endpoint, count(*) as attempts, sum(cost_usd)::double as billed_usd, sum(reserved_usd)::double as most_usd,
    bool_and(status = 'settled') as certain
from ledger
where run_id = $run_id and request_id is not null and cost_usd > reserved_usd and reserved_usd > 0
group by endpoint order by endpoint
"""
FOR_ALL = ("reference", "response_schema")
FOR_FUNCTIONS = (*FOR_ALL, "messages", "metadata")
"""Columns of the frozen input that scorers get, and those that a user's function gets."""
MOST_FAULTS = 3
"""How many of a function's faults are said one by one."""
Say = Callable[[str], None]
STOPS = {FailureKind.BUDGET: Verdict.BUDGET, FailureKind.DEADLINE: Verdict.DEADLINE}
"""Why requests were not sent, to what that makes of the run."""


def score_new(warehouse: Warehouse, run_id: str, scorer: Scorer, say: Say) -> tuple[int, float]:
    """Score every reply that has no score yet; return how many, and the sum of their scores.

    Rows that lack what the scorer needs are left alone; an answer that the user's function fails on scores 0, which is
    said.
    """
    scored, total = 0, 0.0
    now = datetime.now(UTC)
    faults: list[ScorerError] = []
    columns = FOR_FUNCTIONS if scorer.function is not None else FOR_ALL
    for batch in observations.unscored(warehouse, run_id, columns):
        scores = score_batch(scorer, batch, faults.append)
        known = ~np.isnan(scores)
        if not known.any():
            continue
        observations.append(
            warehouse, _observations(batch.filter(pa.array(known)), scores[known], run_id, scorer, now)
        )
        scored += int(known.sum())
        total += float(scores[known].sum())
    for fault in faults[:MOST_FAULTS]:
        say(f"{fault}; its answer scores 0")
    if len(faults) > MOST_FAULTS:
        say(f"scorer {scorer.name}: {len(faults) - MOST_FAULTS:,} more answers like these score 0")
    return scored, total


def unanswered_score_nothing(warehouse: Warehouse, run_id: str, scorable: NDArray[np.bool_]) -> None:
    """Give requests without an answer a score of 0, also where none was ever sent and there is nothing to observe.

    `scorable`: [rows].
    """
    rows = pa.table({"row": pa.array(np.flatnonzero(scorable))})
    warehouse.execute(UNANSWERED, tables={"scorable": rows}, run_id=run_id)


def _observations(
    batch: pa.RecordBatch, scores: NDArray[np.float64], run_id: str, scorer: Scorer, now: datetime
) -> pa.Table:
    count, at = batch.num_rows, pa.scalar(now, pa.timestamp("us", "UTC"))
    table = pa.Table.from_batches([batch]).select(["request_id", "task", "endpoint", "model", "purpose"])
    added = {
        "run_id": pa.array([run_id] * count),
        "score": pa.array(scores),
        "scorer": pa.array([scorer.name] * count),
        "basis": pa.array([kind_of(scorer).basis.value] * count),
        # a clock set back must not make a score older than its answer: it would be asked for again and again
        "observed_at": pc.if_else(pc.greater(batch["settled_at"], at), batch["settled_at"], at),
    }
    for name, values in added.items():
        table = table.append_column(name, values)
    return table


@dataclass(frozen=True, slots=True)
class Quality:
    """What a run claims of its quality."""

    certificates: tuple[Certificate, ...] = ()
    """The whole batch first, then tasks where the floor is per task."""

    @property
    def overall(self) -> Certificate | None:
        return self.certificates[0] if self.certificates else None


def quality_of(warehouse: Warehouse, context: RunContext) -> Quality:
    """Certificates from the scores of all results that can be scored; from the audit's where not all are looked at. Each
    says of how many requests it speaks, and of how many it does not."""
    scorer = context.scorer
    if scorer is None:
        return Quality()
    asked = context.job.quality
    whole = Claim(asked.floor, asked.confidence, kind_of(scorer).basis, scorer.shown)
    rows = _certificates(warehouse, context, whole)
    counts, of_part = accepted(warehouse, context.run_id), asked.population == "scorable"
    return Quality(about(rows, counts, whole, per_task=asked.per_task, of_part=of_part))


def _certificates(warehouse: Warehouse, context: RunContext, whole: Claim) -> Sequence[Certificate]:
    """Certify what can be scored, whatever that is a part of."""
    if context.judge is not None and record(warehouse, context.run_id).useless:
        return ()
    if not context.scores_all:
        return audit.certificates(warehouse, context)
    rows = warehouse.query(SCORES, run_id=context.run_id)
    scores = np.asarray(rows["score"], np.float64)
    if not len(scores):
        return ()
    if context.baseline is not None:
        return baseline.certificates(warehouse, context, whole)
    tasks = rows["task"].to_numpy() if context.job.quality.per_task else np.zeros(0)
    of_tasks = [
        _census(replace(whole, task=str(task)), scores[tasks == task]) for task in dict.fromkeys(tasks)
    ]
    return (_census(whole, scores), *of_tasks)


def _census(claim: Claim, scores: NDArray[np.float64]) -> Certificate:
    return certify(claim, ScoredSample(population=len(scores), known=scores, audit=np.zeros(0)))


def save_quality(warehouse: Warehouse, run_id: str, quality: Quality) -> None:
    now = datetime.now(UTC)
    rows = [
        {
            **asdict(certificate),
            "basis": certificate.basis.value,
            "method": certificate.method.value,
            "certified": certificate.certified,
        }
        for certificate in quality.certificates
    ]
    for row in rows:
        del row["of_part"]  # said by the job, and by `certified`
    if rows:
        table = pa.Table.from_pylist([row | {"run_id": run_id, "issued_at": now} for row in rows])
        task = table.column_names.index("task")
        observations.save_certificates(
            warehouse, table.set_column(task, "task", table["task"].cast(pa.string()))
        )


@dataclass(frozen=True, slots=True)
class FinishedFigures:
    """Figures of a run that is over."""

    results: int
    errors: int
    mean_score: float | None


def ended(warehouse: Warehouse, run_id: str) -> FinishedFigures:
    row = warehouse.query(ENDED, run_id=run_id).to_pylist()[0]
    return FinishedFigures(row["results"], row["errors"], row["mean_score"])


def finish(
    warehouse: Warehouse,
    context: RunContext,
    unsent: Collection[FailureKind],
    *,
    out_of_reach: bool,
    unapproved: bool = False,
) -> RunSummary:
    """Write down certificates, verdicts and the end of the run; return its summary.

    `unapproved`: what stopped it is not that the money was gone, but that nobody approved of the plan.
    """
    end = ended(warehouse, context.run_id)
    stopped = bool({FailureKind.BUDGET, FailureKind.DEADLINE} & set(unsent))
    quality = Quality() if stopped else quality_of(warehouse, context)
    save_quality(warehouse, context.run_id, quality)
    if context.judge is not None and record(warehouse, context.run_id).useless:
        out_of_reach = False  # nobody has said so
    most = ledger.spending(warehouse, context.run_id).most_usd
    overspent = context.cap_usd is not None and most > context.cap_usd
    verdicts = _verdicts(context, end, unsent, quality, out_of_reach=out_of_reach, overspent=overspent)
    if unapproved:
        verdicts = [Verdict.APPROVAL if verdict is Verdict.BUDGET else verdict for verdict in verdicts]
    published = context.job.output is None or may_publish(context, verdicts)
    (context.folder / PUBLISHED).unlink(missing_ok=True)
    runs.finish(
        warehouse,
        context.run_id,
        status=status(verdicts),
        outcomes=outcomes_of(verdicts),
        published=published,
    )
    return summary(warehouse, context, runs.get(warehouse, context.run_id) or {})


def _verdicts(
    context: RunContext,
    end: FinishedFigures,
    unsent: Collection[FailureKind],
    quality: Quality,
    *,
    out_of_reach: bool,
    overspent: bool,
) -> list[Verdict]:
    """Return every verdict that applies."""
    verdicts = [verdict for kind, verdict in STOPS.items() if kind in unsent]
    if overspent and Verdict.BUDGET not in verdicts:
        verdicts.insert(0, Verdict.BUDGET)
    if end.results and end.errors / end.results > context.job.tolerate.errors:
        verdicts.append(Verdict.ERRORS)
    if context.scorer is not None and context.job.quality.floor > 0:
        verdicts += of_quality(quality.certificates, out_of_reach=out_of_reach and not quality.certificates)
    return verdicts


def summary(warehouse: Warehouse, context: RunContext, run: Mapping[str, Any]) -> RunSummary:
    """Return the summary from the warehouse alone: the same for a run that was over before. `run`: its row of `runs`."""
    end = ended(warehouse, context.run_id)
    verdicts = verdicts_of(run["outcomes"] or ())
    cost = ledger.spending(warehouse, context.run_id)
    rows = warehouse.query(CERTIFICATE, run_id=context.run_id).to_pylist()
    certificate = IssuedCertificate(**rows[0]) if rows else None
    rejects = warehouse.query(
        "select count(*) as n from rejects where run_id = $run_id", run_id=context.run_id
    )
    answers = reused(warehouse, context.run_id)
    return RunSummary(
        run_id=context.run_id,
        exit=exit_code(verdicts),
        outcomes=tuple(outcomes_of(verdicts)),
        results=end.results,
        rejects=rejects["n"][0].as_py(),
        errors=end.errors,
        spent_usd=float(cost.settled_usd),
        unsettled_usd=float(cost.unsettled_usd),
        planned_usd=None if run["planned_usd"] is None else float(run["planned_usd"]),
        mean_score=end.mean_score
        if context.scores_all or certificate is None
        else _estimate(context, certificate),
        certificate=certificate,
        drift=drifts_of(context.folder),
        reused=int(answers["reused"]),
        reused_usd=float(answers["reused_usd"]),
        warehouse=str(context.warehouse),
        notes=_notes(warehouse, context),
    )


def _notes(warehouse: Warehouse, context: RunContext) -> tuple[str, ...]:
    """What else there is to know of the end."""
    notes = [
        f"{row['endpoint']} {'billed' if row['certain'] else 'may have billed'} {money(row['billed_usd'])} for "
        f"{row['attempts']:,} attempts that could cost {money(row['most_usd'])} at most by its own ceiling"
        for row in warehouse.query(OVERRUN, run_id=context.run_id).to_pylist()
    ]
    judged = record(warehouse, context.run_id) if context.judge is not None else None
    return (*notes, judged.sentence()) if judged is not None and judged.useless else tuple(notes)


def _estimate(context: RunContext, certificate: IssuedCertificate) -> float | None:
    """Estimate the mean of an audited run: results that have a score are no fair sample of all, as the worst were repaired.

    None where the certificate is of a share of an endpoint's mean.
    """
    return float(certificate.mean) if context.baseline is None and certificate.scored else None


def of_quality(certificates: Sequence[Certificate], *, out_of_reach: bool) -> list[Verdict]:
    verdicts = []
    if out_of_reach or any(certificate.missed for certificate in certificates):
        verdicts.append(Verdict.FLOOR_MISSED)
    if not certificates or not all(certificate.certified for certificate in certificates):
        verdicts.append(Verdict.NOT_CERTIFIED)
    return verdicts


def served_table(rows: NDArray[np.int64], endpoint: NDArray[np.integer], names: Sequence[str]) -> pa.Table:
    """What `results.compose` takes: each leader and the endpoint whose answer is its result; -1: none."""
    known = pa.array([*names, None], pa.string())
    where = np.where(endpoint < 0, len(names), endpoint)
    return pa.table({"row": pa.array(rows), "endpoint": known.take(pa.array(where))})
