"""DuckDB is started once for a warehouse, and between two openings the file is nobody's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tests.support.patience import PATIENCE_SECONDS
from thirdshift.warehouse.store import instances
from thirdshift.warehouse.store.store import Warehouse

WRITTEN_BY_ANOTHER = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute('insert into meta values (0)')"


def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What DuckDB is started for from now on."""
    files: list[str] = []
    connect = duckdb.connect

    def counting(database: str, **settings: object) -> duckdb.DuckDBPyConnection:
        files.append(database)
        return connect(database, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(duckdb, "connect", counting)
    return files


def written_elsewhere(path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", WRITTEN_BY_ANOTHER, str(path)], check=True, timeout=PATIENCE_SECONDS
    )


def test_duckdb_is_started_once_and_others_have_the_file_between_two_openings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, starts = tmp_path / "nights.duckdb", started(monkeypatch)
    with Warehouse.open(path) as warehouse:
        assert warehouse.scalar("select count(*) from meta") == 1
    assert sorted(os.listdir(tmp_path)) == ["nights.duckdb"], "the log is merged into the file"
    written_elsewhere(path)
    with Warehouse.open(path) as warehouse:
        assert warehouse.scalar("select count(*) from meta") == 2
    assert starts == [":memory:"]


def test_a_stream_left_half_read_keeps_no_file_open(tmp_path: Path) -> None:
    path = tmp_path / "nights.duckdb"
    with Warehouse.open(path) as warehouse:
        batches = warehouse.stream("select * from range(100_000) t(a), meta", rows=10)
        next(batches)
    written_elsewhere(path)
    with Warehouse.open(path) as warehouse:
        assert warehouse.scalar("select count(*) from meta") == 2
    batches.close()


@pytest.mark.parametrize("name", ["memory", "system", "temp", "main", "warehouse", "it's"])
def test_a_warehouse_may_be_called_what_duckdb_calls_its_own(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.duckdb"
    for _ in range(2):
        with Warehouse.open(path) as warehouse:
            assert warehouse.count("runs", "night") == 0
            assert next(warehouse.stream("select count(*) from results"))[0].to_pylist() == [0]


def test_two_warehouses_open_at_once_see_their_own_tables_alone(tmp_path: Path) -> None:
    with Warehouse.open(tmp_path / "one.duckdb") as one, Warehouse.open(tmp_path / "two.duckdb") as two:
        one.execute("insert into meta values (-1)")
        assert (one.scalar("select count(*) from meta"), two.scalar("select count(*) from meta")) == (2, 1)
        assert one.columns("runs") == two.columns("runs") == list(dict.fromkeys(one.columns("runs")))


def test_what_does_not_fit_is_spilled_beside_the_file(tmp_path: Path) -> None:
    with Warehouse.open(tmp_path / "nights.duckdb") as warehouse:
        place = warehouse.scalar("select current_setting('temp_directory')")
    assert place == os.path.realpath(tmp_path / "nights.duckdb.tmp")


def test_a_forked_process_starts_its_own(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
import duckdb
from thirdshift.warehouse.store.store import Warehouse

starts = []
connect = duckdb.connect
duckdb.connect = lambda *words, **settings: starts.append(1) or connect(*words, **settings)
path = Path(sys.argv[1])
with Warehouse.open(path):
    pass
if child := os.fork():
    with Warehouse.open(path):  # the parent goes on in the one it has
        pass
    status = os.waitpid(child, 0)[1]
    os._exit(100 if status or len(starts) != 1 else 7)
with Warehouse.open(path, wait_seconds=60) as warehouse:
    assert warehouse.count("runs", "night") == 0
os._exit(len(starts) - 2)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "nights.duckdb")], check=False, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 7


def test_an_instance_that_fails_at_closing_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "nights.duckdb"
    con = instances.take(path)
    instances.put_back(path, con)  # nothing is attached: what it is told to close is not there
    with pytest.raises(duckdb.Error, match="closed"):
        con.execute("select 1")
    with Warehouse.open(path) as warehouse:
        assert warehouse.count("runs", "night") == 0
