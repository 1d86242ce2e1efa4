"""The meter of a machine that is rented as a whole: all workers of an endpoint on it have one, and pay its price once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Protocol

from thirdshift.engines.metered.meter import ZERO, Meter

AT_WORK_SECONDS = 5.0
"""After an answer of any worker the time is taken to be work for so long, whatever the others wait for."""


class WorkerMeter(Protocol):
    """What a supervisor asks of the meter that its worker's time is on."""

    @property
    def cost_usd(self) -> Decimal: ...
    @property
    def seconds_left(self) -> float: ...
    @property
    def minimum_left(self) -> float: ...
    @property
    def block_ends_in(self) -> float: ...
    @property
    def least_usd(self) -> Decimal: ...
    @property
    def paid_until(self) -> float: ...
    def keep_up(self) -> bool: ...
    def charge(self, weights: Sequence[float]) -> list[Decimal]: ...
    def idle(self) -> None: ...
    def stop(self) -> None: ...


class NodeMeter:
    """One meter for several workers, each with a share of it. It runs from the first worker's start to the last one's end,
    whether or not all of them are up. Safe from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.lock = threading.RLock()
        self.meter: Meter | None = None
        self._workers = 0
        self._charged = float("-inf")

    def share(self, make: Callable[[], Meter]) -> NodeShare:
        """Return the meter of one more worker. `make`: that of a rental that begins with it."""
        with self.lock:
            if self.meter is None:
                self.meter = make()
            self._workers += 1
            return NodeShare(self, self.meter)

    def leave(self) -> None:
        """Count one worker less; the meter stops with the last."""
        with self.lock:
            self._workers -= 1
            if not self._workers and self.meter is not None:
                self.meter.stop()
                self.meter = None

    def charged(self) -> None:
        """Note that a worker was charged for an answer."""
        self._charged = self._clock()

    @property
    def at_work(self) -> bool:
        """Whether a worker has just answered."""
        return self._clock() - self._charged < AT_WORK_SECONDS


class NodeShare:
    """A worker's share of a node's meter: the time since the last answer of any worker is charged to its answers."""

    def __init__(self, node: NodeMeter, meter: Meter) -> None:
        self._node, self._meter = node, meter
        self.cost_usd = ZERO
        """Charged to this worker's answers, and as overhead while it alone told of the time."""

    @property
    def seconds_left(self) -> float:
        return self._meter.seconds_left

    @property
    def minimum_left(self) -> float:
        return self._meter.minimum_left

    @property
    def block_ends_in(self) -> float:
        return self._meter.block_ends_in

    @property
    def least_usd(self) -> Decimal:
        return self._meter.least_usd

    @property
    def paid_until(self) -> float:
        return self._meter.paid_until

    def keep_up(self) -> bool:
        with self._node.lock:
            return self._meter.keep_up()

    def charge(self, weights: Sequence[float]) -> list[Decimal]:
        with self._node.lock:
            self._node.charged()
            shares = self._meter.charge(weights)
            self.cost_usd += sum(shares, ZERO)
            return shares

    def idle(self) -> None:
        with self._node.lock:
            if not self._node.at_work:
                self._tallied(self._meter.idle)

    def stop(self) -> None:
        with self._node.lock:
            self._tallied(self._node.leave)

    def _tallied(self, act: Callable[[], object]) -> None:
        before = self._meter.cost_usd
        act()
        self.cost_usd += self._meter.cost_usd - before
