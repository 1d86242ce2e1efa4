"""What workers leave in the journal and the `workers` table: attempts, leases of time, lifetimes."""

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
    node: str = ""
    """The machine that it runs on."""
    hardware: str = ""
    """What of it, as in the table `rates`."""
    usd_per_kwh: Decimal | None = None
    """For charge-back only."""
    ready_at: datetime | None = None
    stopped_at: datetime | None = None
    paid_until: datetime | None = None
    """Until when what it ran on is paid for, where that is longer than it was up."""
    energy_kwh: float | None = None
    """What its devices have drawn by their own counters; None: they tell nothing, or nobody asked."""
    cost_usd: Decimal = ZERO

    @property
    def startup_seconds(self) -> float | None:
        """Seconds from its start until it was ready; None where it never was."""
        return None if self.ready_at is None else (self.ready_at - self.started_at).total_seconds()

    @property
    def accounting_usd(self) -> Decimal | None:
        """US dollars that its time and its electricity are charged back at; None where neither is, or it is still up."""
        hourly, energy = self.accounting_usd_per_hour, self.energy_usd
        if self.stopped_at is None or (hourly is None and energy is None):
            return None
        seconds = (self.stopped_at - self.started_at).total_seconds()
        return usd((hourly or ZERO) / 3600 * Decimal(seconds) + (energy or ZERO))

    @property
    def energy_usd(self) -> Decimal | None:
        """US dollars of the electricity that its devices have drawn."""
        if self.usd_per_kwh is None or self.energy_kwh is None:
            return None
        return self.usd_per_kwh * Decimal(str(self.energy_kwh))


class WorkerRecords:
    """Writes the records of one endpoint's attempts and of its workers' time."""

    def __init__(self, endpoint: Endpoint, engine_context: EngineContext) -> None:
        self._endpoint, self._engine_context = endpoint, engine_context
        self._price_id = price_id(endpoint, endpoint.price.base)

    def overhead(self, run_id: str, worker_id: str, reserved_usd: Decimal) -> Intent:
        """Make the record of a lease of a worker's time; it is not written yet."""
        return self._intent(run_id, reserved_usd, Purpose.OVERHEAD, worker_id=worker_id)

    def sent(self, requests: Iterable[QueuedRequest], worker_id: str) -> None:
        """Write down requests before they are sent. They reserve nothing: the worker's lease has reserved its seconds."""
        intents = []
        for queued in requests:
            shard = queued.queue.shard
            intent = self._intent(shard.run_id, ZERO, shard.purpose, queued, worker_id)
            queued.entry_id = intent.entry_id
            intents.append(intent)
        self._engine_context.journal.sent(intents)

    def answered(
        self,
        requests: Sequence[QueuedRequest],
        messages: Sequence[Mapping[str, Any]],
        costs: Sequence[Decimal],
    ) -> list[Said]:
        """Write down what the model answered to each, at its share of the worker's time. Returns the replies."""
        replies = [reply_of(queued, message) for queued, message in zip(requests, messages, strict=True)]
        self._engine_context.journal.settled(
            Outcome(
                queued.entry_id,
                LedgerStatus.SETTLED,
                cost,
                datetime.now(UTC),
                usage_of(message),
                self._endpoint.model,
                reply=reply,
                final=not asks_again(queued, reply),
            )
            for queued, message, reply, cost in zip(requests, messages, replies, costs, strict=True)
        )
        return replies

    def failed(self, requests: Iterable[tuple[QueuedRequest, Failure | None]], *, final: bool) -> None:
        """Write down attempts without an answer; nothing is charged to them. None: given up, and to be asked anew."""
        now = datetime.now(UTC)
        self._engine_context.journal.settled(
            Outcome(
                queued.entry_id,
                LedgerStatus.UNSETTLED if reply is None else NEXT_STEP[reply.kind].ledger,
                ZERO,
                now,
                reply=reply,
                final=final,
            )
            for queued, reply in requests
        )

    def unsent(self, requests: Sequence[tuple[QueuedRequest, Failure]]) -> None:
        """Write down requests that reached no worker, with why: nothing was billed."""
        self.sent([queued for queued, _ in requests], "")
        now = datetime.now(UTC)
        self._engine_context.journal.settled(
            Outcome(queued.entry_id, LedgerStatus.VOID, ZERO, now, reply=reply) for queued, reply in requests
        )

    def _intent(
        self,
        run_id: str,
        reserved: Decimal,
        purpose: Purpose,
        queued: QueuedRequest | None = None,
        worker_id: str = "",
    ) -> Intent:
        endpoint = self._endpoint
        return Intent(
            entry_id=os.urandom(16).hex(),
            run_id=run_id,
            shard_id=None if queued is None else queued.queue.shard.shard_id,
            row=None if queued is None else queued.request.row,
            request_id=None if queued is None else queued.request.request_id,
            endpoint=endpoint.name,
            model=endpoint.model,
            provider=endpoint.provider,
            mode=endpoint.mode,
            purpose=purpose,
            attempt=1 if queued is None else queued.attempt,
            reserved_usd=reserved,
            started_at=datetime.now(UTC),
            price_id=self._price_id,
            region=endpoint.facts.region,
            provider_ref=worker_id or None,
        )


def usage_of(message: Mapping[str, Any]) -> Usage:
    """Read the tokens that a worker's answer took."""
    return Usage(
        message["input_tokens"],
        message["output_tokens"],
        message["cached_tokens"],
        message["reasoning_tokens"],
    )


def reply_of(queued: QueuedRequest, message: Mapping[str, Any]) -> Said:
    """Read a worker's answer; one that was cut before its first word is a failure."""
    request, text, reason = queued.request, message["text"], message["finish_reason"]
    if not text and reason == "length":
        why = "the answer was cut at max_tokens before its first word (reasoning used them up)"
        return failure(queued, FailureKind.CUT_EMPTY, why)
    reasoning = message["reasoning"]
    if not text and reasoning and request.response_schema is not None:
        told, valid, _ = judged(request.response_schema, reasoning)
        if valid:  # held to the schema from its first token on, the model took its answer for reasoning
            text, reasoning = told, None
    text, valid, _ = judged(request.response_schema, text)
    logprobs = dumps(message["logprobs"]).decode() if message.get("logprobs") else None
    return Answer(request.row, request.request_id, text, reason, reasoning, valid, logprobs)


def asks_again(queued: QueuedRequest, reply: Said) -> bool:
    """Whether an answer of no use is asked for once more; `max_tokens` is then larger."""
    cut = isinstance(reply, Failure) and reply.kind is FailureKind.CUT_EMPTY
    return cut and queued.cuts + 1 < NEXT_STEP[FailureKind.CUT_EMPTY].attempts


def failure(queued: QueuedRequest, kind: FailureKind, message: str) -> Failure:
    """Make the failure of a queued request."""
    return Failure(queued.request.row, queued.request.request_id, kind, message)
