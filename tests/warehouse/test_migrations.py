"""A warehouse of every earlier schema version opens after `migrate`, with a copy of what it was beside it."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import duckdb
import pytest

from thirdshift.warehouse.errors import StoreError
from thirdshift.warehouse.store import migrate as migrate_module
from thirdshift.warehouse.store import runs
from thirdshift.warehouse.store.ask import ask
from thirdshift.warehouse.store.migrate import build, migrate
from thirdshift.warehouse.store.schema import CONTRACT_TABLES, MIGRATIONS, VERSION
from thirdshift.warehouse.store.store import Warehouse
from thirdshift.warehouse.store.views import CONTRACT_VIEWS

CONTRACT = {
    "runs": "run_id job params status outcomes started_at finished_at deadline floor cap_usd planned_usd spent_usd "
    "config job_hash input_fingerprint version",
    "requests": "run_id request_id request_hash source_row task policy metadata",
    "assignments": "run_id request_id task endpoint shard_id input_tokens output_tokens difficulty predicted_quality "
    "predicted_usd runner_up runner_up_usd",
    "shards": "run_id shard_id endpoint purpose requests status started_at finished_at attempts",
    "workers": "run_id worker_id endpoint node device pid started_at ready_at stopped_at usd_per_hour cost_usd",
    "results": "run_id request_id task endpoint model output reasoning finish_reason valid score error attempts "
    "completed_at reused_from metadata",
    "rejects": "run_id request_id source_row reason",
    "ledger": "entry_id run_id request_id shard_id endpoint model model_reported provider mode region purpose attempt "
    "input_tokens cached_tokens output_tokens reasoning_tokens reserved_usd cost_usd status provider_ref price_id "
    "started_at settled_at",
    "observations": "run_id request_id task endpoint model score scorer basis purpose observed_at",
    "certificates": "run_id task floor confidence basis scorer population scored mean lower_bound certified method "
    "issued_at",
    "prices": "price_id endpoint model mode input_usd_per_mtok output_usd_per_mtok cached_usd_per_mtok usd_per_hour "
    "source as_of valid_from valid_to",
    "meta": "schema_version",
}
"""The contract's page, column for column."""


def of_version(path: Path, version: int) -> Path:
    """A warehouse as a program of that version left it, with a run, a request and an entry."""
    with duckdb.connect(str(path)) as con:
        build(con, version)
        con.execute("insert into runs (run_id, job, cap_usd) values ('r', 'j', 1.5)")
        con.execute(
            "insert into requests (run_id, request_id, task, row, leader) values ('r', 'a', 'triage', 0, 0)"
        )
        con.execute(
            "insert into ledger (entry_id, run_id, request_id, cost_usd, purpose, status, started_at)"
            " values ('e', 'r', 'a', 0.25, 'main', 'settled', '2026-11-22 01:00:00+00')"
        )
        if version > 1:
            con.execute("update ledger set task = 'triage'")
    return path


def test_a_new_warehouse_has_the_contracts_columns_and_views(tmp_path: Path) -> None:
    assert set(CONTRACT) == set(CONTRACT_TABLES)
    with Warehouse.open(tmp_path / "w.duckdb") as warehouse:
        for table, columns in CONTRACT.items():
            assert set(columns.split()) <= set(warehouse.query(f"from {table}").column_names), table
        columns_of_all = warehouse.query(
            "select table_name || '.' || column_name as name, data_type from duckdb_columns()"
        )
        types = {row["name"]: row["data_type"] for row in columns_of_all.to_pylist()}
        for view in CONTRACT_VIEWS:
            assert warehouse.query(f"from {view}").num_rows == 0
    usd = [name for name in types if re.search(r"(ledger|runs|assignments|workers)\..*_usd$", name)]
    assert {types[name] for name in usd} == {"DECIMAL(18,9)"}
    assert {types[f"prices.{c}_usd_per_mtok"] for c in ("input", "output", "cached")} == {"DECIMAL(18,12)"}
    assert {t for name, t in types.items() if name.endswith("_at") and not name.startswith("answers")} == {
        "TIMESTAMP WITH TIME ZONE"
    }


def test_every_version_has_its_step() -> None:
    assert set(MIGRATIONS) == set(range(2, VERSION + 1))
    assert all(sentence.endswith(".") for sentence, _ in MIGRATIONS.values())


@pytest.mark.parametrize("version", range(1, VERSION))
def test_a_warehouse_of_an_earlier_version_is_refused_migrated_and_opened(
    tmp_path: Path, version: int
) -> None:
    path = of_version(tmp_path / "w.duckdb", version)
    with pytest.raises(StoreError, match=f"has schema {version}, .*thirdshift migrate --warehouse"):
        Warehouse.open(path).__enter__()
    before = path.read_bytes()

    done = migrate(path)

    assert (done.before, done.after, len(done.steps)) == (version, VERSION, VERSION - version)
    assert done.backup is not None
    assert done.backup.read_bytes() == before
    assert done.backup.stat().st_mode & 0o777 == 0o600
    with Warehouse.open(path) as warehouse:
        assert runs.get(warehouse, "r") is not None
        for view in CONTRACT_VIEWS:
            warehouse.query(f"from {view}")
    assert ask(path, "select task, cost_usd::double as usd from spend_by_task").to_pylist() == [
        {"task": "triage", "usd": 0.25}
    ]
    assert migrate(path).backup is None


def test_a_step_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = of_version(tmp_path / "w.duckdb", 1)
    monkeypatch.setitem(
        migrate_module.MIGRATIONS, 2, ("Breaks.", MIGRATIONS[2][1] + "; select * from nothing_here")
    )
    with pytest.raises(StoreError, match=r"not migrated, nothing was changed: .*nothing_here"):
        migrate(path)
    with duckdb.connect(str(path)) as con:
        assert con.execute("select schema_version from meta").fetchall() == [(1,)]
        assert "tag" not in [row[0] for row in con.execute("describe requests").fetchall()]


def test_a_warehouse_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = of_version(tmp_path / "w.duckdb", VERSION)
    with duckdb.connect(str(path)) as con:
        con.execute(f"update meta set schema_version = {VERSION + 1}")
    for use in (lambda: Warehouse.open(path).__enter__(), lambda: migrate(path)):
        with pytest.raises(
            StoreError, match=f"has schema {VERSION + 1}; this thirdshift knows up to {VERSION}"
        ):
            use()


def test_someone_elses_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "theirs.duckdb"
    with duckdb.connect(str(path)) as con:
        con.execute("create table customers as select 1 as id")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="something else"):
        Warehouse.open(path).__enter__()
    with pytest.raises(StoreError, match="something else"):
        migrate(path)
    with pytest.raises(StoreError, match="no warehouse to migrate"):
        migrate(tmp_path / "none.duckdb")
    assert path.read_bytes() == before


def test_threads_of_one_process_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    order: list[str] = []

    def hold() -> None:
        with Warehouse.open(path):
            order.append("in")
            time.sleep(0.3)
            order.append("out")

    threads = [threading.Thread(target=hold) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order == ["in", "out"] * 3
