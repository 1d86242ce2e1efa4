"""Whoever reads the warehouse keeps nobody waiting, and sees what it opened; a copy for readers is swapped in whole."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from thirdshift.warehouse.errors import StoreError, WarehouseInUse
from thirdshift.warehouse.store import runs
from thirdshift.warehouse.store.readers import copy_for_readers, move_from_readers
from thirdshift.warehouse.store.store import Warehouse

HOLD = """
import duckdb, sys
con = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "reader")
print(con.execute("select count(*) from runs").fetchone()[0], flush=True)
sys.stdin.readline()
print(con.execute("select count(*) from runs").fetchone()[0], flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "w.duckdb"
    enter(place, "first")
    return place


def enter(place: Path, run_id: str, **waiting: float) -> list[str]:
    messages: list[str] = []
    with Warehouse.open(place, say=messages.append, **waiting) as warehouse:
        runs.start(warehouse, {"run_id": run_id, "job": "j", "status": "running"})
    return messages


def ids(place: Path) -> list[str]:
    with duckdb.connect(str(place), read_only=True) as con:
        return [run_id for (run_id,) in con.execute("select run_id from runs order by 1").fetchall()]


@contextmanager
def held_by(place: Path, who: str) -> Iterator[subprocess.Popen[str]]:
    """Another process has the file open until its stdin gets a line."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place), who],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "1\n"
        yield holder
        holder.stdin.close()
        assert holder.stdout.read() == "1\n", "what it has open stays as it was"


def test_a_reader_that_stays_is_not_waited_for_and_keeps_what_it_has(path: Path) -> None:
    os.chmod(path, 0o600)
    with held_by(path, "reader"):
        said = enter(path, "second", wait_seconds=30)
        assert "going on in a copy" in said[-1]
        assert enter(path, "third", wait_seconds=5) == [], "once is enough"
    assert ids(path) == ["first", "second", "third"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(p.name for p in path.parent.iterdir()) == ["w.duckdb", "w.duckdb.d"]


def test_what_a_killed_writer_left_in_its_log_goes_along(path: Path) -> None:
    killed = (
        "import os, sys; from pathlib import Path; from thirdshift.warehouse.store.store import Warehouse\n"
        "from thirdshift.warehouse.store import runs\n"
        "held = Warehouse.open(Path(sys.argv[1])); w = held.__enter__()\n"
        "runs.start(w, {'run_id': 'killed', 'job': 'j', 'status': 'running'}); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", killed, str(path)], check=False)
    assert path.with_name("w.duckdb.wal").exists()
    code = HOLD.replace("count(*)", "count(*) - 1")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path), "reader"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        enter(path, "second", wait_seconds=30)
        holder.kill()
    assert ids(path) == ["first", "killed", "second"]


def test_a_writer_is_waited_for_and_its_file_left_alone(path: Path) -> None:
    before = path.stat().st_ino
    with held_by(path, "writer"):
        assert move_from_readers(path) is False
        with pytest.raises(WarehouseInUse, match="is in use"):
            enter(path, "second", wait_seconds=1.5)
        with pytest.raises(StoreError, match="was written to by another process"):
            copy_for_readers(path, path.with_name("copy.duckdb"), wait_seconds=0.2)
    assert path.stat().st_ino == before


def test_a_copy_is_swapped_in_while_the_old_one_is_read(path: Path) -> None:
    copy = path.parent / "for" / "dashboards.duckdb"
    copy_for_readers(path, copy, wait_seconds=5)
    with held_by(copy, "reader"):
        enter(path, "second")
        copy_for_readers(path, copy, wait_seconds=5)
        assert ids(copy) == ["first", "second"]
    assert [p.name for p in copy.parent.iterdir()] == ["dashboards.duckdb"]
    with pytest.raises(StoreError, match="is the warehouse itself"):
        copy_for_readers(path, path, wait_seconds=5)
    rows = path.with_name("rows.parquet")
    rows.write_text("PAR1 and other rows")
    with pytest.raises(StoreError, match="no copy of a warehouse"):
        copy_for_readers(path, rows, wait_seconds=5)
    assert rows.read_text() == "PAR1 and other rows"
