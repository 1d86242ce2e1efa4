"""Opening a DuckDB file that others use too: one process has it at a time, so whoever comes next waits."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from thirdshift.warehouse.errors import StoreError, WarehouseInUse, first_line
from thirdshift.warehouse.store import instances
from thirdshift.warehouse.store.readers import inode, is_duckdb, move_from_readers

WAIT_SECONDS = 600.0
WAITS_SECONDS = (0.02, 0.2)
"""Between two tries, at random. Ingesting a part takes about as long; longer and growing waits starve who came first."""

READERS_SECONDS = 1.0
"""A question takes less; whoever reads for longer keeps the file open."""

FULL = ("No space left on device", "Disk quota exceeded", "File too large", "Could not write all bytes")
"""In DuckDB's messages, of a disk that takes no more."""

OPEN_ANOTHER_WAY = ("different configuration", "Unique file handle conflict")
"""In DuckDB's messages, of a file that this process has open in another instance."""

Say = Callable[[str], None]

_own: dict[str, threading.RLock] = {}
_own_guard = threading.Lock()


def own_lock(path: Path) -> threading.RLock:
    """Threads of this process take turns on a file, as processes do."""
    with _own_guard:
        return _own.setdefault(os.path.realpath(path), threading.RLock())


@contextmanager
def held(path: Path, wait_seconds: float) -> Iterator[None]:
    """Hold a file's lock among the threads of this process. Raises WarehouseInUse: not free within `wait_seconds`."""
    lock = own_lock(path)
    if not lock.acquire(timeout=wait_seconds):
        raise WarehouseInUse(f"{path} was in use by another thread of this process for {wait_seconds:.0f} s")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def opened_read_only(
    path: Path, *, wait_seconds: float, say: Say | None, config: Mapping[str, Any] | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a warehouse that is there, for reading. Raises StoreError: none there, or in use for too long."""
    check_exists(path)
    with held(path, wait_seconds):
        con = connect(path, read_only=True, config=config, wait_seconds=wait_seconds, say=say)
        try:
            yield con
        finally:
            con.close()


def check_exists(path: Path) -> None:
    """Raise StoreError where there is no warehouse file: asking does not make one."""
    if not path.exists():
        beside = sorted(other.name for other in path.parent.glob("*.duckdb"))[:3]
        there = f" (here is {', '.join(beside)})" if beside else ""
        raise StoreError(
            f"{path}: there is no warehouse; run a job first, or name another file with --warehouse{there}"
        )


def is_lock(error: BaseException) -> bool:
    """Return whether an error of DuckDB means that the file is in use, so that trying again can help."""
    text = str(error)
    if isinstance(error, duckdb.IOException):
        return "lock" in text
    # this process has the file open another way
    return isinstance(error, duckdb.Error) and any(way in text for way in OPEN_ANOTHER_WAY)


def connect(
    path: Path,
    *,
    read_only: bool = False,
    config: Mapping[str, Any] | None = None,
    wait_seconds: float = WAIT_SECONDS,
    say: Say | None = None,
) -> duckdb.DuckDBPyConnection:
    """Connect, waiting while another process writes to the file; `say` is told once whom we wait for.

    Who writes waits a second for readers, and then goes on in a copy. Raises WarehouseInUse where the file is still locked
    after `wait_seconds`; StoreError: not to be opened, or no DuckDB file.
    """

    def opened() -> duckdb.DuckDBPyConnection:
        return duckdb.connect(str(path), read_only=read_only, config=dict(config or {}))

    con = _patiently(path, opened, duckdb.DuckDBPyConnection.close, read_only, wait_seconds, say)
    con.execute(instances.QUIET)
    return con


def attach(
    path: Path,
    instance: duckdb.DuckDBPyConnection,
    *,
    wait_seconds: float = WAIT_SECONDS,
    say: Say | None = None,
) -> None:
    """Open the file for writing in an instance that is there, as `connect` does; raises what that raises."""

    def opened() -> duckdb.DuckDBPyConnection:
        instances.attach(instance, path)
        return instance

    _patiently(path, opened, instances.detach, False, wait_seconds, say)


def _patiently(
    path: Path,
    opened: Callable[[], duckdb.DuckDBPyConnection],
    closed: Callable[[duckdb.DuckDBPyConnection], None],
    read_only: bool,
    wait_seconds: float,
    say: Say | None,
) -> duckdb.DuckDBPyConnection:
    import tenacity

    _check_kind(path)
    messages: list[str] = []
    begun = time.monotonic()

    def before_sleep(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is None:
            return
        in_the_way = not read_only and isinstance(error, duckdb.IOException)
        if in_the_way and time.monotonic() - begun > READERS_SECONDS and move_from_readers(path):
            (say or _say_on_stderr)(
                f"{path} is being read{_holder(error)}: going on in a copy, which is now in its place; who reads sees it "
                "once the file is opened anew"
            )
            return
        if not messages:
            messages.append(f"{path} is in use{_holder(error)}; waiting up to {wait_seconds:.0f} s")
            (say or _say_on_stderr)(messages[0])

    def attempt() -> duckdb.DuckDBPyConnection:
        """The file that stands there; it may be replaced by another process just then."""
        while True:
            before = inode(path)
            con = opened()
            if before is None or inode(path) == before:
                return con
            closed(con)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_lock),
        wait=tenacity.wait_random(*WAITS_SECONDS),
        stop=tenacity.stop_after_delay(wait_seconds),
        before_sleep=before_sleep,
        reraise=True,
    )
    try:
        return retrying(attempt)
    except duckdb.Error as error:
        kind = WarehouseInUse if is_lock(error) else StoreError
        raise kind(_explained(path, error, wait_seconds)) from error


def _check_kind(path: Path) -> None:
    if not is_duckdb(path):
        raise StoreError(
            f"{path} cannot be opened as a warehouse: it is no DuckDB file; name another file with --warehouse"
        )


def unwritten(path: Path, error: duckdb.Error) -> str:
    """Why a change to the warehouse failed; all of it is undone."""
    reason = first_line(error)
    if any(word in str(error) for word in FULL):
        return f"{path}: the disk is full ({reason}); free some space in {path.parent}"
    return f"{path}: {reason}"


def _say_on_stderr(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201


def _holder(error: BaseException) -> str:
    match = re.search(r"held in (.+?) \(PID (\d+)\)", str(error))
    return f" by process {match[2]} ({os.path.basename(match[1])})" if match else " by another process"


def _explained(path: Path, error: duckdb.Error, waited: float) -> str:
    if is_lock(error):
        return (
            f"{path} is in use{_holder(error)} and was not free within {waited:.0f} s; end that process, or close "
            "the program that has the file open, and try again"
        )
    if any(word in str(error) for word in FULL):
        return unwritten(path, error)
    if not path.parent.is_dir():
        return f"{path}: {path.parent} is no folder"
    if path.exists() and not os.access(path, os.W_OK):
        return f"{path} is read-only for this user; make it writable or name another file with --warehouse"
    return f"{path} cannot be opened as a warehouse: {first_line(error)}; name another file with --warehouse"
