"""The folder of a run that is over: few files, and all that later commands read; after `retention_days` none."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.support.warehouses import COUNT, NOW, secret_run, traces
from thirdshift.warehouse.errors import StoreError
from thirdshift.warehouse.exchange import purge
from thirdshift.warehouse.exchange.compaction import compact
from thirdshift.warehouse.exchange.purge import UNFINISHED, purge_outlived
from thirdshift.warehouse.journal import parts
from thirdshift.warehouse.journal.journal import recover
from thirdshift.warehouse.journal.run_folder import run_folder
from thirdshift.warehouse.store import requests
from thirdshift.warehouse.store.ask import ask
from thirdshift.warehouse.store.ingest import ingest_parts, missing_parts
from thirdshift.warehouse.store.store import Warehouse

LEDGER = "select * from ledger order by entry_id"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a run with two parts, and with what it needed while it was under way."""
    folder = secret_run(tmp_path / "w.duckdb", "old", NOW - timedelta(days=30))
    recover(folder)
    (folder / "shards").mkdir()
    (folder / "shards" / "00001-main-small.npy").touch()
    (folder / "admitted").touch()
    return folder


@pytest.fixture
def path(folder: Path, tmp_path: Path) -> Path:
    return tmp_path / "w.duckdb"


def compacted(path: Path, folder: Path) -> None:
    with Warehouse.open(path) as warehouse:
        compact(warehouse, folder.name, folder)


def entries(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = ask(path, LEDGER).to_pylist()
    return rows


def test_one_part_is_left_and_gives_a_lost_warehouse_all_entries_back(path: Path, folder: Path) -> None:
    compacted(path, folder)
    before = entries(path)
    assert len(before) == 2 * COUNT, "what was sealed and not ingested is in too"
    left = {str(file.relative_to(folder)) for file in folder.rglob("*")}
    assert not left & {"shards", "admitted", "journal"}
    assert [part.name for part in parts.of_run(folder)] == ["all.parquet"]
    path.unlink()
    with Warehouse.open(path) as warehouse:
        requests.save(warehouse, "old", folder)
        ingest_parts(warehouse, *missing_parts(warehouse, "old", folder))
    assert entries(path) == before


def test_parts_that_a_crash_left_beside_the_one_count_once(path: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "parts", tmp_path / "parts")
    compacted(path, folder)
    before = entries(path)
    for part in parts.of_run(tmp_path):
        shutil.copy(part, folder / "parts")
    compacted(path, folder)
    assert entries(path) == before
    assert len(parts.of_run(folder)) == 1
    path.unlink()
    with Warehouse.open(path) as warehouse:
        requests.save(warehouse, "old", folder)
        assert ingest_parts(warehouse, *parts.of_run(folder)) == 2 * COUNT


def test_a_part_that_cannot_be_read_is_named_and_all_are_left(path: Path, folder: Path) -> None:
    compacted_before = {part.name: part.read_bytes() for part in parts.of_run(folder)}
    with Warehouse.open(path) as warehouse:
        ingest_parts(warehouse, *missing_parts(warehouse, "old", folder))
    damaged = folder / "parts" / "s.parquet"
    damaged.write_bytes(compacted_before["s.parquet"][:100])
    with pytest.raises(StoreError, match=r"s\.parquet: this part cannot be read"):
        compacted(path, folder)
    damaged.write_bytes(compacted_before["s.parquet"])
    assert {part.name: part.read_bytes() for part in parts.of_run(folder)} == compacted_before


def test_a_run_whose_batches_go_on_is_left_as_it_is(path: Path, tmp_path: Path) -> None:
    folder = secret_run(path, "new", NOW)
    (folder / "shards").mkdir()
    compacted(path, folder)
    assert (folder / "shards").is_dir()
    assert list((folder / "journal").glob("*.jsonl"))


def test_text_that_has_outlived_its_days_goes_with_its_folder_and_the_money_stays(
    path: Path, folder: Path
) -> None:
    secret_run(path, "new", NOW)
    compacted(path, folder)
    spent = ask(path, "select sum(cost_usd) as usd from ledger where run_id = 'old'").to_pylist()
    done = purge_outlived(path, "j", NOW - timedelta(days=7), alive=[])
    assert (done.runs, done.requests) == (("old",), COUNT)
    assert not folder.exists()
    assert ask(path, "select sum(cost_usd) as usd from ledger where run_id = 'old'").to_pylist() == spent
    assert run_folder(path, "new").exists()
    assert purge_outlived(path, "j", NOW - timedelta(days=7), alive=[]).requests == 0, "it is done"


def test_text_in_freed_blocks_goes_with_the_next_night_where_the_file_could_not_be_written_anew(
    path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compacted(path, folder)

    def full(*_: object) -> None:
        raise duckdb.IOException("Could not write all bytes to file: No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(purge, "_database", full)
        with pytest.raises(StoreError, match="the disk is full"):
            purge_outlived(path, "j", NOW, alive=[])
    assert run_folder(path, UNFINISHED).exists()
    assert not list(path.parent.glob(".*.compact"))
    done = purge_outlived(path, "j", NOW, alive=[])
    assert (done.requests, run_folder(path, UNFINISHED).exists()) == (0, False)
    assert {what for n in range(COUNT) for what in traces(path.parent, n)} == set()
