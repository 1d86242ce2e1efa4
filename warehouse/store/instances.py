"""DuckDB in this process, kept from one opening of a warehouse to the next, with no file open in between.

Starting DuckDB takes longer than opening a warehouse in it, and a night opens its warehouse dozens of times.
"""

from __future__ import annotations

import os
from pathlib import Path

import duckdb

from thirdshift.warehouse.intake.sources import quoted
from thirdshift.warehouse.memory import memory_limit

DATABASE = "warehouse"
"""What an opened warehouse is called in its instance, whatever its file is called."""

MEMORY_SHARE, MOST_BYTES = 0.25, 4 << 30
"""For DuckDB while a warehouse is open; the run beside it needs its own."""
CHECKPOINT_AT = "256MB"
"""Log size. DuckDB's 16 MB make it rewrite row groups after every few parts: two thirds of the time of a long ingest."""
QUIET = "set enable_progress_bar = false"
"""DuckDB draws a bar on stdout when a query takes two seconds, and stdout belongs to what `--json` prints."""

_idle: dict[str, duckdb.DuckDBPyConnection] = {}
"""By the real path of the warehouse: where an instance spills to, and how much it may take, is settled at its start."""

_of_the_parent: list[duckdb.DuckDBPyConnection] = []
"""In a forked process: what it must neither use nor end, for none of its threads is there."""


def take(path: Path) -> duckdb.DuckDBPyConnection:
    """An instance for the warehouse at `path`, the one kept or a new one; nobody else has it until it is put back."""
    place = os.path.realpath(path)
    kept = _idle.pop(place, None)
    if kept is not None:
        return kept
    con = duckdb.connect(
        ":memory:",
        config={
            "temp_directory": f"{place}.tmp",
            "memory_limit": memory_limit(MEMORY_SHARE, MOST_BYTES),
            "checkpoint_threshold": CHECKPOINT_AT,
            "python_enable_replacements": False,
        },
    )
    settle(con)
    return con


def settle(con: duckdb.DuckDBPyConnection) -> None:
    """What DuckDB takes for each of an instance's connections alone."""
    con.execute(QUIET)
    con.execute("set timezone = 'UTC'")


def attach(instance: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Open the warehouse at `path`. Raises duckdb.Error as `duckdb.connect` does."""
    instance.execute(f"attach {quoted(str(path))} as {DATABASE}")
    instance.execute(f"use {DATABASE}")


def detach(instance: duckdb.DuckDBPyConnection) -> None:
    """Close the file, its log merged into it. Raises duckdb.Error."""
    instance.execute("use memory")
    instance.execute(f"detach {DATABASE}")


def put_back(path: Path, instance: duckdb.DuckDBPyConnection) -> None:
    """Close the warehouse and keep its instance, the last one alone; an instance that fails at it is ended."""
    try:
        detach(instance)
    except duckdb.Error:
        instance.close()
        return
    for place in list(_idle):
        if (other := _idle.pop(place, None)) is not None:
            other.close()
    _idle[os.path.realpath(path)] = instance


def _leave_to_the_parent() -> None:
    _of_the_parent.extend(_idle.values())
    _idle.clear()


os.register_at_fork(after_in_child=_leave_to_the_parent)
