"""The world as an argument: what a run takes from outside of itself, in one place.

Whatever of a run reads the time, draws at random, repeats something in the background, talks over HTTP or must know that a
file is on disk does so through the `World` that it was given. This one is real. A simulation (`tests/support/simulated`)
hands in another, in which a seed decides everything, and no module knows the difference. This module imports nothing of
ours; all four packages may import it.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from logging import DEBUG, WARNING, getLogger
from pathlib import Path
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

COLLECT_AFTER = 10_000
"""New objects, before Python looks for cycles among them: at its own 700 that takes a sixth of a request's time, because
requests in flight are objects that live. `benchmarks/dispatch.py` shows it."""

_LOG = getLogger("thirdshift")
_lock = Lock()
_running: dict[int, asyncio.AbstractEventLoop] = {}
"""By process id: a forked child has the object but not the thread."""


class World:
    """The real one."""

    # --- time and chance ---

    def time(self) -> float:
        """Seconds since 1970, by a clock that may be set."""
        return time.time()

    def now(self) -> datetime:
        """The same as an instant."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since some instant, by a clock that nobody sets."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Have this thread wait."""
        time.sleep(seconds)

    def random_bytes(self, count: int) -> bytes:
        """Bytes that nobody else has drawn."""
        return os.urandom(count)

    # --- what goes on beside ---

    def repeat(self, name: str, seconds: float, look: Callable[[], None]) -> Callable[[], None]:
        """Call `look` every so many seconds, beside everything else, until the function returned is called. One that
        fails is followed by others; the first failure is told."""
        over = Event()

        def often() -> None:
            told = False
            while not over.wait(seconds):
                try:
                    look()
                except Exception:  # noqa: BLE001 - whatever it is, the thread lives
                    _LOG.log(DEBUG if told else WARNING, "%s failed, and is tried again", name, exc_info=True)
                    told = True

        thread = Thread(target=often, name=name, daemon=True)
        thread.start()

        def stop() -> None:
            over.set()
            thread.join()

        return stop

    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that every engine over HTTP shares: one of this process, on a thread of its own, started at the
        first call."""
        import asyncio  # takes a twentieth of what `plan` may take, which has no loop

        with _lock:
            loop = _running.get(os.getpid())
            if loop is None:
                gc.set_threshold(max(COLLECT_AFTER, gc.get_threshold()[0]), *gc.get_threshold()[1:])
                loop = asyncio.new_event_loop()
                Thread(target=loop.run_forever, name="thirdshift-wire", daemon=True).start()
                _running[os.getpid()] = loop
            return loop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on that loop, from any other thread, to its end."""
        import asyncio

        return asyncio.run_coroutine_threadsafe(work, self.loop()).result()

    def session(self, make: Callable[[], T]) -> T:
        """A session of HTTP; `make` makes one that reaches the network."""
        return make()

    # --- what must outlive the process, or the machine ---

    def write(self, handle: int, data: bytes) -> int:
        """Write to a file; how many bytes of it. When this returns, they survive the process."""
        return os.write(handle, data)

    def sync(self, handle: int) -> None:
        """Wait until what was written to a file, or the names in a folder, survive the machine."""
        os.fsync(handle)

    def replace(self, new: Path, old: Path) -> None:
        """Give a file another's name, which that one loses, in one step."""
        new.replace(old)


REAL = World()
