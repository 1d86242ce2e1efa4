"""For how long a worker that has nothing to do is kept, where its time costs money."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

IDLE_SECONDS = 300.0
"""At most: in the order of a large model's start, which the next shard would have to pay for."""
SHORT_BREAK_SECONDS = 10.0
"""At least: between two shards, and between a round of a pilot and the next, there are a few seconds."""


def idle_seconds(started_in: float | None, minimum_left: float, most: float, *, expected: bool) -> float:
    """Return how long a worker may be idle: as long as its next start would take, and what is paid for anyway.

    `started_in`: how long its start took; `minimum_left`: of a minimum rental; `expected`: whether something may come soon.
    """
    if minimum_left > 0:
        return math.inf
    start = started_in if expected else None
    return min(max(start or 0.0, SHORT_BREAK_SECONDS), most)


class NextWork:
    """Whether something may come soon for workers that have nothing to do, as was told last."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.expected, self._told_at = True, -math.inf

    def tell(self, *, expected: bool) -> None:
        """Say anew whether something may come soon."""
        if expected != self.expected:
            self._told_at = self._clock()  # first: another thread reads both
            self.expected = expected

    def is_late(self, idle_since: float, started_in: float | None, minimum_left: float, most: float) -> bool:
        """Whether a worker that is idle since then is to be stopped. Who hears that nothing is expected waits a short break
        all the same: what is sent last is handed over just after that was said."""
        since = idle_since if self.expected else max(idle_since, self._told_at)
        return self._clock() - since > idle_seconds(started_in, minimum_left, most, expected=self.expected)


@dataclass(frozen=True, slots=True)
class StartupTerms:
    """How long a worker may take to start, and how long it may be idle."""

    startup_seconds: float
    idle_seconds: float
    """An idle worker is stopped after so long, where time costs money."""
