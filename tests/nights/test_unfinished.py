"""Runs that were cut short: gone on with, named as what they are, and counted even where their folder is gone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.support.nights import ask, night_here, write_job, write_sums
from tests.support.servers import cheap, emulated
from thirdshift.engines.emulator import Emulator
from thirdshift.flows.api.questions import query as thirdshift_query
from thirdshift.flows.cli.app import app
from thirdshift.flows.dispatch.dead_runs import enter_interrupted
from thirdshift.flows.runs.context import name_of_run
from thirdshift.flows.runs.folder import locked, remember
from thirdshift.flows.runs.options import RunOptions
from thirdshift.warehouse.journal.journal import open_journals
from thirdshift.warehouse.journal.run_folder import run_folder
from thirdshift.warehouse.store import runs
from thirdshift.warehouse.store.store import Warehouse

ROWS = 60
ENDPOINTS = {"cheap": {"price": {"input": 0.1, "output": 0.4}}}


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Emulator]:
    known = write_sums(tmp_path / "requests.parquet", ROWS)
    with emulated([cheap()], items=known) as emulator:
        yield emulator


def as_killed(warehouse: Path, run_id: str) -> None:
    """The row of a run as a killed process leaves it."""
    import duckdb

    with duckdb.connect(str(warehouse)) as con:
        con.execute("update runs set status = 'running', finished_at = null where run_id = $r", {"r": run_id})


def test_a_job_without_params_goes_on_with_its_last_run_and_says_so(
    tmp_path: Path, provider: Emulator
) -> None:
    job = write_job(tmp_path, provider, ENDPOINTS)
    first = name_of_run(RunOptions(job))
    assert night_here(job, first).code == 0
    assert name_of_run(RunOptions(job)) != first, "what is done is done"
    as_killed(tmp_path / "warehouse.duckdb", first)
    messages: list[str] = []
    assert name_of_run(RunOptions(job), messages.append) == first
    assert messages == [f"going on with {first}, which was cut short on the same input; --fresh starts anew"]
    assert name_of_run(RunOptions(job, fresh=True)) != first
    again = night_here(job, first)
    assert (again.code, again.summary["results"]) == (0, ROWS)
    entries = ask(tmp_path / "warehouse.duckdb", "select count(*), count(distinct request_id) from ledger")
    assert entries == [(ROWS, ROWS)], "nothing is paid for twice"
    as_killed(tmp_path / "warehouse.duckdb", first)
    write_sums(tmp_path / "requests.parquet", ROWS + 1)
    messages.clear()
    assert name_of_run(RunOptions(job), messages.append) != first, "another input is another run"
    (said,) = messages
    assert said.startswith(
        f"{first} was cut short, and its input has changed since (`thirdshift resume {first}` goes on"
    )
    assert said.endswith("this is a new run")


@pytest.mark.parametrize("kind", ["sql", "object store"])
def test_an_input_that_is_no_local_file_is_gone_on_with_where_it_gives_the_same_rows(
    tmp_path: Path, provider: Emulator, kind: str
) -> None:
    """A query that gives its rows in another order each time, and one row that is refused; a file system of fsspec's."""
    source = tmp_path / "requests.parquet"
    doubled = f"(from '{source}' union all (from '{source}' limit 1))"
    asked: Any = {"sql": f"select * from {doubled} order by random()"}
    if kind == "object store":
        asked = "memory://night/requests.parquet"
        stored(source)
    job = write_job(tmp_path, provider, ENDPOINTS, input=asked)
    first = name_of_run(RunOptions(job))
    assert night_here(job, first).code == 0
    as_killed(tmp_path / "warehouse.duckdb", first)
    assert name_of_run(RunOptions(job)) == first
    rows = pq.read_table(source)
    changed = rows.set_column(rows.column_names.index("prompt"), "prompt", [["1+1"] * rows.num_rows])
    pq.write_table(changed, source)
    if kind == "object store":
        stored(source)
    messages: list[str] = []
    assert name_of_run(RunOptions(job), messages.append) != first
    (said,) = messages
    assert said.startswith(
        f"{first} was cut short, and its input gives other rows now (`thirdshift resume {first}`"
    )


def stored(file: Path) -> None:
    with fsspec.filesystem("memory").open("memory://night/requests.parquet", "wb") as target:
        target.write(file.read_bytes())


def test_a_run_whose_process_is_gone_is_interrupted(tmp_path: Path, provider: Emulator) -> None:
    job = write_job(tmp_path, provider, ENDPOINTS)
    night_here(job, "one")
    as_killed(tmp_path / "warehouse.duckdb", "one")
    shown = CliRunner().invoke(app, ["runs", "--warehouse", str(tmp_path / "warehouse.duckdb"), "--json"])
    assert shown.exit_code == 0, shown.output
    (row,) = json.loads(shown.stdout)["runs"]
    assert (row["run_id"], row["status"]) == ("one", "interrupted")


def test_a_run_whose_folder_is_gone_counts_what_its_ledger_knows(tmp_path: Path, provider: Emulator) -> None:
    job = write_job(tmp_path, provider, ENDPOINTS)
    warehouse = tmp_path / "warehouse.duckdb"
    night_here(job, "one")
    ((paid,),) = ask(warehouse, "select sum(cost_usd) from ledger")
    as_killed(warehouse, "one")
    shutil.rmtree(tmp_path / "warehouse.duckdb.d" / "one")
    again = night_here(job, "one")
    assert "its folder is gone" in again.said
    assert "counts against the cap" in again.said
    assert again.summary["results"] == ROWS
    assert again.summary["spent_usd"] == pytest.approx(float(paid)), "what was answered is not paid for again"
    assert ask(warehouse, "select sum(cost_usd) from ledger") == [(paid,)]


KILLED = """
import os, sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from thirdshift.flows.runs.folder import locked, remember
from thirdshift.router.values import Answer, Intent, LedgerStatus, Mode, Outcome, Purpose, Usage
from thirdshift.warehouse.journal.journal import FileJournal
NOW = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)
with locked(Path(sys.argv[1])) as folder, FileJournal(folder) as journal:
    remember(folder, {})
    live, batch = "00001-main-cheap", "00002-main-night"
    for n, mode, shard in ((0, "realtime", live), (1, "realtime", live), (2, "batch", batch)):
        journal.sent([Intent(f"e{n}", folder.name, shard, n, f"r{n}", shard[11:], "m", "lab", Mode(mode), Purpose.MAIN, 1,
                             Decimal("0.5"), NOW)])
    (folder / "shards").mkdir()
    import numpy as np
    for shard, rows in ((live, [0, 1]), (batch, [2])):
        np.save(folder / "shards" / f"{shard}.npy", np.array(rows))
    reply = Answer(0, "r0", "yes", "stop")
    journal.settled([Outcome("e0", LedgerStatus.SETTLED, Decimal("0.2"), NOW, Usage(3, 2), reply=reply)])
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A warehouse with a run that a process was killed on: 0.20 USD settled, an attempt in flight that can have cost 0.50,
    a batch at its provider; and a run that this process is on."""
    path = tmp_path / "w.duckdb"
    tiers = {"endpoints": [{"name": "cheap"}, {"name": "night", "mode": "batch"}]}
    row = {
        "job": "sums",
        "status": "running",
        "started_at": datetime(2026, 11, 22, tzinfo=UTC),
        "config": tiers,
    }
    with Warehouse.open(path) as warehouse:
        for run_id in ("killed", "alive", "gone"):
            runs.start(warehouse, row | {"run_id": run_id})
    done = subprocess.run([sys.executable, "-c", KILLED, run_folder(path, "killed")], check=False)
    assert done.returncode == -9
    return path


STATUSES = "select run_id, status, spent_usd, unsettled_usd from runs order by run_id"


@pytest.mark.parametrize("how", ["sql", "runs", "ledger", "export", "query"])
def test_whoever_opens_the_warehouse_next_enters_a_killed_run_as_interrupted_with_its_money(
    tmp_path: Path, killed: Path, how: str
) -> None:
    words = {"sql": ["sql", "from runs"], "runs": ["runs"], "ledger": ["ledger"]}
    words["export"] = ["export", "runs", "--output", str(tmp_path / "runs.parquet")]
    with locked(run_folder(killed, "alive")) as folder:
        remember(folder, {})
        if how == "query":
            thirdshift_query(killed, "from runs")
        else:
            done = CliRunner().invoke(app, [*words[how], "--warehouse", str(killed)])
            assert done.exit_code == 0, done.output
        assert ask(killed, STATUSES) == [
            ("alive", "running", None, None),
            ("gone", "interrupted", Decimal(0), Decimal(0)),
            ("killed", "interrupted", Decimal("0.2"), Decimal(1)),
        ]
    assert open_journals(run_folder(killed, "killed")) == ["00002-main-night"], "the batch is for resume"
    ledger = ask(killed, "select entry_id, status, cost_usd from ledger order by entry_id")
    assert ledger == [
        ("e0", "settled", Decimal("0.2")), ("e1", "unsettled", Decimal("0.5")), ("e2", "reserved", Decimal("0.5")),
    ]  # fmt: skip
    assert ask(killed, "select unsettled_usd from spend_by_endpoint where endpoint = 'night'") == [
        (Decimal("0.5"),)
    ]


def test_a_copy_of_a_warehouse_does_not_say_of_a_run_that_it_was_cut_short(
    tmp_path: Path, killed: Path
) -> None:
    copy = tmp_path / "for readers.duckdb"
    shutil.copyfile(killed, copy)
    shown = CliRunner().invoke(app, ["runs", "--warehouse", str(copy), "--json"])
    assert {row["status"] for row in json.loads(shown.stdout)["runs"]} == {"running"}


def test_a_warehouse_that_another_process_writes_to_is_asked_all_the_same(killed: Path) -> None:
    """Nobody waits for the entry; the command `runs` tells the truth without it."""
    with Warehouse.open(killed):
        enter_interrupted(killed)
    killed.chmod(0o400)
    shown = CliRunner().invoke(app, ["runs", "--warehouse", str(killed), "--json"])
    statuses = {row["run_id"]: row["status"] for row in json.loads(shown.stdout)["runs"]}
    assert statuses["killed"] == "interrupted"
