"""When a request may go: an endpoint's limits as configured, as its headers tell, as it makes us feel them.

Rates (requests and tokens per minute) are spaced by a virtual clock each: the instant up to which the rate is
used up. Concurrency is a window with additive increase and multiplicative decrease. One limiter serves every
shard of an endpoint and lives on the event loop: no locks and no polling, one timer for whoever waits first.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from thirdshift.engines.core.transport import Hints
from thirdshift.router.values import Limits

START_WINDOW = 32
"""In flight at first where no concurrency is stated; it doubles per round trip until something gives."""
MAX_WINDOW = 512
"""In flight at most where no concurrency is stated: sockets and memory, not politeness."""
MARGIN = 0.985
"""The share of a stated rate that is used steadily: clocks and network jitter have the rest."""
BURST = 0.008
"""The share of a minute's allowance that may go at once. MARGIN + BURST < 1: no minute sees too many."""
PAUSE_MAX_SECONDS = 3600.0
"""A provider's retry-after is obeyed up to here."""
DECREASE_EVERY_SECONDS = 1.0
"""A burst of failures from one moment counts once."""


class Rate:
    """One allowance per minute, spaced out (generic cell rate algorithm). `factor` slows it when refused."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self.factor = 1.0
        self._used_until = 0.0

    @property
    def _per_second(self) -> float:
        return self.per_minute * MARGIN * self.factor / 60.0

    def ready_at(self) -> float:
        """The instant from which something may go. A large amount may go then, and is paid off afterwards."""
        slack = max(self.per_minute * BURST - 1.0, 0.0)
        return self._used_until - slack / self._per_second

    def take(self, amount: float, now: float) -> None:
        self._used_until = max(self._used_until, now) + amount / self._per_second

    def correct(self, amount: float) -> None:
        """More was used than taken, or (negative) less."""
        self._used_until += amount / self._per_second


@dataclass(slots=True)
class _Waiter:
    future: asyncio.Future[None]
    tokens: int


class Limiter:
    """`acquire` before sending, `release` after; `clock` in seconds, monotonic."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requests = Rate(limits.rpm) if limits.rpm else None
        self._tokens = Rate(limits.tpm) if limits.tpm else None
        self._ceiling = limits.concurrency or MAX_WINDOW
        self._window = float(limits.concurrency or START_WINDOW)
        self._doubling = limits.concurrency is None
        self._paused_until = 0.0
        self._decreased_at = float("-inf")
        self._waiting: deque[_Waiter] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._lifted = False
        self.in_flight = 0

    @property
    def window(self) -> int:
        """How many may be in flight now."""
        return MAX_WINDOW if self._lifted else max(1, int(self._window))

    async def acquire(self, tokens: int) -> None:
        """Wait, in order of arrival, until a request of about `tokens` may go. Each wants one `release`."""
        if not self._waiting and self.in_flight < self.window and self._ready_at() <= self._clock():
            self._take(tokens)
            return
        waiter = _Waiter(asyncio.get_running_loop().create_future(), tokens)
        self._waiting.append(waiter)
        self._pump()
        try:
            await waiter.future
        except asyncio.CancelledError:
            self._forget(waiter)
            raise

    def release(self, expected_tokens: int = 0, used_tokens: int | None = None) -> None:
        """A request is done; `used_tokens` None where nobody told."""
        self.in_flight -= 1
        if self._tokens is not None and used_tokens is not None and not self._lifted:
            self._tokens.correct(used_tokens - expected_tokens)
        if self._waiting:
            self._pump()

    def succeeded(self) -> None:
        """The provider kept up: one more in flight per round trip (while doubling: per reply)."""
        if self._window < self._ceiling and self.in_flight >= self.window - 1:
            step = 1.0 if self._doubling else 1.0 / self._window
            self._window = min(self._ceiling, self._window + step)
        for rate in (self._requests, self._tokens):
            if rate is not None and rate.factor < 1.0:
                rate.factor = min(1.0, rate.factor + 1.0 / rate.per_minute)

    def congested(self, retry_after: float | None, *, refused: bool) -> None:
        """The provider did not keep up. `refused`: a 429, which says that a rate is too high."""
        now = self._clock()
        if retry_after is not None:
            self.pause(retry_after)
        if now - self._decreased_at < DECREASE_EVERY_SECONDS:
            return
        self._decreased_at = now
        self._doubling = False
        rates = [rate for rate in (self._requests, self._tokens) if rate is not None]
        if refused and rates:
            for rate in rates:
                rate.factor = max(0.1, rate.factor * 0.95)
        else:
            self._window = max(1.0, self._window / 2.0)

    def heed(self, hints: Hints) -> None:
        """What the headers say: limits not configured are adopted, an empty allowance is waited for."""
        if self._requests is None and hints.limit_requests:
            self._requests = Rate(hints.limit_requests)
        if self._tokens is None and hints.limit_tokens:
            self._tokens = Rate(hints.limit_tokens)
        if hints.remaining_requests == 0 and hints.reset_requests_seconds:
            self.pause(min(hints.reset_requests_seconds, 60.0))
        if hints.remaining_tokens == 0 and hints.reset_tokens_seconds:
            self.pause(min(hints.reset_tokens_seconds, 60.0))

    def pause(self, seconds: float) -> None:
        """Nothing goes for so long."""
        self._paused_until = max(self._paused_until, self._clock() + min(seconds, PAUSE_MAX_SECONDS))

    def lift(self) -> None:
        """No limits and no pause until `restore`: nothing is going to be sent, and whoever waits is told so at once."""
        self._lifted = True
        self._pump()

    def restore(self) -> None:
        """The limits hold again: what is let through is sent."""
        self._lifted, self._paused_until = False, 0.0

    def wake_all(self) -> None:
        """Let all who wait pass at once: they will find that nothing more is to be sent."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.future.done():
                self.in_flight += 1
                waiter.future.set_result(None)

    def _ready_at(self) -> float:
        if self._lifted:
            return 0.0
        ready = self._paused_until
        if self._requests is not None:
            ready = max(ready, self._requests.ready_at())
        if self._tokens is not None:
            ready = max(ready, self._tokens.ready_at())
        return ready

    def _take(self, tokens: int) -> None:
        now = self._clock()
        self.in_flight += 1
        if self._lifted:
            return
        if self._requests is not None:
            self._requests.take(1.0, now)
        if self._tokens is not None:
            self._tokens.take(tokens, now)

    def _pump(self) -> None:
        """Let go whoever may, then set the timer for who waits for time (a slot's release calls us)."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and self.in_flight < self.window:
            wait = self._ready_at() - self._clock()
            if wait > 0:
                self._timer = asyncio.get_running_loop().call_later(wait, self._pump)
                return
            waiter = self._waiting.popleft()
            if not waiter.future.done():
                self._take(waiter.tokens)
                waiter.future.set_result(None)

    def _forget(self, waiter: _Waiter) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        elif waiter.future.done() and not waiter.future.cancelled():
            self.release()
