"""One process's world in the simulation: a clock, chance from the seed, a disk that is watched, and a moment to die."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, TypeVar, cast

from tests.support.simulated.loop import VirtualLoop, nothing
from thirdshift.world import World

T = TypeVar("T")

EPOCH = 1_780_001_970.0
"""When every simulation begins, seconds since 1970: half a minute before a full hour in UTC, when prices may change."""
LATE_TIMES = 8.0
"""A busy machine comes so much later to what is to be done every second."""


OF_THE_DISK = frozenset({"journal-sync"})
"""What is repeated to sync what was written, and does nothing else."""


class Killed(SystemExit):
    """The process is gone. As SystemExit, so that asyncio lets it through."""


class Disk:
    """A folder, of which it is known what would outlive the machine: which names, and of each file how much."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sizes: dict[int, int] = {}
        """By inode: the bytes of a file that are synced."""
        self._names: set[str] = {str(path) for path in folder.rglob("*")}
        """Synced with their folders."""
        for path in folder.rglob("*"):
            self._sizes[path.stat().st_ino] = path.stat().st_size

    def synced(self, handle: int) -> None:
        """Note what a sync of a file or of a folder makes durable."""
        path = os.readlink(f"/proc/self/fd/{handle}")
        if os.path.isdir(path):
            gone = {name for name in self._names if os.path.dirname(name) == path}
            self._names -= gone
            self._names |= {entry.path for entry in os.scandir(path)}
        else:
            self._sizes[os.fstat(handle).st_ino] = os.fstat(handle).st_size

    def after_death(self, place: Path, rng: Random, *, of_machine: bool) -> None:
        """Write to `place` what the next process finds: all that the kernel had; or, where the machine died, what was
        synced, and of the rest what chance has left."""
        shutil.copytree(self.folder, place)
        if not of_machine:
            return
        for path in sorted(self.folder.rglob("*")):
            if not path.is_file():
                continue
            copy = place / path.relative_to(self.folder)
            if str(path) not in self._names and rng.random() < 0.5:
                copy.unlink()
                continue
            whole, kept = path.stat().st_size, self._sizes.get(path.stat().st_ino, 0)
            if kept < whole:
                os.truncate(copy, rng.choice((kept, rng.randint(kept, whole), whole)))


class SimulatedWorld(World):
    """`steps`: turns of the loop and operations of the disk until the process dies; None: it lives on. `at_disk`: only
    those of the disk count. `at_scoring`: none counts before `count_down`."""

    def __init__(
        self,
        loop: VirtualLoop,
        rng: Random,
        disk: Disk,
        connect: Callable[[SimulatedWorld], Any],
        *,
        steps: int | None,
        at_disk: bool = False,
        at_scoring: bool = False,
        die: Callable[[], None],
        skew: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._loop, self._rng, self._disk, self._connect = loop, rng, disk, connect
        self._die, self._skew = die, skew
        self._at_disk, self._steps = at_disk, steps
        self._left: int | None = None
        self.dead = False
        self._resting: list[Callable[[], None]] = []
        """What is called again once there is something to sync: a look before would find nothing."""
        self._synced = 0
        loop.at_turn = nothing
        if not at_scoring:
            self.count_down()

    def count_down(self) -> None:
        """Have steps count from now on, where they do not yet."""
        if self._left is None and self._steps is not None:
            self._loop.at_turn, self._left = self._turn, self._steps

    def _turn(self) -> None:
        if self.dead or not self._at_disk:
            self.step()

    def step(self) -> None:
        """Something happens; perhaps it is the last."""
        if self.dead:
            raise Killed
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                self.dead = True
                self._die()
                raise Killed

    # --- World; what the dead still do on their way out, nobody sees ---

    def time(self) -> float:
        return EPOCH + self._loop.now + self._skew()

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time(), UTC)

    def monotonic(self) -> float:
        return self._loop.now

    def sleep(self, seconds: float) -> None:
        self._loop.pass_time(seconds)

    def random_bytes(self, count: int) -> bytes:
        return self._rng.randbytes(count)

    def repeat(self, name: str, seconds: float, look: Callable[[], None]) -> Callable[[], None]:
        over: list[None] = []

        def later() -> None:
            self._loop.call_later(seconds * self._rng.uniform(1.0, LATE_TIMES), again)

        def again() -> None:
            if not self.dead and not over:
                before = self._synced
                look()
                if name in OF_THE_DISK and self._synced == before:
                    self._resting.append(later)
                else:
                    later()

        later()
        return lambda: over.append(None)

    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        task = self._loop.create_task(work)
        self._loop.play_until(task.done)
        return task.result()

    def session(self, make: Callable[[], T]) -> T:
        return cast("T", self._connect(self))

    def write(self, handle: int, data: bytes) -> int:
        if self.dead:
            return super().write(handle, data)
        if self._left == 0:  # torn: some of it has reached the kernel
            os.write(handle, data[: self._rng.randrange(len(data))])
        self.step()
        resting, self._resting = self._resting, []
        for later in resting:
            later()
        return super().write(handle, data)

    def sync(self, handle: int) -> None:
        if not self.dead:
            self.step()
            self._disk.synced(handle)
            self._synced += 1

    def replace(self, new: Path, old: Path) -> None:
        if not self.dead:
            self.step()
        super().replace(new, old)
