"""Runs that were cut short: gone on with, named as what they are, and counted even where their folder is gone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.nights import ask, night_here, write_job, write_sums
from tests.support.servers import cheap, emulated
from thirdshift.engines.emulator import Emulator
from thirdshift.flows.cli.app import app
from thirdshift.flows.runs.context import name_of_run
from thirdshift.flows.runs.options import RunOptions

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
    assert name_of_run(RunOptions(job)) != first, "another input is another run"


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
