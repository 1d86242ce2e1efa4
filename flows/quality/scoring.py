"""Scores that cost money: a judge's, agreement with the baseline endpoint's answers, a costly function's.

What is known lies in the warehouse, so that a resumed run asks for the rest only: a judge's calls are shards like any
other (rows, journal, ledger, cap), their verdicts become observations of the answers that they are about.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from thirdshift.engines.core.budget import RunBudget, SubBudget
from thirdshift.flows.dispatch.work import ShardWork
from thirdshift.flows.planning.input import PreparedInput
from thirdshift.flows.planning.tiers import realtime_counterparts
from thirdshift.flows.quality.questions import Questions, pairs, question_of
from thirdshift.flows.runs.context import RunContext
from thirdshift.router.certification.comparisons import agrees
from thirdshift.router.certification.judge import LETTERS_PER_TOKEN, OWN_WORDS, USUAL_VERDICT, Judge, verdict
from thirdshift.router.certification.scorers import Basis, ScorerError, score_batch
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.policy import masks
from thirdshift.router.values import Purpose
from thirdshift.warehouse.store import observations, prices
from thirdshift.warehouse.store.judgements import PROBE, answers, keep, known, record, replies
from thirdshift.warehouse.store.store import Warehouse

ASKED = 2
"""How often a judge that fails to answer is asked the same: an outage may be over the second time."""
SPENT = """
select coalesce(sum(cost_usd), 0) as usd from ledger
where run_id = $run_id and purpose = 'judge' and status <> 'reserved'
"""
JUDGED = "select count(*) from judgements where run_id = $run_id"
AUDITED = "select count(distinct row) from responses where run_id = $run_id and purpose = 'audit'"
SCORED = "select count(*) from observations where run_id = $run_id and basis <> 'human'"


@dataclass(frozen=True, slots=True)
class ScoringRequest:
    """A shard to be sent so that answers can be scored."""

    purpose: Purpose
    endpoint: str
    rows: NDArray[np.int64]
    subject: str | None = None
    """Whose answers a judge is asked about."""


class Scoring:
    """Gets the scores of one run that cost money."""

    def __init__(self, context: RunContext, batch: PreparedInput) -> None:
        self.context = context
        self._leader = batch.leader
        self.may_see = _seen_by_scorers(context, batch)
        """[rows] whether no policy keeps it from who is asked for scores."""
        self._tried: set[str] = set()
        """Rows that this process has asked the baseline endpoint, or noted as judged in vain."""
        self._asked: Counter[str] = Counter()
        """How often this process has asked the judge a question, by the question's key."""
        self.baselines = baselines_of(context)

    def due(
        self, warehouse: Warehouse, wanted: pa.Table, purpose: Purpose, allowed: int | None
    ) -> list[ScoringRequest]:
        """Score what can be scored of `wanted`; return what must be asked before the rest can be.

        `wanted` (row, endpoint) is asked for in its order. `allowed`: scores that may be paid for in this run so far;
        None: as many as it takes.
        """
        self.take_in(warehouse)
        place = {
            pair: k
            for k, pair in enumerate(zip(*(wanted[n].to_pylist() for n in ("row", "endpoint")), strict=True))
        }
        unscored = answers(warehouse, self.context.run_id, wanted, unscored=True).to_pylist()
        unscored.sort(key=lambda answer: place[answer["row"], answer["endpoint"]])
        left = None if allowed is None else max(0, allowed - self.used(warehouse))
        if purpose is Purpose.PILOT:
            left = self._half_of_the_money(warehouse, unscored, left)
        if self.context.judge is not None:
            scores, asking = self._judged(warehouse, self.context.judge, unscored, left)
        elif self.baselines and self.context.basis is Basis.AGREEMENT:
            scores, asking = self._agreed(warehouse, unscored, left)
        else:
            scores, asking = self._called(unscored, left)
        self._observe(warehouse, unscored, scores, purpose)
        return asking

    def _half_of_the_money(
        self, warehouse: Warehouse, unscored: Sequence[Mapping[str, Any]], left: int | None
    ) -> int | None:
        """Return how many answers the pilot may have judged; about half of the judge's money is left for the audit."""
        judge, most = self.context.judge, self.context.judge_usd
        if judge is None or most is None or not unscored:
            return left
        price = judge.endpoint.price.base
        letters = sum(len(answer["messages"]) + len(answer["output"] or "") for answer in unscored) / len(
            unscored
        )
        tokens = (OWN_WORDS + len(judge.rubric) + letters) / LETTERS_PER_TOKEN
        each_usd = float(price.input) * 1e-6 * tokens + float(price.output) * 1e-6 * USUAL_VERDICT
        room = (
            float(most) / 2 - float(warehouse.query(SPENT, run_id=self.context.run_id)["usd"][0].as_py())
        ) / max(each_usd, 1e-12)
        return max(0, int(min(room, len(unscored) if left is None else left)))

    @property
    def _by_function(self) -> bool:
        return self.context.scorer is not None and self.context.scorer.function is not None

    def used(self, warehouse: Warehouse) -> int:
        """Return the number of scores that this run has paid for."""
        sql = SCORED if self._by_function else AUDITED if self.context.judge is None else JUDGED
        return int(warehouse.scalar(sql, run_id=self.context.run_id))

    # --- a judge ------------------------------------------------------------------------------------------------------

    def _judged(
        self, warehouse: Warehouse, judge: Judge, unscored: Sequence[Mapping[str, Any]], left: int | None
    ) -> tuple[list[float | None], list[ScoringRequest]]:
        """Return known verdicts and what to ask. A missing answer scores 0 unasked; equal questions are asked once."""
        keys = [None if answer["output"] is None else judge.key(question_of(answer)) for answer in unscored]
        verdicts = known(warehouse, self.context.run_id, [key for key in keys if key is not None])
        fresh: dict[str, Mapping[str, Any]] = {}
        vain = []
        for answer, key in zip(unscored, keys, strict=True):
            if key is not None and not self.may_see[answer["row"]]:
                continue  # answered before a policy kept it from the judge
            if key is not None and key not in verdicts and self._asked[key] < ASKED:
                fresh.setdefault(key, answer)
            elif (
                key is not None
                and verdicts.get(key, 0.0) is None
                and f"vain {answer['row']}" not in self._tried
            ):
                self._tried.add(f"vain {answer['row']}")
                vain.append((key, answer["request_id"], answer["endpoint"], None))
        self._keep(warehouse, judge, vain)
        so_far = record(warehouse, self.context.run_id)
        if not so_far.verdicts:  # a handful tells whether it gives verdicts at all
            left = min(PROBE - min(so_far.vain, PROBE), len(fresh) if left is None else left)
        asked = {} if so_far.useless else dict(islice(fresh.items(), left))
        self._asked.update(asked.keys())
        by_subject: dict[str, list[int]] = {}
        for answer in asked.values():
            by_subject.setdefault(answer["endpoint"], []).append(answer["row"])
        scores = [0.0 if key is None else verdicts.get(key) for key in keys]
        name = judge.endpoint.name
        return scores, [
            ScoringRequest(Purpose.JUDGE, name, np.array(rows, np.int64), subject)
            for subject, rows in by_subject.items()
        ]

    def take_in(self, warehouse: Warehouse) -> None:
        """Turn the judge's replies that came since into verdicts."""
        judge, run_id = self.context.judge, self.context.run_id
        verdict_replies = replies(warehouse, run_id) if judge is not None else None
        if judge is None or verdict_replies is None or not verdict_replies.num_rows:
            return
        outputs = {(row["row"], row["subject"]): row["output"] for row in verdict_replies.to_pylist()}
        judged = pairs(verdict_replies["row"].to_pylist(), verdict_replies["subject"].to_pylist())
        about = answers(warehouse, run_id, judged, unscored=False)
        verdicts = []
        for answer in about.to_pylist():
            score = verdict(outputs[answer["row"], answer["endpoint"]])
            verdicts.append((judge.key(question_of(answer)), answer["request_id"], answer["endpoint"], score))
        self._keep(warehouse, judge, verdicts)

    def _keep(
        self, warehouse: Warehouse, judge: Judge, verdicts: Sequence[tuple[str, str, str, float | None]]
    ) -> None:
        if not verdicts:
            return
        key, request_id, endpoint, score = zip(*verdicts, strict=True)
        size = len(verdicts)
        columns = {
            "key": pa.array(key, pa.string()),
            "run_id": pa.array([self.context.run_id] * size),
            "request_id": pa.array(request_id, pa.string()),
            "endpoint": pa.array(endpoint, pa.string()),
            "judge": pa.array([judge.name] * size),
            "score": pa.array(score, pa.float64()),
            "judged_at": pa.array([datetime.now(UTC)] * size, pa.timestamp("us", "UTC")),
        }
        keep(warehouse, pa.table(columns))

    def filled(self, work: ShardWork) -> ShardWork:
        """Return a judge's shard with the questions that it sends.

        The warehouse knows whose answers an adopted shard is about.
        """
        judge, context = self.context.judge, self.context
        if judge is None or work.purpose is not Purpose.JUDGE:
            return work
        subject = work.subject
        if subject is None:
            with Warehouse.open(context.warehouse) as warehouse:
                shards = warehouse.query(
                    "select subject from shards where run_id = $run_id and shard_id = $shard",
                    run_id=context.run_id,
                    shard=work.shard_id,
                )
            subject = shards["subject"][0].as_py()
        temperature = None if context.job.request.temperature is None else 0.0
        source = Questions(context.warehouse, context.run_id, judge, work.unanswered, subject, temperature)
        return replace(work, subject=subject, requests=source)

    # --- the baseline ---------------------------------------------------------------------------------------------------

    def _agreed(
        self, warehouse: Warehouse, unscored: Sequence[Mapping[str, Any]], left: int | None
    ) -> tuple[list[float | None], list[ScoringRequest]]:
        """Score agreement with the baseline's answer; where the baseline failed, nothing agrees with it."""
        held = self.baseline_answers(warehouse, [answer["row"] for answer in unscored])
        scores: list[float | None] = []
        for answer in unscored:
            if answer["output"] is None:
                scores.append(0.0)
            elif answer["endpoint"] in self.baselines:
                scores.append(1.0)
            elif answer["row"] in held:
                baseline = held[answer["row"]]
                scores.append(0.0 if baseline is None else agrees(answer["output"], baseline))
            else:
                scores.append(None)
        missing = [answer["row"] for answer, score in zip(unscored, scores, strict=True) if score is None]
        return scores, self.baseline_requests(missing, left)

    def baseline_answers(self, warehouse: Warehouse, rows: Sequence[int]) -> dict[int, str | None]:
        """Return the baseline's answers by row; None: it failed. Rows that it was not asked are left out."""
        wanted = pairs([row for row in rows for _ in self.baselines], [*self.baselines] * len(rows))
        held_answers = answers(warehouse, self.context.run_id, wanted, unscored=False).to_pylist()
        held: dict[int, str | None] = {}
        for answer in held_answers:
            held[answer["row"]] = answer["output"] if held.get(answer["row"]) is None else held[answer["row"]]
        return held

    def baseline_requests(self, rows: Sequence[int], left: int | None) -> list[ScoringRequest]:
        """Have the baseline endpoint answer these requests, once each."""
        leaders = dict.fromkeys(self._leader[np.array(rows, np.int64)].tolist())
        fresh = [f"{row}" for row in leaders if f"{row}" not in self._tried and self.may_see[row]][:left]
        self._tried |= set(fresh)
        if not fresh:
            return []
        return [ScoringRequest(Purpose.AUDIT, self.baselines[-1], np.array(fresh, np.int64))]

    # --- a function, and what all of them end in ----------------------------------------------------------------------

    def _called(
        self, unscored: Sequence[Mapping[str, Any]], left: int | None
    ) -> tuple[list[float | None], list[ScoringRequest]]:
        scorer = self.context.scorer
        if scorer is None or not unscored:
            return [None] * len(unscored), []
        faults: list[ScorerError] = []
        table = pa.Table.from_pylist([*unscored[:left]])
        values = score_batch(scorer, table, faults.append).tolist() if table.num_rows else []
        scores = [None if math.isnan(value) else value for value in values]
        return [*scores, *[None] * (len(unscored) - len(scores))], []

    def _observe(
        self,
        warehouse: Warehouse,
        unscored: Sequence[Mapping[str, Any]],
        scores: Sequence[float | None],
        purpose: Purpose,
    ) -> None:
        scorer = self.context.scorer
        scored = [
            (answer, score) for answer, score in zip(unscored, scores, strict=True) if score is not None
        ]
        if scorer is None or not scored:
            return
        same = {
            "run_id": self.context.run_id,
            "scorer": scorer.shown,
            "basis": self.context.basis.value,
            "purpose": purpose.value,
            "observed_at": datetime.now(UTC),
        }
        names = ("request_id", "task", "endpoint", "model")
        rows = [{name: answer[name] for name in names} | {"score": score} | same for answer, score in scored]
        types = [(name, pa.string()) for name in (*names, "run_id", "scorer", "basis", "purpose")]
        schema = pa.schema([*types, ("score", pa.float64()), ("observed_at", pa.timestamp("us", "UTC"))])
        observations.append(warehouse, pa.Table.from_pylist(rows, schema))


def judge_context(warehouse: Warehouse, context: RunContext, engine_context: EngineContext) -> EngineContext:
    """Return the engine context of judges' calls: the run's, with a budget of what judging may still cost.

    The judge's prices are saved.
    """
    if context.judge is not None:
        rows = prices.price_rows((context.judge.endpoint,), context.clock())
        prices.save(warehouse, context.run_id, rows, choosable=False)
    if context.judge_usd is None:
        return engine_context
    spent = Decimal(warehouse.query(SPENT, run_id=context.run_id)["usd"][0].as_py())
    limit = judges_limit(context.judge_usd, spent, engine_context.committed)
    return replace(engine_context, budget=SubBudget(engine_context.budget, limit))


def judges_limit(
    most_usd: Decimal, spent_usd: Decimal, committed: Mapping[str, Mapping[str, Decimal]]
) -> RunBudget:
    """Return the budget of judging.

    `spent_usd` is the ledger's; what an earlier process's batches can cost yet is reserved (`committed`, as
    `values.EngineContext.committed`).
    """
    adopted = [shard for shard in committed if shard.split("-")[1] == Purpose.JUDGE]
    held = [usd for shard in adopted for usd in committed[shard].values()]
    return RunBudget(most_usd, spent_usd, sum(held, Decimal(0)))


def kept_for_judging(engine_context: EngineContext, budget: RunBudget) -> Decimal:
    """Return what a plan leaves for the judge: its budget, but never more than half of what is left."""
    left = budget.left_usd
    limit = engine_context.budget.limit.left_usd if isinstance(engine_context.budget, SubBudget) else None
    return Decimal(0) if left is None or limit is None else max(min(limit, left / 2), Decimal(0))


def baselines_of(context: RunContext) -> list[str]:
    """Return the endpoint that the floor or the agreement is relative to, and its real-time counterpart if it is a batch
    tier; the last one is the one to ask.
    """
    if context.baseline is None:
        return []
    realtime_counterpart = int(realtime_counterparts(context.endpoints)[context.baseline])
    return [context.endpoints[e].name for e in (context.baseline, realtime_counterpart) if e >= 0]


def judgeable(context: RunContext, batch: PreparedInput) -> PreparedInput:
    """Return the input without, among `scorable`, the requests that the job's policies keep from who must see them for
    their answers to be scored: the judge, and the endpoint that a floor is relative to.
    """
    return replace(batch, scorable=batch.scorable & _seen_by_scorers(context, batch))


def _seen_by_scorers(context: RunContext, batch: PreparedInput) -> NDArray[np.bool_]:
    """[rows] whether all who are asked for scores may see it. Requests with one answer are kept from them together."""
    judges = [] if context.judge is None else [context.judge.endpoint]
    baseline = baselines_of(context)[-1:]
    asked = [*judges, *(endpoint for endpoint in context.endpoints if endpoint.name in baseline)]
    if not asked:
        return np.ones(len(batch.leader), np.bool_)
    may = masks(asked, context.policy, list(context.policies.values()))[batch.policy].all(axis=1)
    all_may = np.bincount(batch.leader, ~may, len(batch.leader)) == 0
    seen: NDArray[np.bool_] = all_may[batch.leader]
    return seen
