"""The provider's bills: what it billed, entry by entry, on disk; and totals per model, in memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from thirdshift.engines.core.json import dumps
from thirdshift.engines.emulator.answers import EmulatedAnswer
from thirdshift.engines.emulator.models import EmulatedModel
from thirdshift.router.pricing.prices import price_at
from thirdshift.router.values import Mode, Price, PriceSchedule, Usage, usd
from thirdshift.world import World

PIECE = 1 << 20


@dataclass(slots=True)
class ModelTotals:
    """What was billed of one model since the start."""

    requests: int = 0
    """That came in, whatever became of them."""
    statuses: dict[str, int] = field(default_factory=dict)
    troubles: dict[str, int] = field(default_factory=dict)
    billed: int = 0
    right: int = 0
    """How many of those billed were right."""
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    most_in_flight: int = 0


class Billing:
    """Bills answers at the model's price of the moment. Entries go to an unnamed file that ends with the process."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._entries = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - lives as long as we do
        self._schedules: dict[tuple[str, Mode], PriceSchedule] = {}
        self.totals: dict[str, ModelTotals] = {}

    def of(self, model: str) -> ModelTotals:
        return self.totals.setdefault(model, ModelTotals())

    def bill(
        self,
        ref: str,
        model: EmulatedModel,
        key: int,
        answer: EmulatedAnswer,
        mode: Mode,
        *,
        trouble: str | None,
    ) -> Decimal:
        """Bill one answer, whether it arrives or not."""
        usage = answer.usage
        cost = bill_usd(price_at(self._schedule(model, mode), self._world.now(), usage.input_tokens), usage)
        entry = {
            "id": ref,
            "model": model.name,
            "mode": mode.value,
            "messages_key": f"{key:016x}",
            "input_tokens": usage.input_tokens,
            "cached_tokens": usage.cached_tokens,
            "output_tokens": usage.output_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
            "written_tokens": usage.written_tokens,
            "written_hour_tokens": usage.written_hour_tokens,
            "cost_usd": str(cost),
            "right": answer.right,
            "finish_reason": answer.finish_reason,
            "trouble": trouble,
            "at": round(self._world.time(), 6),
        }
        self._entries.write(dumps(entry) + b"\n")
        total = self.of(model.name)
        total.billed += 1
        total.right += answer.right
        total.input_tokens += usage.input_tokens
        total.cached_tokens += usage.cached_tokens
        total.output_tokens += usage.output_tokens
        total.reasoning_tokens += usage.reasoning_tokens
        total.cost_usd += cost
        return cost

    def _schedule(self, model: EmulatedModel, mode: Mode) -> PriceSchedule:
        key = (model.name, mode)
        if key not in self._schedules:
            self._schedules[key] = model.price_for(mode)
        return self._schedules[key]

    def entries(self) -> Iterator[bytes]:
        """Stream all that was billed until now as JSON lines."""
        self._entries.flush()
        at, end = 0, self._entries.tell()
        while at < end:
            piece = os.pread(self._entries.fileno(), min(PIECE, end - at), at)
            at += len(piece)
            yield piece

    def close(self) -> None:
        """Forget the entries."""
        self._entries.close()

    def summary(self) -> dict[str, Any]:
        return {
            name: {slot: _plain(getattr(total, slot)) for slot in ModelTotals.__slots__}
            for name, total in self.totals.items()
        }


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Decimal) else value


def bill_usd(price: Price, usage: Usage) -> Decimal:
    """Compute the price of an answer, not by the client's code: the ledger is compared with it."""
    cached = price.input if price.cached_input is None else price.cached_input
    fresh = usage.input_tokens - usage.cached_tokens
    fresh -= usage.written_tokens  # kept for five minutes: Anthropic's price of it where none is stated
    write = price.input * 5 / 4 if price.cache_write is None else price.cache_write
    per_million = (
        usage.written_tokens * write
        + fresh * price.input
        + usage.cached_tokens * cached
        + usage.output_tokens * price.output
    )
    return usd(per_million / 1_000_000)
