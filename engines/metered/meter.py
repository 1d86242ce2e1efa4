"""A worker's seconds as money: answers are charged the time since the last charge, overhead takes the rest.

Time is leased ahead, a minute at a time. A lease is a ledger entry of purpose overhead, written before its time
begins, and ends at what of it no answer was charged for: start-up, idle time, the tail. It reserves twice: once for
the answers it will pay for, once for its own entry, which a dead process leaves behind at the whole lease. So the
ledger never passes the cap, however it ends.

Time that is paid for whether it is used or not (a minimum, a started hour) is one lease, and reserves what the plan reckons
with: its price, once. What answers are charged of it is taken off its entry (a new entry for the rest follows the old one),
so that the two together are its price.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal
from typing import Protocol

from thirdshift.engines.metered.tariff import FlatTariff, Rental, Tariff
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.values import QUANTUM, Intent, LedgerStatus, Outcome, usd, usd_up

ZERO = Decimal(0)
LEASES_SECONDS = (60.0, 15.0, 5.0)
"""The usual lease; and the smaller ones tried when the cap leaves no room for it."""
ROOMS_SECONDS = (*LEASES_SECONDS, 0.0)
"""Seconds of a block that are reserved twice, if the cap has room, lest each answer need a new entry."""
INSTANT_SECONDS = 1e-6
"""What is left of paid time below this is a rounding."""
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
    block: bool = False
    """Paid for as a whole, whether it is used or not."""

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
        increment_seconds: float = 0.0,
        tariff: Tariff | None = None,
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
        paid_until: float | None = None,
        leave: Callable[[float], None] | None = None,
    ) -> None:
        """`increment_seconds`: each that has begun is paid for as a whole. `tariff`: None: `usd_per_hour` at all times.
        `began`: since when its time is paid, on that clock; None: from now on. `paid_until`: of a rental that goes on; its
        minimum is paid, and nothing is charged before. `leave` is told until when what is left at the end is paid for."""
        self._costs = usd_per_hour > 0
        self._tariff = FlatTariff(usd_per_hour) if tariff is None else tariff
        self._engine_context, self._overhead, self._clock = engine_context, overhead, clock
        self._rental = Rental(minimum_seconds, increment_seconds)
        began = clock() if began is None else began
        if paid_until is not None and paid_until > began:
            began, self._rental = paid_until, Rental(0.0, increment_seconds)
        self._began = self._marked = began
        self._leave = leave
        self._lease: Lease | None = None
        self.cost_usd = ZERO
        """Charged so far, answers and overhead together: never more than a rounding from seconds times price."""

    @property
    def seconds_left(self) -> float:
        """Seconds left of the time that is paid for."""
        return 0.0 if self._lease is None else self._lease.until - self._clock()

    @property
    def minimum_left(self) -> float:
        """Seconds left of what is paid for whether it is used or not: a minimum, a started hour."""
        now = self._clock()
        left = self._rental.paid_until(self._began, now) - now if self._costs else 0.0
        return left if left > INSTANT_SECONDS else 0.0

    @property
    def paid_until(self) -> float:
        """Until when a worker that ended now would be paid for, on the meter's clock."""
        return self._rental.paid_until(self._began, self._clock())

    @property
    def least_usd(self) -> Decimal:
        """US dollars that the cap must have room for before the first lease can be taken."""
        begins = max(self._clock(), self._began)
        until = self._rental.paid_until(self._began, begins + LEASES_SECONDS[-1]) if self._costs else begins
        amount = self._most(self._began, until)
        return amount if self._whole(begins, until) else 2 * amount

    @property
    def block_ends_in(self) -> float:
        """Seconds until another stretch begins that is paid for as a whole; infinite where time is paid by the second."""
        increment = self._rental.increment_seconds
        return self.minimum_left if self._costs and increment > LEASES_SECONDS[0] else float("inf")

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
        if self._lease is not None and amount > self._lease.answers and self._lease.block:
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
        """Settle the last lease once the worker has ended. What is paid for and left unused is overhead too."""
        self.idle()
        now, until = self._clock(), self.paid_until
        if self._lease is not None:
            if self._costs and until > now:
                rest = usd(self._tariff.cost(self._began, until)) - self.cost_usd
                self._lease.overhead += rest
                self.cost_usd += rest
            self._settle(self._lease)
        if self._leave is not None and self._costs and until > now and (self._lease or now < self._began):
            self._leave(until)
        self._lease = None

    # --- leases ---

    def _stretches(self) -> tuple[float, ...]:
        return LEASES_SECONDS if self._costs else (float("inf"),)

    @staticmethod
    def _whole(begins: float, until: float) -> bool:
        """Whether a stretch is longer than time is leased by the second."""
        return until - begins > LEASES_SECONDS[0] + RENEW_SECONDS

    def _most(self, start: float, end: float) -> Decimal:
        return usd_up(self._tariff.cost(start, end)) if self._costs and end > start else ZERO

    def _block(self, amount: Decimal, until: float) -> Lease | None:
        """Lease a stretch that is paid for as a whole, with room for answers as far as the cap has it."""
        for seconds in ROOMS_SECONDS:
            room = self._most(until - seconds, until)
            if self._engine_context.budget.reserve(amount + room):
                return Lease(self._sent(amount), until, room, block=True)
        return None

    def _sent(self, amount: Decimal) -> Intent:
        intent = self._overhead(amount)
        self._engine_context.journal.sent((intent,))
        return intent

    def _rest_of(self, old: Lease, amount: Decimal) -> Lease:
        """Replace the entry of a minimum rental by one for what is left of it, with room for answers of `amount`."""
        budget = self._engine_context.budget
        free = old.reserved_usd - old.overhead
        left = self._most(self._clock(), old.until)
        left = max(ZERO, min(left, free - amount))
        room, extra = free - left, ZERO
        for seconds in LEASES_SECONDS:
            more = amount + self._most(old.until - seconds, old.until) - room
            if more <= 0:
                break
            if budget.reserve(more):
                room, extra = room + more, more
                break
        self._book(old)
        intent = self._sent(left)
        budget.settle(old.reserved_usd + extra - left - room, old.overhead)
        return Lease(intent, old.until, room, block=True)

    def _take(self, seconds: float) -> bool:
        now, old = self._clock(), self._lease
        self._tariff.look(self._marked)
        begins = now if old is None else max(now, old.until)
        if self._costs and begins < self._began:  # what is paid for already
            until = self._began
        else:
            until = begins + seconds
            until = self._rental.paid_until(self._began, until) if self._costs else until
        amount = self._most(self._marked, until)
        if amount and self._whole(begins, until):
            new = self._block(amount, until)
        elif amount and not self._engine_context.budget.reserve(2 * amount):
            new = None
        else:
            new = Lease(self._sent(amount), until, amount)
        if new is None:
            return False
        if old is not None:
            self._settle(old)
        self._tariff.hold(until)
        self._lease = new
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
        self._marked = max(self._began, self._clock())
        whole = usd(self._tariff.cost(self._began, self._marked)) if self._costs else ZERO
        amount = whole - self.cost_usd
        self.cost_usd = whole
        return amount
