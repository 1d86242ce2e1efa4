"""Readers keep nobody waiting: the warehouse goes on in a copy of its file, and there is a copy made for readers.

DuckDB lets one process write a file or many read it. A dashboard that has the file open would keep a night out for as
long as it is open. The night then puts a copy in the file's place and works there; the reader keeps what it has open, as
it was, and finds the new one when it opens the file anew.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from thirdshift.warehouse.errors import StoreError
from thirdshift.warehouse.journal.files import private_dir
from thirdshift.warehouse.journal.run_folder import run_folder

MARK = ".moving"
"""The file beside the runs whose lock lets one process at a time put a copy in the warehouse's place."""
LOOK_SECONDS = 0.1


def move_from_readers(path: Path) -> bool:
    """Put a copy in the warehouse's place where nobody but readers has it.

    Returns whether the file is another now; False: somebody writes to it, or a copy has no room.
    """
    place = Path(os.path.realpath(path))
    try:
        with place.open("rb") as source, _alone(place):
            fcntl.lockf(source, fcntl.LOCK_SH | fcntl.LOCK_NB)  # no writer has it, and none gets it meanwhile
            if _is(place, source):
                _replace(place, source, os.fstat(source.fileno()).st_mode & 0o777)
    except OSError:
        return False
    return True


def copy_for_readers(path: Path, target: Path, *, wait_seconds: float) -> None:
    """Swap in a copy of the warehouse at `target`: whoever opens it sees the old one or the new one, whole.

    Nobody has the warehouse open in this process. Raises StoreError: it is written to for longer than `wait_seconds`, or
    is not to be copied; OSError where `target` cannot be written.
    """
    if target.exists() and target.samefile(path):
        raise StoreError(f"warehouse_copy: {target} is the warehouse itself; name another file")
    if target.is_file() and not is_duckdb(target):
        raise StoreError("there is a file there that is no copy of a warehouse; name another, or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    mask = os.umask(0)
    os.umask(mask)
    with path.open("rb") as source, _alone(Path(os.path.realpath(path))):
        _shared(path, source, wait_seconds)
        if path.with_name(f"{path.name}.wal").exists():
            raise StoreError(f"{path} has a log that is not yet in it; the next run copies it")
        _replace(target, source, 0o666 & ~mask)


def is_duckdb(path: Path) -> bool:
    """Return whether what stands at `path` can be DuckDB's, which opens Parquet and others too, as something else."""
    with suppress(OSError), path.open("rb") as file:
        head = file.read(12)
        return not head or head[8:] == b"DUCK"
    return True


def inode(path: Path) -> int | None:
    """Which file is at `path`; None where there is none."""
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _shared(path: Path, source: BinaryIO, wait_seconds: float) -> None:
    last = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.lockf(source, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        except OSError:
            if time.monotonic() > last:
                raise StoreError(
                    f"{path} was written to by another process for {wait_seconds:.0f} s"
                ) from None
            time.sleep(LOOK_SECONDS)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    mark = run_folder(place, MARK)
    private_dir(mark.parent)
    with open(os.open(mark, os.O_RDWR | os.O_CREAT, 0o600), "wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _is(place: Path, source: BinaryIO) -> bool:
    """Whether `source` is what stands at `place`; another process may have moved it meanwhile."""
    return os.path.samestat(place.stat(), os.fstat(source.fileno()))


def _replace(place: Path, source: BinaryIO, mode: int) -> None:
    """Put a copy of `source` at `place`, whole or not at all."""
    temporary = place.with_name(f".{place.name}.tmp")  # one process at a time is here
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as copy:
            shutil.copyfileobj(source, copy, 16 << 20)
            copy.flush()
            os.fsync(copy.fileno())
            os.fchmod(copy.fileno(), mode)
        os.replace(temporary, place)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
