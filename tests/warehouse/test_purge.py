"""Erasure: what was purged is nowhere in our files, byte for byte; ids, figures and money stay."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from tests.support.paths import ROOT
from tests.support.warehouses import COUNT, NOW, WHAT, secret, secret_run, traces
from thirdshift.flows.cli.maintenance_commands import purge_text
from thirdshift.flows.errors import UserError
from thirdshift.warehouse.errors import JournalError, StoreError
from thirdshift.warehouse.exchange.purge import purge
from thirdshift.warehouse.exchange.purge_survey import survey
from thirdshift.warehouse.intake.frozen import RowSource
from thirdshift.warehouse.journal import parts
from thirdshift.warehouse.journal.journal import recover
from thirdshift.warehouse.journal.run_folder import MARKER, run_folder
from thirdshift.warehouse.store import runs
from thirdshift.warehouse.store.ask import ask
from thirdshift.warehouse.store.ingest import ingest_parts
from thirdshift.warehouse.store.store import Warehouse


@pytest.fixture
def path(tmp_path: Path) -> Path:
    warehouse = tmp_path / "w.duckdb"
    secret_run(warehouse, "old", NOW - timedelta(days=30))
    secret_run(warehouse, "new", NOW)
    return warehouse


def test_purged_requests_leave_no_trace_and_the_others_stay(path: Path) -> None:
    assert traces(path.parent, 1) == set(WHAT) == traces(path.parent, 2)
    assert secret("output", 1).encode() in path.read_bytes(), "the search of raw bytes would find nothing"
    before = ask(path, "select sum(cost_usd) as usd, count(*) as n from ledger").to_pylist()
    folder = run_folder(path, "new")
    (folder / "thirdshift-batch-x").mkdir()
    killed = (
        "thirdshift-batch-x/1.jsonl",
        "parts/.s.parquet.tmp",
        "../../w.duckdb.v1.backup.tmp",
        "publish/part",
    )
    for name in killed:  # what processes that were killed leave half done
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(secret("prompt", 1))

    done = purge(path, request_ids=["r1", "nobody"])

    assert (done.runs, done.requests, done.backups) == (("new", "old"), 2, ())
    assert done.files == 6, "a part, a journal and a frozen input in each of two runs"
    assert traces(path.parent, 1) == set()
    assert traces(path.parent, 2) == set(WHAT)
    assert ask(path, "select sum(cost_usd) as usd, count(*) as n from ledger").to_pylist() == before
    assert ask(path, "select count(*) as n from results where request_id = 'r1'")["n"].to_pylist() == [2]
    assert "r1" not in ask(path, "from answers")["request_id"].to_pylist()
    assert purge(path, request_ids=["r1"]).files == 0


def test_a_survey_names_every_file_with_the_text_and_changes_none(path: Path) -> None:
    def state() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}

    with Warehouse.open(path) as w:
        config: dict[str, object] = {"output": {"path": "s3://lake/answers"}, "warehouse_copy": "copy.duckdb"}
        config |= {
            "endpoints": [
                {"name": "dear", "mode": "batch"},
                {"name": "own", "mode": "batch", "delete_remote": True},
            ]
        }
        runs.update(w, "new", config=config, published_at=NOW)
    before = state()
    plan = survey(path, request_ids=["r1", "nobody", "r1"])
    assert {file: data for file, data in state().items() if file != path} == {
        file: data for file, data in before.items() if file != path
    }
    assert traces(path.parent, 1) == set(WHAT)
    assert (plan.runs, plan.requests, plan.unknown) == (("new", "old"), 2, ("nobody",))
    assert {file.requests for file in plan.files} == {1}
    purge(path, request_ids=["r1"])
    changed = {
        file for file, data in state().items() if before.get(file) != data and file.parent != path.parent
    }
    assert {file.path for file in plan.files} == changed - {path}
    assert len(plan.files) == 6
    named = "\n".join(plan.copies)
    assert "s3://lake/answers (output: of run new)" in named
    assert "copy.duckdb" in named
    assert "dear: the provider's files" in named
    assert "own" not in named
    assert survey(path, request_ids=["r1"]).files == ()


def test_ids_that_no_run_has_are_named_and_nothing_is_erased(path: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("r1\nnobody\n")
    with pytest.raises(UserError, match="has nobody; nothing was erased"):
        purge_text(path, ids, None, dry_run=False, as_json=False)
    assert traces(run_folder(path, "new"), 1) == set(WHAT)


def test_a_dry_run_says_what_would_go(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("r1\n")
    assert purge_text(path, ids, None, dry_run=True, as_json=False) == 0
    told = capsys.readouterr().out
    assert "would erase the text of 2 requests in 2 runs" in told
    assert told.count(": 1 request\n") == 6
    assert traces(run_folder(path, "new"), 1) == set(WHAT)
    assert purge_text(path, ids, None, dry_run=False, as_json=True) == 0
    assert len(json.loads(capsys.readouterr().out)["from"]) == 6
    assert traces(path.parent, 1) == set()


def test_runs_before_a_date_lose_all_their_text(path: Path) -> None:
    done = purge(path, before=NOW - timedelta(days=1))
    assert (done.runs, done.requests) == (("old",), COUNT)
    assert traces(run_folder(path, "old"), 0) == set()
    assert traces(run_folder(path, "new"), 0) == set(WHAT)
    rows = {r["run_id"]: r["purged_at"] for r in ask(path, "select run_id, purged_at from runs").to_pylist()}
    assert rows["old"] is not None
    assert rows["new"] is None


def test_purged_files_are_still_files_of_their_kind(path: Path) -> None:
    purge(path, request_ids=["r1"])
    folder = run_folder(path, "new")
    kept = list(RowSource(folder, np.arange(COUNT)))
    assert [len(r.messages) for r in kept] == [1, 0, 1, 1]
    assert recover(folder) == ["left behind"]
    with Warehouse.open(path) as warehouse:
        assert sum(ingest_parts(warehouse, part) for part in parts.of_run(folder)) == COUNT
    assert ask(path, "select count(*) as n from ledger where run_id = 'new'")["n"].to_pylist() == [2 * COUNT]
    assert {p.stat().st_mode & 0o777 for p in [path, *folder.rglob("*")] if p.is_file()} == {0o600}


def test_what_servers_said_of_erased_requests_goes_too(path: Path) -> None:
    errors = run_folder(path, "new") / "server-errors.jsonl"
    lines = [f'{{"request_id": "{name}", "said": "you wrote: secret"}}\n' for name in ("r1", "r2")]
    errors.write_text("".join([*lines, "half a li"]))
    purge(path, request_ids=["r1"])
    assert errors.read_text() == lines[1]


def test_a_folder_without_the_marker_of_a_run_is_left_alone(path: Path) -> None:
    folder = run_folder(path, "new")
    (folder / MARKER).unlink()
    with pytest.raises(StoreError, match=r"new holds files that are no run's"):
        purge(path, request_ids=["r1"])
    assert traces(folder, 1) == set(WHAT)


def test_a_run_that_is_alive_is_not_touched(path: Path) -> None:
    with pytest.raises(StoreError, match="run new is being worked on"):
        purge(path, request_ids=["r1"], alive={"new"})
    assert traces(path.parent, 1) == set(WHAT)
    assert purge(path, before=NOW - timedelta(days=1), alive={"new"}).runs == ("old",)


def test_a_run_that_was_not_finished_cannot_go_on(path: Path) -> None:
    with Warehouse.open(path) as warehouse:
        runs.update(warehouse, "new", status="running")
    purge(path, request_ids=["r1"])
    assert ask(path, "select status from runs where run_id = 'new'")["status"].to_pylist() == ["failed"]


def test_backups_that_still_hold_the_text_are_named(path: Path) -> None:
    backup = path.with_name("w.duckdb.v1.backup")
    backup.write_bytes(path.read_bytes())
    assert purge(path, request_ids=["r1"]).backups == (backup,)


def test_a_damaged_journal_stops_the_purge_by_name(path: Path) -> None:
    journal = next((run_folder(path, "old") / "journal").glob("*.jsonl"))
    journal.write_bytes(b"\x00damage\n" + journal.read_bytes())
    with pytest.raises(JournalError, match=r"left behind\.jsonl: this journal is damaged"):
        purge(path, request_ids=["r1"])


def test_whoever_waits_for_the_file_writes_into_the_new_one(path: Path) -> None:
    """Another process adds runs, opening the file each time, while it is purged: none of them is lost."""
    code = """
import sys
from pathlib import Path
from thirdshift.warehouse.store import runs
from thirdshift.warehouse.store.store import Warehouse
print("on", flush=True)
for n in range(12):
    with Warehouse.open(Path(sys.argv[1]), say=lambda text: None) as w:
        runs.start(w, {"run_id": f"other-{n}", "status": "done"})
"""
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout is not None
        other.stdout.readline()
        while other.poll() is None:
            with suppress(StoreError):  # on a busy machine it may give up on freed blocks, and says so
                purge(path, request_ids=["r1"], say=lambda text: None)
    assert other.returncode == 0
    counted = ask(path, "select count(*) as n from runs where run_id like 'other-%'")
    assert counted["n"].to_pylist() == [12]
