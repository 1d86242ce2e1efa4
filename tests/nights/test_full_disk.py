"""A disk that takes no more, at each place where a night writes: said with the folder, nothing lost, and it goes on.

The kernel refuses to let any file of this process grow beyond a size (RLIMIT_FSIZE), as a full disk or a quota would.
"""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.warehouses import intent, outcome
from thirdshift.flows.errors import BrokeOff, UserError
from thirdshift.flows.execution.opening import storage_error
from thirdshift.warehouse.errors import InputError, JournalError, PublishError, StoreError, of_storage
from thirdshift.warehouse.exchange.publish import publish
from thirdshift.warehouse.intake.intake import InputSpec, freeze
from thirdshift.warehouse.journal import parts
from thirdshift.warehouse.journal.journal import FileJournal, recover
from thirdshift.warehouse.journal.run_folder import MARKER, run_folder
from thirdshift.warehouse.store import requests, results, runs
from thirdshift.warehouse.store.ingest import ingest_parts
from thirdshift.warehouse.store.store import Warehouse

MANY = 400


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_records_of_several_shards_are_written_all_or_none(tmp_path: Path) -> None:
    with FileJournal(tmp_path) as journal:
        journal.sent([intent(0, "a"), *(intent(n, "b") for n in range(1, 9))])
        sizes = {path.name: path.stat().st_size for path in (tmp_path / "journal").iterdir()}
        with (
            files_no_larger_than(max(sizes.values()) + 10),
            pytest.raises(JournalError, match=r"journal/b\.jsonl: cannot be written: .*; free some space"),
        ):
            journal.sent([intent(10, "a"), intent(11, "b")])
        assert {path.name: path.stat().st_size for path in (tmp_path / "journal").iterdir()} == sizes
        journal.sent([intent(10, "a"), intent(11, "b")])
        journal.settled([outcome(10), outcome(11)])


def test_what_cannot_be_sealed_or_put_in_stays_and_goes_in_later(tmp_path: Path) -> None:
    path, folder = tmp_path / "w.duckdb", run_folder(tmp_path / "w.duckdb", "run")
    with Warehouse.open(path) as warehouse:
        runs.start(warehouse, {"run_id": "run"})
    with FileJournal(folder) as journal:
        journal.sent(intent(n) for n in range(MANY))
        journal.settled(outcome(n, "an answer " * 50 + str(n)) for n in range(MANY))
    with (
        files_no_larger_than(4096),
        pytest.raises(JournalError, match=r"cannot be sealed: .*journal is kept"),
    ):
        recover(folder)
    assert [file.name for file in (folder / "parts").iterdir()] == []
    assert recover(folder) == ["s1"]
    with (
        files_no_larger_than(65536),
        Warehouse.open(path) as warehouse,
        pytest.raises(StoreError, match=rf"w\.duckdb: the disk is full .* free some space in {tmp_path}"),
    ):
        ingest_parts(warehouse, *parts.of_run(folder))
    with Warehouse.open(path) as warehouse:
        assert ingest_parts(warehouse, *parts.of_run(folder)) == MANY
        assert ingest_parts(warehouse, *parts.of_run(folder)) == 0


def test_an_input_is_frozen_whole_or_not_at_all(tmp_path: Path) -> None:
    rows = {
        "request_id": [f"r{n}" for n in range(MANY)],
        "prompt": [f"{n * 7919:x} {n}" for n in range(MANY)],
    }
    pq.write_table(pa.table(rows), tmp_path / "in.parquet")
    folder = tmp_path / "run"
    with files_no_larger_than(4096), pytest.raises(OSError) as raised:  # noqa: PT011 - what it is told as counts
        freeze(InputSpec("in.parquet", tmp_path), folder)
    assert f"{folder}: File too large; free some space there" in (of_storage(raised.value, folder) or "")
    assert freeze(InputSpec("in.parquet", tmp_path), folder).rows == MANY


def test_results_that_cannot_be_published_are_published_later(tmp_path: Path) -> None:
    path, folder = tmp_path / "w.duckdb", run_folder(tmp_path / "w.duckdb", "run")
    rows = {"request_id": [f"r{n}" for n in range(MANY)], "prompt": [f"{n}" for n in range(MANY)]}
    pq.write_table(pa.table(rows), tmp_path / "in.parquet")
    folder.mkdir(parents=True)
    (folder / MARKER).touch(0o600)
    freeze(InputSpec("in.parquet", tmp_path), folder)
    with Warehouse.open(path) as warehouse:
        runs.start(warehouse, {"run_id": "run", "job": "j"})
        requests.save(warehouse, "run", folder)
        results.compose(warehouse, "run", pa.table({"row": range(MANY), "endpoint": ["small"] * MANY}))
    with (
        files_no_larger_than(2048),
        pytest.raises(PublishError, match=r"File too large.*resuming the run publishes"),
    ):
        publish(path, "run", "out", tmp_path)
    assert not list((tmp_path / "out").rglob("manifest.json"))
    assert publish(path, "run", "out", tmp_path).rows == MANY


def test_a_night_that_has_sent_something_broke_off_and_one_that_has_not_is_refused(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    for error in (full, StoreError("locked"), JournalError("damaged"), InputError("gone")):
        refused = storage_error(error, tmp_path)
        assert isinstance(refused, UserError)
        assert refused.exit_code == 2
    assert str(storage_error(full, tmp_path)) == f"{tmp_path}: No space left on device; free some space there"
    (tmp_path / "shards").mkdir()
    broke = storage_error(full, tmp_path)
    assert isinstance(broke, BrokeOff)
    assert broke.exit_code == 1
    assert f"what was answered is kept: thirdshift resume {tmp_path.name}" in str(broke)
    ours = OSError(errno.ENOTSOCK, "no socket")
    assert storage_error(ours, tmp_path) is ours, "a fault of ours keeps its trace"
