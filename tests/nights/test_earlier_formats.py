"""Files of earlier versions: their warehouses are read, and their unfinished runs go on with today's build."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.nights import answer, ask, known_sums, thirdshift
from tests.support.paths import TESTS
from tests.support.servers import billed_usd, cheap, dear, emulated
from thirdshift.engines.emulator import Emulator

ARCHIVES = sorted((TESTS / "formats").glob("*/night.tar.xz"))
"""Made by tests/formats/make.py: a finished run and one that was killed, of the same 240 requests."""
REQUESTS = 240


@pytest.fixture
def provider() -> Iterator[Emulator]:
    with emulated([dear(), cheap()], items=known_sums(REQUESTS), seed=3) as emulator:
        yield emulator


def unpack(archive: Path, folder: Path, provider: Emulator) -> Path:
    """Lay out an archive in `folder`, with its endpoints reached at `provider`, and migrate its warehouse.

    Returns the warehouse's path.
    """
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    for path in [folder / "job.yaml", *folder.glob("warehouse.duckdb.d/*/job.json")]:
        text = path.read_text(encoding="utf-8").replace("/night", str(folder))
        path.write_text(text.replace("http://127.0.0.1:1/v1", provider.api_base), encoding="utf-8")
    warehouse = folder / "warehouse.duckdb"
    migrated = thirdshift("migrate", "--warehouse", warehouse)
    assert migrated.returncode == 0, migrated.stderr
    return warehouse


def attempts_on_disk(run: Path) -> dict[str, tuple[str, str, str, Decimal]]:
    """The attempts of a run that no process is on, by entry id: status, request id, endpoint and US dollars."""
    found = {}
    for part in run.glob("parts/*.parquet"):
        for entry in pq.read_table(part).to_pylist():
            found[entry["entry_id"]] = (
                entry["status"],
                entry["request_id"],
                entry["endpoint"],
                entry["cost_usd"],
            )
    for journal in run.glob("journal/*.jsonl"):
        for line in journal.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record["kind"] == "sent":
                reserved = Decimal(record["reserved_usd"])
                found[record["entry_id"]] = ("unsettled", record["request_id"], record["endpoint"], reserved)
            else:
                _, request_id, endpoint, _ = found[record["entry_id"]]
                cost = Decimal(record["cost_usd"])
                found[record["entry_id"]] = (record["status"], request_id, endpoint, cost)
    return found


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.parent.name)
def test_an_unfinished_run_of_an_earlier_version_goes_on_and_nothing_paid_is_paid_again(
    tmp_path: Path, archive: Path, provider: Emulator
) -> None:
    warehouse = unpack(archive, tmp_path, provider)
    before = attempts_on_disk(tmp_path / "warehouse.duckdb.d" / "unfinished")
    paid = {
        (request_id, endpoint) for status, request_id, endpoint, _ in before.values() if status == "settled"
    }
    assert len(paid) > 100
    assert any(status == "unsettled" for status, *_ in before.values()), "killed with calls in flight"

    done = thirdshift("resume", "unfinished", "--warehouse", warehouse, "--json")
    assert done.returncode in {0, 3}, done.stderr  # the floor is certified or is not; either is an end
    assert answer(done)["results"] == REQUESTS
    results = ask(warehouse, "select request_id, error from results where run_id = 'unfinished'")
    assert len({request_id for request_id, _ in results}) == len(results) == REQUESTS
    assert all(error is None for _, error in results)

    ledger = {
        entry: tuple(rest)
        for entry, *rest in ask(
            warehouse,
            "select entry_id, status, request_id, endpoint, cost_usd from ledger where run_id = 'unfinished'",
        )
    }
    assert {entry: ledger[entry] for entry in before} == before
    since = [ledger[entry] for entry in ledger.keys() - before.keys()]
    assert since
    assert paid.isdisjoint((request_id, endpoint) for _, request_id, endpoint, _ in since)
    assert sum(cost for *_, cost in since) == billed_usd(provider)


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.parent.name)
def test_a_finished_run_of_an_earlier_version_is_read_and_spends_nothing(
    tmp_path: Path, archive: Path, provider: Emulator
) -> None:
    warehouse = unpack(archive, tmp_path, provider)
    done = thirdshift("resume", "finished", "--warehouse", warehouse, "--json")
    summary = answer(done)
    assert done.returncode == summary["exit"]
    assert summary["results"] == REQUESTS
    assert summary["certificate"]["population"] == REQUESTS
    assert provider.books() == []
    shown = thirdshift("report", "finished", "--warehouse", warehouse, "--output", tmp_path / "night.html")
    assert shown.returncode == 0, shown.stderr
    assert "finished" in (tmp_path / "night.html").read_text(encoding="utf-8")
