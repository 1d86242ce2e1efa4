"""What workers leave in the journal and the `workers` table: attempts, leases of time, lives."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from thirdshift.engines.core.failures import NEXT_STEP
from thirdshift.engines.core.json import dumps
from thirdshift.engines.core.submission import Said
from thirdshift.engines.core.validation import judged
from thirdshift.engines.metered.queue import QueuedRequest
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.pricing.prices import price_id
from thirdshift.router.values import (
    Answer,
    Endpoint,
    Failure,
    FailureKind,
    Intent,
    LedgerStatus,
    Outcome,
    Purpose,
    Usage,
    usd,
)

ZERO = Decimal(0)


@dataclass(slots=True)
class WorkerLifetime:
    """A row of the table `workers`."""

    worker_id: str
    endpoint: str
    device: str
    pid: int
    started_at: datetime
    usd_per_hour: Decimal
    """What the plan reckons with, and the ledger holds."""
    accounting_usd_per_hour: Decimal | None = None
    """For charge-back only."""
    ready_at: datetime | None = None
    stopped_at: datetime | None = None
    cost_usd: Decimal = ZERO

    @property
    def accounting_usd(self) -> Decimal | None:
        """What its time is charged back at; None where its hours are paid, or it is still up."""
        if self.accounting_usd_per_hour is None or self.stopped_at is None:
            return None
        seconds = (self.stopped_at - self.started_at).total_seconds()
        return usd(self.accounting_usd_per_hour / 3600 * Decimal(seconds))


class WorkerRecords:
    """Writes the records of one endpoint's attempts and of its workers' time."""

    def __init__(self, endpoint: Endpoint, engine_context: EngineContext) -> None:
        self._endpoint, self._desk = endpoint, engine_context
        self._price_id = price_id(endpoint, endpoint.price.base)

    def overhead(self, run_id: str, worker_id: str, reserved_usd: Decimal) -> Intent:
        """The record of a lease of a worker's time."""
        return self._intent(run_id, reserved_usd, Purpose.OVERHEAD, worker_id=worker_id)

    def sent(self, jobs: Iterable[QueuedRequest], worker_id: str) -> None:
        """Before they go out. They reserve nothing: the worker's lease has reserved its seconds."""
        intents = []
        for job in jobs:
            shard = job.work.shard
            intent = self._intent(shard.run_id, ZERO, shard.purpose, job, worker_id)
            job.entry_id = intent.entry_id
            intents.append(intent)
        self._desk.journal.sent(intents)

    def answered(
        self, jobs: Sequence[QueuedRequest], told: Sequence[Mapping[str, Any]], costs: Sequence[Decimal]
    ) -> list[Said]:
        """What the model said to each, journalled at its share of the worker's time."""
        replies = [reply(job, one) for job, one in zip(jobs, told, strict=True)]
        self._desk.journal.settled(
            Outcome(
                job.entry_id,
                LedgerStatus.SETTLED,
                cost,
                datetime.now(UTC),
                usage(one),
                self._endpoint.model,
                reply=said,
                final=not asks_again(job, said),
            )
            for job, one, said, cost in zip(jobs, told, replies, costs, strict=True)
        )
        return replies

    def failed(self, jobs: Iterable[tuple[QueuedRequest, Failure | None]], *, final: bool) -> None:
        """Attempts without an answer; nothing is charged to them. None: given up, and to be asked anew."""
        now = datetime.now(UTC)
        self._desk.journal.settled(
            Outcome(
                job.entry_id,
                LedgerStatus.UNSETTLED if said is None else NEXT_STEP[said.kind].ledger,
                ZERO,
                now,
                reply=said,
                final=final,
            )
            for job, said in jobs
        )

    def unsent(self, jobs: Sequence[tuple[QueuedRequest, Failure]]) -> None:
        """Requests that reached no worker, with why: nothing was billed."""
        self.sent([job for job, _ in jobs], "")
        now = datetime.now(UTC)
        self._desk.journal.settled(
            Outcome(job.entry_id, LedgerStatus.VOID, ZERO, now, reply=said) for job, said in jobs
        )

    def _intent(
        self,
        run_id: str,
        reserved: Decimal,
        purpose: Purpose,
        job: QueuedRequest | None = None,
        worker_id: str = "",
    ) -> Intent:
        end = self._endpoint
        return Intent(
            entry_id=os.urandom(16).hex(),
            run_id=run_id,
            shard_id=None if job is None else job.work.shard.shard_id,
            row=None if job is None else job.request.row,
            request_id=None if job is None else job.request.request_id,
            endpoint=end.name,
            model=end.model,
            provider=end.provider,
            mode=end.mode,
            purpose=purpose,
            attempt=1 if job is None else job.attempt,
            reserved_usd=reserved,
            started_at=datetime.now(UTC),
            price_id=self._price_id,
            region=end.facts.region,
            provider_ref=worker_id or None,
        )


def usage(told: Mapping[str, Any]) -> Usage:
    return Usage(told["input_tokens"], told["output_tokens"], told["cached_tokens"], told["reasoning_tokens"])


def reply(job: QueuedRequest, told: Mapping[str, Any]) -> Said:
    """A worker's answer as a value."""
    request, text, reason = job.request, told["text"], told["finish_reason"]
    if not text and reason == "length":
        message = "the answer was cut at max_tokens before its first word (reasoning used them up)"
        return failure(job, FailureKind.CUT_EMPTY, message)
    text, valid, _ = judged(request.response_schema, text)
    logprobs = dumps(told["logprobs"]).decode() if told.get("logprobs") else None
    return Answer(request.row, request.request_id, text, reason, told["reasoning"], valid, logprobs)


def asks_again(job: QueuedRequest, said: Said) -> bool:
    """Whether an answer of no use is asked for once more; `max_tokens` is then larger."""
    cut = isinstance(said, Failure) and said.kind is FailureKind.CUT_EMPTY
    return cut and job.cuts + 1 < NEXT_STEP[FailureKind.CUT_EMPTY].attempts


def failure(job: QueuedRequest, kind: FailureKind, message: str) -> Failure:
    return Failure(job.request.row, job.request.request_id, kind, message)
