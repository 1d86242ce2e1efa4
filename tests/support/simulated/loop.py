"""An event loop in virtual time: where nothing is ready, the clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
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


class _Call(asyncio.TimerHandle):
    """What is to be called, and when. Without what asyncio keeps for its debugging: two are made for each turn."""

    __slots__ = ()

    def __init__(  # pyright: ignore[reportMissingSuperCall]
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
    ) -> None:
        self._when, self._callback, self._args = when, callback, args
        self._context = copy_context() if context is None else context
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True
        self._callback, self._args = nothing, ()


def nothing() -> None:
    """Do nothing: where what was to be called is cancelled, or nobody looks at the turns."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """One thread does it all: what a program sends to a thread is done a drawn moment later.

    `until` bounds the virtual time; `at_turn` is called at every turn of the loop, and what it raises ends the turn.
    """

    def __init__(self, rng: Random, until: float) -> None:
        self.now, self.until, self.turns = 0.0, until, 0
        self.at_turn: Callable[[], None] = nothing
        self.bounded = True
        """Not once a night is over: what is left of it is only ended."""
        self._rng = rng
        self._wanted: Callable[[], bool] = lambda: False
        self._every = 1
        self._timers: list[tuple[float, int, _Call]] = []
        """When, in which order they were set, and what is then called: a heap."""
        self._set = 0
        self._soon: deque[_Call] = deque()
        super().__init__(_NoSockets())

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        call = _Call(0.0, callback, args, context)
        self._soon.append(call)
        return call

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        call = _Call(when, callback, args, context)
        self._set += 1
        heappush(self._timers, (when, self._set, call))
        return call

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def _run_once(self) -> None:
        """Turns until somebody stops. Overridden, since asyncio's own polls sockets and sorts what is cancelled: a third of
        a turn."""
        timers, soon = self._timers, self._soon
        while not self._stopping:  # type: ignore[attr-defined]
            while timers and timers[0][2]._cancelled:
                heappop(timers)
            self.turns += 1
            self.at_turn()
            idle = not soon and (not timers or timers[0][0] > self.now + MOMENT_SECONDS)
            if (idle or self.turns % self._every == 0) and self._wanted():
                self.stop()
                return
            if not soon:
                self._pass()
            while timers and timers[0][0] <= self.now:
                soon.append(heappop(timers)[2])
            for _ in range(len(soon)):
                call = soon.popleft()
                if not call._cancelled:
                    self._do(call)

    def _pass(self) -> None:
        """Let the time pass until something is to be done."""
        if not self._timers:
            raise Stuck("everybody waits, and for nothing")
        self.now = max(self.now, self._timers[0][0])
        if self.bounded and self.now > self.until:
            raise Stuck(f"not at its end after {self.now / 3600:.1f} hours")
        if self.bounded and self.turns > MOST_TURNS:
            raise Stuck(f"busy for {self.turns} turns, {self.now / 3600:.1f} hours")

    def _do(self, call: _Call) -> None:
        try:
            call._context.run(call._callback, *call._args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - as asyncio does
            self.call_exception_handler({"message": f"exception in {call._callback}", "exception": error})

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
