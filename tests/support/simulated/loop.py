"""An event loop in virtual time: where nothing is ready, the clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Callable
from contextvars import Context
from heapq import heappop, heappush
from random import Random
from typing import Any

THREAD_SECONDS = 0.003
"""What is done on a thread takes up to so long."""

MOMENT_SECONDS = 0.5
"""A longer wait is none between two turns of the same work: whoever looks now and then looks before it."""

MOST_TURNS = 400_000
"""Of the loop in a night: who goes on for longer goes on for ever."""


class Stuck(Exception):
    """Everybody waits, and for nothing; or nothing ends by the last instant that is allowed."""


class _NoSockets(selectors.BaseSelector):
    """Polls nothing: a wait is a jump of the clock."""

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def select(self, timeout: float | None = None) -> list[Any]:
        return []

    def get_map(self) -> dict[Any, Any]:
        return {}


class VirtualLoop(asyncio.SelectorEventLoop):
    """One thread does it all: what a program sends to a thread is done a drawn moment later.

    `until` bounds the virtual time; `at_turn` is called at every turn of the loop, and what it raises ends the turn.
    """

    def __init__(self, rng: Random, until: float) -> None:
        self.now, self.until, self.turns = 0.0, until, 0
        self.at_turn: Callable[[], None] = lambda: None
        self.bounded = True
        """Not once a night is over: what is left of it is only ended."""
        self._rng = rng
        self._wanted: Callable[[], bool] = lambda: False
        self._every = 1
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        """When, in which order they were set, and what is then called: a heap."""
        self._set = 0
        self._soon: deque[asyncio.Handle] = deque()
        super().__init__(_NoSockets())

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._soon.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._set += 1
        heappush(self._timers, (when, self._set, handle))
        return handle

    def _run_once(self) -> None:
        """One turn. Overridden, since asyncio's own polls sockets and sorts what is cancelled: a third of a turn."""
        timers, soon = self._timers, self._soon
        while timers and timers[0][2].cancelled():
            heappop(timers)
        self.turns += 1
        if self.bounded and self.turns > MOST_TURNS:
            raise Stuck(f"busy for {self.turns} turns, {self.now / 3600:.1f} hours")
        self.at_turn()
        waits = not soon
        idle = waits and (not timers or timers[0][0] > self.now + MOMENT_SECONDS)
        if (idle or self.turns % self._every == 0) and self._wanted():
            self.stop()
            return
        if waits and not timers:
            raise Stuck("everybody waits, and for nothing")
        if waits:
            self.now = max(self.now, timers[0][0])
            if self.bounded and self.now > self.until:
                raise Stuck(f"not at its end after {self.now / 3600:.1f} hours")
        while timers and timers[0][0] <= self.now:
            soon.append(heappop(timers)[2])
        for _ in range(len(soon)):
            handle = soon.popleft()
            if not handle.cancelled():
                handle._run()

    def time(self) -> float:
        return self.now

    def play_until(self, wanted: Callable[[], bool], *, every: int = 1) -> None:
        """Run until `wanted` holds; it is asked every so many turns, and where nothing is to be done for a moment."""
        self._wanted, self._every = wanted, every
        try:
            while not wanted():
                self.run_forever()
        finally:
            self._wanted, self._every = lambda: False, 1

    def pass_time(self, seconds: float) -> None:
        """Let so much time pass."""
        passed: list[bool] = []
        self.call_later(seconds, passed.append, True)
        self.play_until(lambda: bool(passed))

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Do it a moment later; as a thread would, also where nobody waits for it any more."""
        future = self.create_future()

        def do() -> None:
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - raised where the future is awaited
                if not future.cancelled():
                    future.set_exception(error)
            else:
                if not future.cancelled():
                    future.set_result(result)

        self.call_later(self._rng.uniform(0.0, THREAD_SECONDS), do)
        return future
