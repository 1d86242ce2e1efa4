"""Scores that have to be asked for: of a judge, of the anchor whose answers are agreed with, of a costly function.

What is known lies in the warehouse, so that a resumed run asks for the rest only: a judge's calls are shards like any
other (rows, journal, ledger, cap), their verdicts become observations of the answers that they are about.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from thirdshift.engines.core.budget import RunBudget, SubBudget
from thirdshift.flows.dispatch.work import ShardWork
from thirdshift.flows.planning.input import PreparedInput
from thirdshift.flows.planning.tiers import realtime_counterparts
from thirdshift.flows.runs.context import RunContext
from thirdshift.router.certification.judge import OWN_WORDS, VERDICT, VERDICT_TOKENS, Judge, Question, verdict
from thirdshift.router.certification.scorers import Basis, ScorerError, agrees, kind_of, score_batch
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.policy import masks
from thirdshift.router.values import Purpose, Request
from thirdshift.warehouse.journal.journal import attempts
from thirdshift.warehouse.store import observations, prices
from thirdshift.warehouse.store.judgements import PROBE, answers, keep, known, record, replies
from thirdshift.warehouse.store.store import Warehouse

WINDOW = 512
"""Answers that a judge's shard holds in memory at once."""
LETTERS_PER_TOKEN = 3.0
"""A cautious guess: it only divides money between pilot and audit."""
USUAL_VERDICT = 60
"""Tokens of a verdict, likewise."""
ASKED = 2
"""Times a judge is asked that fails to answer: an outage may be over the second time."""
SPENT = "select coalesce(sum(cost_usd), 0) as usd from ledger where run_id = $run_id and purpose = 'judge'"
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


def pairs(row: Sequence[int] | NDArray[np.int64], endpoint: Sequence[str]) -> pa.Table:
    """Answers by request's row and endpoint."""
    return pa.table({"row": pa.array(row, pa.int64()), "endpoint": pa.array(endpoint, pa.string())})


class Scoring:
    """Knows how one night's costly scores are had."""

    def __init__(self, context: RunContext, batch: PreparedInput) -> None:
        self.context = context
        self._leader = batch.leader
        self._tried: set[str] = set()
        """What this process has asked the anchor, or noted as judged in vain."""
        self._asked: Counter[str] = Counter()
        """How often it has asked the judge a question."""
        self.baselines = anchors_of(context)

    def due(
        self, w: Warehouse, wanted: pa.Table, purpose: Purpose, allowed: int | None
    ) -> list[ScoringRequest]:
        """Score what can be scored of `wanted`, and say what must be asked before the rest can be.

        `wanted` (row, endpoint) is asked for in its order. `allowed`: scores that may be paid for in this run so far;
        None: as many as it takes.
        """
        self.take_in(w)
        place = {
            pair: k
            for k, pair in enumerate(zip(*(wanted[n].to_pylist() for n in ("row", "endpoint")), strict=True))
        }
        found = answers(w, self.context.run_id, wanted, unscored=True).to_pylist()
        found.sort(key=lambda each: place[each["row"], each["endpoint"]])
        left = None if allowed is None else max(0, allowed - self.used(w))
        if purpose is Purpose.PILOT:
            left = self._half_of_the_money(w, found, left)
        if self.context.judge is not None:
            scores, asking = self._judged(w, self.context.judge, found, left)
        elif self.baselines and basis_of(self.context) is Basis.AGREEMENT:
            scores, asking = self._agreed(w, found, left)
        else:
            scores, asking = self._called(found, left)
        self._observe(w, found, scores, purpose)
        return asking

    def _half_of_the_money(
        self, w: Warehouse, found: Sequence[Mapping[str, Any]], left: int | None
    ) -> int | None:
        """What the pilot may have judged, so that about half of the judge's money is left for the audit."""
        judge, most = self.context.judge, self.context.judge_usd
        if judge is None or most is None or not found:
            return left
        price = judge.endpoint.price.base
        letters = sum(len(each["messages"]) + len(each["output"] or "") for each in found) / len(found)
        tokens = (OWN_WORDS + len(judge.rubric) + letters) / LETTERS_PER_TOKEN
        each_usd = float(price.input) * 1e-6 * tokens + float(price.output) * 1e-6 * USUAL_VERDICT
        room = (float(most) / 2 - float(w.query(SPENT, run_id=self.context.run_id)["usd"][0].as_py())) / max(
            each_usd, 1e-12
        )
        return max(0, int(min(room, len(found) if left is None else left)))

    @property
    def _by_function(self) -> bool:
        return self.context.scorer is not None and self.context.scorer.function is not None

    def used(self, w: Warehouse) -> int:
        """Scores that this run has paid for."""
        sql = SCORED if self._by_function else AUDITED if self.context.judge is None else JUDGED
        return int(w.scalar(sql, run_id=self.context.run_id))

    # --- a judge ------------------------------------------------------------------------------------------------------

    def _judged(
        self, w: Warehouse, judge: Judge, found: Sequence[Mapping[str, Any]], left: int | None
    ) -> tuple[list[float | None], list[ScoringRequest]]:
        """An answer that is none scores 0 and needs no judge; equal questions are asked once."""
        keys = [None if each["output"] is None else judge.key(_question(each)) for each in found]
        verdicts = known(w, self.context.run_id, [key for key in keys if key is not None])
        fresh: dict[str, Mapping[str, Any]] = {}
        vain = []
        for each, key in zip(found, keys, strict=True):
            if key is not None and key not in verdicts and self._asked[key] < ASKED:
                fresh.setdefault(key, each)
            elif (
                key is not None
                and verdicts.get(key, 0.0) is None
                and f"vain {each['row']}" not in self._tried
            ):
                self._tried.add(f"vain {each['row']}")
                vain.append((key, each["request_id"], each["endpoint"], None))
        self._keep(w, judge, vain)
        so_far = record(w, self.context.run_id)
        if not so_far.verdicts:  # a handful tells whether it gives verdicts at all
            left = min(PROBE - min(so_far.vain, PROBE), len(fresh) if left is None else left)
        asked = {} if so_far.useless else dict(islice(fresh.items(), left))
        self._asked.update(asked.keys())
        by_subject: dict[str, list[int]] = {}
        for each in asked.values():
            by_subject.setdefault(each["endpoint"], []).append(each["row"])
        scores = [0.0 if key is None else verdicts.get(key) for key in keys]
        name = judge.endpoint.name
        return scores, [
            ScoringRequest(Purpose.JUDGE, name, np.array(rows, np.int64), subject)
            for subject, rows in by_subject.items()
        ]

    def take_in(self, w: Warehouse) -> None:
        """What judges have said since, among the verdicts."""
        judge, run_id = self.context.judge, self.context.run_id
        said = replies(w, run_id) if judge is not None else None
        if judge is None or said is None or not said.num_rows:
            return
        told = {(row["row"], row["subject"]): row["output"] for row in said.to_pylist()}
        about = answers(
            w, run_id, pairs(said["row"].to_pylist(), said["subject"].to_pylist()), unscored=False
        )
        verdicts = []
        for each in about.to_pylist():
            score = verdict(told[each["row"], each["endpoint"]])
            verdicts.append((judge.key(_question(each)), each["request_id"], each["endpoint"], score))
        self._keep(w, judge, verdicts)

    def _keep(
        self, w: Warehouse, judge: Judge, verdicts: Sequence[tuple[str, str, str, float | None]]
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
        keep(w, pa.table(columns))

    def filled(self, work: ShardWork) -> ShardWork:
        """A judge's shard with what it sends; one that was adopted is asked the warehouse whose answers it is about."""
        judge, context = self.context.judge, self.context
        if judge is None or work.purpose is not Purpose.JUDGE:
            return work
        subject = work.subject
        if subject is None:
            with Warehouse.open(context.warehouse) as w:
                told = w.query(
                    "select subject from shards where run_id = $run_id and shard_id = $shard",
                    run_id=context.run_id,
                    shard=work.shard_id,
                )
            subject = told["subject"][0].as_py()
        temperature = None if context.job.request.temperature is None else 0.0
        source = Questions(context.warehouse, context.run_id, judge, work.unanswered, subject, temperature)
        return replace(work, subject=subject, requests=source)

    # --- the anchor ---------------------------------------------------------------------------------------------------

    def _agreed(
        self, w: Warehouse, found: Sequence[Mapping[str, Any]], left: int | None
    ) -> tuple[list[float | None], list[ScoringRequest]]:
        """Agreement with the anchor's answer; where the anchor has none, nothing agrees with it."""
        held = self.anchored(w, [each["row"] for each in found])
        scores: list[float | None] = []
        for each in found:
            if each["output"] is None:
                scores.append(0.0)
            elif each["endpoint"] in self.baselines:
                scores.append(1.0)
            elif each["row"] in held:
                baseline = held[each["row"]]
                scores.append(0.0 if baseline is None else agrees(each["output"], baseline))
            else:
                scores.append(None)
        missing = [each["row"] for each, score in zip(found, scores, strict=True) if score is None]
        return scores, self.looks(missing, left)

    def anchored(self, w: Warehouse, rows: Sequence[int]) -> dict[int, str | None]:
        """The anchor's answers to these requests; None: it failed at it. Those it was not asked are left out."""
        wanted = pairs([row for row in rows for _ in self.baselines], [*self.baselines] * len(rows))
        found = answers(w, self.context.run_id, wanted, unscored=False).to_pylist()
        held: dict[int, str | None] = {}
        for each in found:
            held[each["row"]] = each["output"] if held.get(each["row"]) is None else held[each["row"]]
        return held

    def looks(self, rows: Sequence[int], left: int | None) -> list[ScoringRequest]:
        """Have the anchor answer these requests, once each."""
        leaders = [f"{row}" for row in dict.fromkeys(self._leader[np.array(rows, np.int64)].tolist())]
        fresh = [row for row in leaders if row not in self._tried][:left]
        self._tried |= set(fresh)
        if not fresh:
            return []
        return [ScoringRequest(Purpose.AUDIT, self.baselines[-1], np.array(fresh, np.int64))]

    # --- a function, and what all of them end in ----------------------------------------------------------------------

    def _called(
        self, found: Sequence[Mapping[str, Any]], left: int | None
    ) -> tuple[list[float | None], list[ScoringRequest]]:
        scorer = self.context.scorer
        if scorer is None or not found:
            return [None] * len(found), []
        faults: list[ScorerError] = []
        told = pa.Table.from_pylist([*found[:left]])
        values = score_batch(scorer, told, faults.append).tolist() if told.num_rows else []
        scores = [None if math.isnan(value) else value for value in values]
        return [*scores, *[None] * (len(found) - len(scores))], []

    def _observe(
        self,
        w: Warehouse,
        found: Sequence[Mapping[str, Any]],
        scores: Sequence[float | None],
        purpose: Purpose,
    ) -> None:
        scorer = self.context.scorer
        scored = [(each, score) for each, score in zip(found, scores, strict=True) if score is not None]
        if scorer is None or not scored:
            return
        same = {
            "run_id": self.context.run_id,
            "scorer": scorer.shown,
            "basis": basis_of(self.context).value,
            "purpose": purpose.value,
            "observed_at": datetime.now(UTC),
        }
        names = ("request_id", "task", "endpoint", "model")
        rows = [{name: each[name] for name in names} | {"score": score} | same for each, score in scored]
        types = [(name, pa.string()) for name in (*names, "run_id", "scorer", "basis", "purpose")]
        schema = pa.schema([*types, ("score", pa.float64()), ("observed_at", pa.timestamp("us", "UTC"))])
        observations.append(w, pa.Table.from_pylist(rows, schema))


@dataclass(frozen=True, slots=True)
class Questions:
    """`values.RequestSource` of a judge's shard: made anew from the warehouse whenever it is read, so that no answer
    lies on disk a second time."""

    warehouse: Path
    run_id: str
    judge: Judge
    rows: NDArray[np.int64]
    subject: str
    temperature: float | None

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Request]:
        for start in range(0, len(self.rows), WINDOW):
            wanted = self.rows[start : start + WINDOW]
            with Warehouse.open(self.warehouse) as w:
                found = answers(w, self.run_id, pairs(wanted, [self.subject] * len(wanted)), unscored=False)
            told = {each["row"]: each for each in found.to_pylist()}
            yield from (self._request(told[row]) for row in wanted.tolist())

    def _request(self, told: Mapping[str, Any]) -> Request:
        question = _question(told)
        return Request(
            row=told["row"],
            request_id=told["request_id"],
            request_hash=self.judge.key(question),
            task=told["task"],
            messages=self.judge.messages(question),
            max_tokens=VERDICT_TOKENS,
            temperature=self.temperature,
            response_schema=VERDICT,
        )


def _question(told: Mapping[str, Any]) -> Question:
    return Question(tuple(json.loads(told["messages"])), told["output"] or "", told["reference"])


def judge_context(w: Warehouse, context: RunContext, engine_context: EngineContext) -> EngineContext:
    """The desk of judges' calls: of the run's money as much as judging may cost, less what it has cost so far. What the
    judge takes is put on record."""
    if context.judge is not None:
        rows = prices.price_rows((context.judge.endpoint,), context.clock())
        prices.save(w, context.run_id, rows, choosable=False)
    if context.judge_usd is None:
        return engine_context
    spent = Decimal(w.query(SPENT, run_id=context.run_id)["usd"][0].as_py())
    limit = judges_limit(context.folder, context.judge_usd, spent, engine_context.committed)
    return replace(engine_context, budget=SubBudget(engine_context.budget, limit))


def judges_limit(
    folder: Path, most_usd: Decimal, spent_usd: Decimal, committed: Mapping[str, Mapping[str, Decimal]]
) -> RunBudget:
    """What judging may cost. `spent_usd` is the ledger's; what an earlier process's batches have cost beyond it stands
    in their open journals, and what they can cost yet is set aside (`committed`, as `values.EngineContext.committed`)."""
    adopted = [shard for shard in committed if shard.split("-")[1] == Purpose.JUDGE]
    booked = [made.cost_usd for shard in adopted for _, made in attempts(folder, shard) if made is not None]
    held = [usd for shard in adopted for usd in committed[shard].values()]
    return RunBudget(most_usd, sum(booked, spent_usd), sum(held, Decimal(0)))


def kept_for_judging(engine_context: EngineContext, budget: RunBudget) -> Decimal:
    """What a plan leaves for the judge: its money, but never more than half of what there is."""
    left = budget.left_usd
    limit = engine_context.budget.limit.left_usd if isinstance(engine_context.budget, SubBudget) else None
    return Decimal(0) if left is None or limit is None else max(min(limit, left / 2), Decimal(0))


def anchors_of(context: RunContext) -> list[str]:
    """The endpoint that the floor or the agreement is relative to; where it is a batch tier, also who gives the same
    answers at once, and that one is asked."""
    if context.baseline is None:
        return []
    realtime_counterpart = int(realtime_counterparts(context.endpoints)[context.baseline])
    return [context.endpoints[e].name for e in (context.baseline, realtime_counterpart) if e >= 0]


def basis_of(context: RunContext) -> Basis:
    """Whose opinion the job's scores are."""
    if context.scorer is None:
        raise ValueError("no scorer, no opinion")
    return kind_of(context.scorer).basis


def judgeable(context: RunContext, batch: PreparedInput) -> PreparedInput:
    """`scorable` without the requests that policy lets the judge not see, be it for one of their duplicates."""
    if context.judge is None:
        return batch
    may = masks((context.judge.endpoint,), context.policy, list(context.policies.values()))[batch.policy, 0]
    all_may = np.bincount(batch.leader, ~may, len(batch.leader)) == 0
    return replace(batch, scorable=batch.scorable & all_may[batch.leader])
