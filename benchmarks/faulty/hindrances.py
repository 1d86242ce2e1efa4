"""What befalls a life besides being killed: readers, few files, a full disk, a clock that jumps, files cut short."""

from __future__ import annotations

import datetime as dt
import random
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READER = """
import duckdb, sys, time
while True:
    try:
        con = duckdb.connect(sys.argv[1], read_only=True)
        break
    except duckdb.IOException:
        time.sleep(0.01)
print("open", flush=True)
sys.stdin.read()
"""
FILES = 256
AFTER_SECONDS = 1.5
"""So long after a life's start its disk is full, or its clock is set."""
DISK_BYTES = 48_000
"""What a file may grow to on a disk that is full: a journal of some hundred records."""
BACK = dt.timedelta(hours=1)


def few_files() -> None:
    """The process may have no more files open at a time."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))


def fill_disk() -> None:
    """From now on no file grows beyond DISK_BYTES; the kernel says so where a full disk would."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (DISK_BYTES, DISK_BYTES))


def set_clock_back() -> None:
    """From now on it is an hour earlier for the whole process but C libraries; no test may set the machine's clock."""
    seconds, real = time.time, dt.datetime

    class Alike(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, real)

    class Back(real, metaclass=Alike):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            return real.now(tz) - BACK

    time.time = lambda: seconds() - BACK.total_seconds()
    dt.datetime = Back  # type: ignore[misc]
    for module in list(sys.modules.values()):
        if (
            getattr(module, "__name__", "").startswith("thirdshift")
            and getattr(module, "datetime", None) is real
        ):
            module.datetime = Back  # type: ignore[attr-defined]


HINDRANCES: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "a reader": lambda: None,
    "few files": few_files,
    "a full disk": lambda: threading.Timer(AFTER_SECONDS, fill_disk).start(),
    "a clock set back": lambda: threading.Timer(AFTER_SECONDS, set_clock_back).start(),
}
"""What a life calls at its start; a reader is a process of its own (`read_meanwhile`)."""


@contextmanager
def read_meanwhile(warehouse: Path, *, wanted: bool) -> Iterator[None]:
    """Another process has the warehouse open to read, if it is there."""
    if not wanted or not warehouse.exists():
        yield
        return
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(warehouse)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reader:
        if reader.stdout is not None:
            reader.stdout.readline()
        yield
        reader.kill()


@contextmanager
def cut_short(folder: Path, rng: random.Random) -> Iterator[Path | None]:
    """A part or a file of the frozen input has lost its second half meanwhile; None where the night has none yet."""
    files = sorted([*folder.glob("parts/*.parquet"), *folder.glob("requests/*.parquet")])
    if not files or not (folder / "shards").exists():
        yield None
        return
    file = rng.choice(files)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    try:
        yield file
    finally:
        if file.parent.exists():
            file.write_bytes(whole)
