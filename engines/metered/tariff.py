"""What an hour of a worker costs, and how much of it is paid for at least: pure values, on the meter's clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Protocol

from thirdshift.router.pricing.prices import Window, windows
from thirdshift.router.values import PriceSchedule

AHEAD = timedelta(days=2)
"""Prices by the time of day are looked up so far ahead, and again when that is over."""


class Tariff(Protocol):
    """What a stretch of a worker's time costs."""

    def cost(self, start: float, end: float) -> Decimal:
        """Return US dollars from `start` to `end` on the meter's clock."""

    def look(self, since: float) -> None:
        """Look at the price anew, for the time after `since`."""

    def hold(self, until: float) -> None:
        """Keep the price as it is now for the time up to `until`: it is leased."""


def seconds_between(start: float, end: float) -> Decimal:
    """Return the seconds between two instants of a clock without its last digits (of one that has run for months
    1e-9): they are no time, and an hour must not cost more than its price for them."""
    return Decimal(round(end - start, 8))


@dataclass(frozen=True, slots=True)
class FlatTariff:
    """One price at all times."""

    usd_per_hour: Decimal

    def cost(self, start: float, end: float) -> Decimal:
        return self.usd_per_hour * seconds_between(start, end) / 3600

    def look(self, since: float) -> None:
        """Do nothing: it never changes."""

    def hold(self, until: float) -> None:
        """Do nothing: it never changes."""


class DailyTariff:
    """A price that changes by the time of day."""

    def __init__(
        self, schedule: PriceSchedule, clock: Callable[[], float], wall: Callable[[], datetime] | None = None
    ) -> None:
        """`wall`: the time of day that goes with `clock`."""
        self._schedule = schedule
        self._began, self._mark = (wall or _now)(), clock()
        self._windows: tuple[Window, ...] = ()

    def cost(self, start: float, end: float) -> Decimal:
        first, last = self._at(start), self._at(end)
        if not self._windows or last > self._windows[-1].end or first < self._windows[0].start:
            self._windows = windows(self._schedule, first, last + AHEAD)
        total, hourly = Decimal(0), self._schedule.usd_per_hour or Decimal(0)
        for window in self._windows:
            seconds = (min(last, window.end) - max(first, window.start)).total_seconds()
            if seconds > 0:
                total += window.factor * Decimal(seconds)
        return hourly * total / 3600

    def look(self, since: float) -> None:
        """Do nothing: its changes are known beforehand."""

    def hold(self, until: float) -> None:
        """Do nothing: its changes are known beforehand."""

    def _at(self, instant: float) -> datetime:
        return self._began + timedelta(seconds=instant - self._mark)


@dataclass(frozen=True, slots=True)
class Rental:
    """How long a rented machine is paid for, whether it is used or not."""

    minimum_seconds: float = 0.0
    increment_seconds: float = 0.0
    """Each that has begun is paid for in full; 0: by the second."""

    def paid_until(self, origin: float, at: float) -> float:
        """Return until when a rental that began at `origin` is paid for once it has lasted until `at`."""
        used = at - origin
        if self.increment_seconds:
            used = math.ceil(used / self.increment_seconds - 1e-9) * self.increment_seconds
        return origin + max(self.minimum_seconds, used)


def _now() -> datetime:
    return datetime.now(UTC)
