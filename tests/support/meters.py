"""A worker's meter for tests: on a clock that is set, with a ledger and a budget that can be looked at."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tests.support.engines import MemoryJournal
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.metered.meter import Meter
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.values import Intent, Mode, Purpose

BEGINS = 1000.0
Stretches = Sequence[tuple[float, Sequence[float]]]
"""Seconds, and the weights of the answers that they end with; none: the worker was idle."""


class Clock:
    def __init__(self) -> None:
        self.now = BEGINS

    def __call__(self) -> float:
        return self.now


def metered(
    usd_per_hour: Decimal, cap: Decimal | None, clock: Clock | None = None, **more: Any
) -> tuple[Meter, MemoryJournal, RunBudget, Clock]:
    journal, budget, clock = MemoryJournal(), RunBudget(cap), clock or Clock()

    def overhead(amount: Decimal) -> Intent:
        return Intent(
            os.urandom(8).hex(), "run", None, None, None, "house", "m", "vllm", Mode.REALTIME, Purpose.OVERHEAD,
            1, amount, datetime.now(UTC),
        )  # fmt: skip

    meter = Meter(usd_per_hour, EngineContext(journal, budget), overhead, clock=clock, **more)
    return meter, journal, budget, clock


def work(
    meter: Meter,
    journal: MemoryJournal,
    budget: RunBudget,
    cap: Decimal | None,
    stretches: Stretches,
    wait: Callable[[float], None],
) -> Decimal:
    """Work until the money is used up: at every moment the cap holds, even if the worker is killed then. Return what the
    answers were charged."""
    answers, alive = Decimal(0), meter.keep_up()
    for seconds, weights in stretches:
        if not alive:
            break
        wait(seconds)
        if weights:
            answers += sum(meter.charge(weights))
        else:
            meter.idle()
        assert cap is None or journal.worst_usd() + answers <= cap
        assert cap is None or budget.spent_usd + budget.reserved_usd <= cap
        alive = meter.keep_up() or meter.seconds_left > 2.5
    return answers
