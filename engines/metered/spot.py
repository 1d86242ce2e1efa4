"""A price that changes while workers are up: time that is leased keeps its price, what follows is at the latest one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from decimal import Decimal

from thirdshift.engines.metered.tariff import seconds_between

ASK_EVERY_SECONDS = 300.0
"""So often a spot price is asked for while workers are up: providers change theirs a few times a day."""


class SpotPrice:
    """The latest price of an hour of one endpoint's workers, which all their meters look at. Safe from any thread."""

    def __init__(
        self,
        usd_per_hour: Decimal,
        ask: Callable[[], Decimal | None],
        tell: Callable[[Decimal, Decimal], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        begin: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        """`ask`: what an hour costs at this moment, None where it is not told; it may take a minute, and so `begin` runs it
        on a thread of its own. `tell` is given a price and the next one."""
        self.usd_per_hour = usd_per_hour
        self._ask, self._tell, self._clock, self._begin = ask, tell, clock, begin or _in_background
        self._lock = threading.Lock()
        self._asked, self._asking = clock(), False

    def look(self) -> Decimal:
        """Return the latest price that is known. Where that is some minutes old, the next is asked for meanwhile."""
        with self._lock:
            due = not self._asking and self._clock() - self._asked >= ASK_EVERY_SECONDS
            self._asking |= due
        if due:
            self._begin(self._ask_again)
        return self.usd_per_hour

    def _ask_again(self) -> None:
        try:
            price, before = self._ask(), self.usd_per_hour
            if price is not None and price != before:
                self.usd_per_hour = price
                self._tell(before, price)
        finally:
            with self._lock:
                self._asked, self._asking = self._clock(), False


class SpotTariff:
    """One meter's view of a spot price: what it has leased is held at the price of that moment."""

    def __init__(self, price: SpotPrice) -> None:
        self._price, self._now = price, price.look()
        self._held: list[tuple[float, Decimal]] = []
        """Until when which price holds, in their order."""

    def cost(self, start: float, end: float) -> Decimal:
        """Return US dollars from `start` to `end`; what is not held yet is taken at the price last looked at."""
        total, at = Decimal(0), start
        for until, price in self._held:
            if until > at:
                total += price * seconds_between(at, min(until, end))
                at = min(until, end)
        return (total + self._now * seconds_between(at, max(at, end))) / 3600

    def look(self, since: float) -> None:
        """Look at the price anew, for the time after `since`."""
        self.hold(since)
        self._now = self._price.look()

    def hold(self, until: float) -> None:
        """Keep the price that was last looked at for the time up to `until`."""
        if self._held and self._held[-1][0] >= until:
            return
        if self._held and self._held[-1][1] == self._now:
            self._held.pop()
        self._held.append((until, self._now))


def _in_background(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="spot price", daemon=True).start()
