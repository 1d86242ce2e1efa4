"""What is paid for already of machines that are not in use: the next worker on one goes on with it."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable


class Rentals:
    """Rentals whose time is not over, by what is rented. Safe from any thread.

    A minimum and a started hour are the machine's, not a process's: whoever is started anew within them pays nothing
    before they end.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until: dict[Hashable, list[float]] = defaultdict(list)

    def leave(self, rented: Hashable, until: float) -> None:
        """Note that a machine is paid for until then, on the clock, and used by nobody."""
        with self._lock:
            self._until[rented].append(until)

    def take(self, rented: Hashable) -> float | None:
        """Return until when such a machine is paid for, the longest of them; None: none is."""
        now = self._clock()
        with self._lock:
            live = sorted(until for until in self._until[rented] if until > now)
            self._until[rented] = live[:-1]
        return live[-1] if live else None


RENTALS = Rentals()
"""This process's, whichever model a machine is for."""
