"""A worker's seconds as money: answers are charged the time since the last charge, overhead takes the rest.

Time is leased ahead, a minute at a time. A lease is a ledger entry of purpose overhead, written before its time
begins, and ends at what of it no answer was charged for: start-up, idle time, the tail. It reserves twice: once for
the answers it will pay for, once for its own entry, which a dead process leaves behind at the whole lease. So the
ledger never passes the cap, however it ends.

A minimum rental is one lease, and reserves what the plan reckons with: the minimum, once. What answers are charged of it
is taken off its entry (a new entry for the rest follows the old one), so that the two together are the minimum.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal
from typing import Protocol

from thirdshift.router.interfaces import EngineContext
from thirdshift.router.values import QUANTUM, Intent, LedgerStatus, Outcome, usd, usd_up

ZERO = Decimal(0)
LEASES_SECONDS = (60.0, 15.0, 5.0)
"""The usual lease; and the smaller ones tried when the cap leaves no room for it."""
ROOMS_SECONDS = (*LEASES_SECONDS, 0.0)
"""Seconds of a minimum rental that are reserved twice, if the cap has room, lest each answer need a new entry."""
RENEW_SECONDS = 3.0
"""A lease is followed by the next when so much of it is left: longer than a step of a large model takes."""


class MakesIntent(Protocol):
    """Makes the intent of a lease that reserves so much."""

    def __call__(self, reserved_usd: Decimal) -> Intent: ...


@dataclass(slots=True)
class Lease:
    """A stretch of a worker's time that is paid for in advance."""

    intent: Intent
    until: float
    """On the meter's clock."""
    answers: Decimal
    """Left of what is reserved for answers."""
    overhead: Decimal = ZERO
    """Charged to this entry so far."""

    @property
    def reserved_usd(self) -> Decimal:
        """What the budget has set aside for it."""
        return self.intent.reserved_usd + self.answers


class Meter:
    """The meter of one worker, used by the one thread that drives it.

    `usd_per_hour` zero: nothing is reserved and one lease lasts as long as the worker.
    """

    def __init__(
        self,
        usd_per_hour: Decimal,
        engine_context: EngineContext,
        overhead: MakesIntent,
        *,
        minimum_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
    ) -> None:
        """`began`: since when its time is paid, on that clock; None: from now on."""
        self._per_second = usd_per_hour / 3600
        self._engine_context, self._overhead, self._clock = engine_context, overhead, clock
        self._minimum = minimum_seconds
        self._began = self._marked = clock() if began is None else began
        self._lease: Lease | None = None
        self.cost_usd = ZERO
        """Charged so far, answers and overhead together: never more than a rounding from seconds times price."""

    @property
    def seconds_left(self) -> float:
        """Seconds left of the time that is paid for."""
        return 0.0 if self._lease is None else self._lease.until - self._clock()

    @property
    def minimum_left(self) -> float:
        """Seconds left of a minimum rental, which is paid for whether it is used or not."""
        return self._began + self._minimum - self._clock() if self._per_second else 0.0

    def keep_up(self) -> bool:
        """Lease the next stretch where it is due. Returns False where the cap leaves no room for it."""
        if self._lease is not None and self.seconds_left > RENEW_SECONDS:
            return True
        return any(self._take(seconds) for seconds in self._stretches())

    def charge(self, weights: Sequence[float]) -> list[Decimal]:
        """Charge the seconds since the last charge to answers, by weight. Returns US dollars for each."""
        amount = self._accrue()
        total = sum(weights) or 1.0
        shares = [
            (amount * Decimal(weight / total)).quantize(QUANTUM, ROUND_DOWN) if amount else ZERO
            for weight in weights
        ]
        shares[-1] += amount - sum(shares, ZERO)
        if self._lease is not None and amount > self._lease.answers and self._in_minimum(self._lease):
            self._lease = self._rest_of(self._lease, amount)
        if self._lease is not None and amount:
            covered = min(amount, self._lease.answers)
            self._lease.answers -= covered
            self._engine_context.budget.settle(covered, amount)
        return shares

    def idle(self) -> None:
        """Charge the seconds since the last charge to no answer: start-up, idle time, work that was lost."""
        amount = self._accrue()
        if self._lease is not None:
            self._lease.overhead += amount

    def stop(self) -> None:
        """Settle the last lease once the worker has ended. What a minimum rental leaves unused is overhead too."""
        self.idle()
        if self._lease is not None:
            short = self._began + self._minimum - self._clock()
            if short > 0:
                rest = usd(self._per_second * Decimal(short))
                self._lease.overhead += rest
                self.cost_usd += rest
            self._settle(self._lease)
            self._lease = None

    # --- leases ---

    def _stretches(self) -> tuple[float, ...]:
        if not self._per_second:
            return (float("inf"),)
        return LEASES_SECONDS

    def _in_minimum(self, lease: Lease) -> bool:
        return self._minimum > LEASES_SECONDS[0] and lease.until <= self._began + self._minimum

    def _rent(self) -> bool:
        """Lease the minimum rental."""
        amount = usd_up(self._per_second * Decimal(self._minimum))
        for seconds in ROOMS_SECONDS:
            room = usd_up(self._per_second * Decimal(seconds))
            if self._engine_context.budget.reserve(amount + room):
                intent = self._overhead(amount)
                self._engine_context.journal.sent((intent,))
                self._lease = Lease(intent, self._began + self._minimum, room)
                return True
        return False

    def _rest_of(self, old: Lease, amount: Decimal) -> Lease:
        """Replace the entry of a minimum rental by one for what is left of it, with room for answers of `amount`."""
        budget = self._engine_context.budget
        free = old.reserved_usd - old.overhead
        left = usd_up(self._per_second * Decimal(max(0.0, old.until - self._clock())))
        left = max(ZERO, min(left, free - amount))
        room, extra = free - left, ZERO
        for seconds in LEASES_SECONDS:
            more = amount + usd_up(self._per_second * Decimal(seconds)) - room
            if more <= 0:
                break
            if budget.reserve(more):
                room, extra = room + more, more
                break
        self._book(old)
        intent = self._overhead(left)
        self._engine_context.journal.sent((intent,))
        budget.settle(old.reserved_usd + extra - left - room, old.overhead)
        return Lease(intent, old.until, room)

    def _take(self, seconds: float) -> bool:
        now, old = self._clock(), self._lease
        if old is None and self._per_second and self._minimum > LEASES_SECONDS[0]:
            return self._rent()
        begins = now if old is None else max(now, old.until)
        covered = Decimal(begins - self._marked) + Decimal(seconds) if self._per_second else ZERO
        amount = usd_up(self._per_second * covered) if covered else ZERO
        if amount and not self._engine_context.budget.reserve(2 * amount):
            return False
        intent = self._overhead(amount)
        self._engine_context.journal.sent((intent,))
        if old is not None:
            self._settle(old)
        self._lease = Lease(intent, begins + seconds, amount)
        return True

    def _settle(self, lease: Lease) -> None:
        self._book(lease)
        self._engine_context.budget.settle(lease.reserved_usd, lease.overhead)

    def _book(self, lease: Lease) -> None:
        status = LedgerStatus.SETTLED if lease.overhead else LedgerStatus.VOID
        outcome = Outcome(lease.intent.entry_id, status, lease.overhead, datetime.now(UTC))
        self._engine_context.journal.settled((outcome,))

    def _accrue(self) -> Decimal:
        """Return what the time since the last mark costs; these add up to the whole's price, to the last place."""
        self._marked = self._clock()
        whole = usd(self._per_second * Decimal(self._marked - self._began))
        amount = whole - self.cost_usd
        self.cost_usd = whole
        return amount
