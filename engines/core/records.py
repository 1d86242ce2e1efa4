"""An attempt's two records: what it can cost at most, written before it is sent, and what became of it."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from decimal import Decimal

from thirdshift.engines.core.failures import ledger_status
from thirdshift.engines.core.transport import Reply
from thirdshift.router.interfaces import Shard
from thirdshift.router.pricing.prices import (
    cost_usd,
    price_at,
    price_id,
    sent_bytes,
    worst_case_usd,
    writes_cache,
)
from thirdshift.router.values import (
    Answer,
    Endpoint,
    Failure,
    Intent,
    LedgerStatus,
    Outcome,
    Price,
    Request,
    Usage,
)

ZERO = Decimal(0)


class AttemptRecords:
    """Writes the records of one endpoint's attempts. `extra_bytes`: what its params add to each."""

    def __init__(self, endpoint: Endpoint, extra_bytes: int = 0) -> None:
        self._endpoint = endpoint
        self._provider = endpoint.provider
        self._extra = extra_bytes
        self._price_ids: dict[Price, str] = {}

    def prompt_bytes(self, request: Request) -> int:
        return sent_bytes(request) + self._extra

    def worst_case(self, request: Request, prompt_bytes: int | None = None) -> Decimal:
        """What one attempt at `request` can cost at most."""
        size = self.prompt_bytes(request) if prompt_bytes is None else prompt_bytes
        end = self._endpoint
        return worst_case_usd(
            end.price,
            size,
            request.max_tokens,
            end.reasoning_tokens_max,
            len(request.messages),
            writes_cache=writes_cache(end, request),
        )

    def intent(
        self,
        shard: Shard,
        request: Request,
        attempt: int,
        reserved: Decimal,
        tokens: int,
        *,
        entry_id: str | None = None,
        at: datetime | None = None,
    ) -> Intent:
        """The record before sending; `tokens`, the input expected, decides which tier's price is named."""
        end, now = self._endpoint, at or datetime.now(UTC)
        return Intent(
            entry_id=entry_id or os.urandom(16).hex(),
            run_id=shard.run_id,
            shard_id=shard.shard_id,
            row=request.row,
            request_id=request.request_id,
            endpoint=end.name,
            model=end.model,
            provider=self._provider,
            mode=end.mode,
            purpose=shard.purpose,
            attempt=attempt,
            reserved_usd=reserved,
            started_at=now,
            price_id=self._price_id(price_at(end.price, now, tokens)),
            region=end.facts.region,
        )

    def outcome(self, intent: Intent, reply: Reply, said: Answer | Failure | None, final: bool) -> Outcome:
        """The record after: usage at the price in force when it was sent, or without it the ledger's law."""
        status = ledger_status(reply.kind, reply.usage, unbilled=reply.unbilled)
        return Outcome(
            entry_id=intent.entry_id,
            status=status,
            cost_usd=self._cost(intent, status, reply.usage),
            settled_at=datetime.now(UTC),
            usage=reply.usage,
            model_reported=reply.model,
            provider_ref=reply.ref,
            reply=said,
            final=final,
        )

    def _cost(self, intent: Intent, status: LedgerStatus, usage: Usage | None) -> Decimal:
        if usage is not None:
            return cost_usd(price_at(self._endpoint.price, intent.started_at, usage.input_tokens), usage)
        return ZERO if status is LedgerStatus.VOID else intent.reserved_usd

    def _price_id(self, price: Price) -> str:
        known = self._price_ids.get(price)
        if known is None:
            known = self._price_ids[price] = price_id(self._endpoint, price)
        return known
