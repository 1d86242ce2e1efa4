"""The run's money in this process: what is set aside plus what is spent never passes the cap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from threading import Lock

from thirdshift.router.interfaces import Budget

_ZERO = Decimal(0)
LEFT_BESIDE, LEAST_BESIDE = Decimal("1.2"), Decimal("0.1")
"""Batches leave so many times what is expected to be spent beside them, and to the end so much of it."""


@dataclass(frozen=True, slots=True)
class BudgetFigures:
    """What a run has spent at one moment, US dollars; the provider's books are no less than `settled_usd` and no more than
    all three together."""

    settled_usd: Decimal
    unsettled_usd: Decimal
    """What attempts whose outcome was never learnt can have cost at most."""
    in_flight_usd: Decimal
    """What attempts under way can cost at most."""


class SubBudget:
    """`interfaces.Budget`: part of a run's money, with a limit of its own."""

    def __init__(self, whole: Budget, limit: RunBudget) -> None:
        self._whole, self.limit = whole, limit

    def reserve(self, amount_usd: Decimal) -> bool:
        if not self.limit.reserve(amount_usd):
            return False
        if self._whole.reserve(amount_usd):
            return True
        self.limit.settle(amount_usd, _ZERO)
        return False

    def settle(self, reserved_usd: Decimal, cost_usd: Decimal, *, certain: bool = True) -> None:
        self.limit.settle(reserved_usd, cost_usd, certain=certain)
        self._whole.settle(reserved_usd, cost_usd, certain=certain)

    @property
    def reserved_usd(self) -> Decimal:
        """What the whole has reserved, which holds ours too: when that is zero, nothing returns to either."""
        return self._whole.reserved_usd


class RunBudget:
    """`interfaces.Budget` over one cap. `cap_usd` None: no cap, everything is counted all the same.

    `spent_usd`: what the ledger already holds against this cap: earlier processes of the run, or the window's
    other runs. `reserved_usd`: what is set aside already for attempts of earlier processes. `unsettled_usd`: the part of
    `spent_usd` that is only what attempts can have cost at most.
    """

    def __init__(
        self,
        cap_usd: Decimal | None,
        spent_usd: Decimal = _ZERO,
        reserved_usd: Decimal = _ZERO,
        unsettled_usd: Decimal = _ZERO,
    ) -> None:
        self._cap = cap_usd
        self._spent = spent_usd
        self._reserved = reserved_usd
        self._unsettled = unsettled_usd
        self._lock = Lock()

    def reserve(self, amount_usd: Decimal) -> bool:
        """Set `amount_usd` aside if the cap allows it; False leaves everything as it was."""
        with self._lock:
            reserved = self._reserved + amount_usd
            if self._cap is not None and self._spent + reserved > self._cap:
                return False
            self._reserved = reserved
            return True

    def settle(self, reserved_usd: Decimal, cost_usd: Decimal, *, certain: bool = True) -> None:
        """Give a reservation back and book what it really cost; or, not `certain`, what it can have cost at most."""
        with self._lock:
            self._reserved -= reserved_usd
            self._spent += cost_usd
            if not certain:
                self._unsettled += cost_usd

    @property
    def reserved_usd(self) -> Decimal:
        return self._reserved

    @property
    def spent_usd(self) -> Decimal:
        """What is spent at most: unsettled attempts are in it."""
        return self._spent

    @property
    def figures(self) -> BudgetFigures:
        with self._lock:
            return BudgetFigures(self._spent - self._unsettled, self._unsettled, self._reserved)

    @property
    def left_usd(self) -> Decimal | None:
        """What could be reserved now; None without a cap."""
        with self._lock:
            return None if self._cap is None else self._cap - self._spent - self._reserved


class BatchBudget:
    """`interfaces.Budget` for what waits in batches, whose money returns after hours: it leaves to what is sent beside them
    what that is expected to cost. `beside`: whether something is."""

    def __init__(self, whole: RunBudget, beside: Callable[[], bool]) -> None:
        self._whole, self._beside = whole, beside
        self._waiting = self._settled = self._aside = self._from = _ZERO
        self._lock = Lock()

    def leave(self, expected_usd: Decimal) -> None:
        """Leave so much to what is sent beside batches from now on."""
        with self._lock:
            self._aside, self._from = expected_usd, self._spent_beside

    def reserve(self, amount_usd: Decimal) -> bool:
        """Set `amount_usd` aside if the cap allows it; False leaves everything as it was."""
        with self._lock:
            left = self._whole.left_usd
            if left is not None and self._waiting and self._beside():
                sent_beside = self._whole.reserved_usd - self._waiting
                if left - amount_usd + sent_beside < self._left_beside():
                    return False
            if not self._whole.reserve(amount_usd):
                return False
            self._waiting += amount_usd
            return True

    def settle(self, reserved_usd: Decimal, cost_usd: Decimal, *, certain: bool = True) -> None:
        """As `RunBudget.settle`."""
        with self._lock:
            # what an earlier process reserved was never counted here
            self._waiting = max(self._waiting - reserved_usd, _ZERO)
            self._settled += cost_usd
            self._whole.settle(reserved_usd, cost_usd, certain=certain)

    @property
    def reserved_usd(self) -> Decimal:
        """What the whole has reserved, which holds ours too."""
        return self._whole.reserved_usd

    @property
    def _spent_beside(self) -> Decimal:
        return self._whole.spent_usd - self._settled

    def _left_beside(self) -> Decimal:
        """What is still to be left; where all that was expected is spent, a little: the last answers are wanted too."""
        spent = self._spent_beside - self._from
        return max(LEFT_BESIDE * self._aside - spent, LEAST_BESIDE * self._aside)
