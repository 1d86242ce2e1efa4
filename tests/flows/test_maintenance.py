"""Keeping a warehouse from the command line: migrate, purge, export, the ledger and an invoice."""

from __future__ import annotations

import csv
import re
import stat
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from tests.support.nights import answer, ask, thirdshift, write_job, write_sums
from tests.support.servers import cheap, emulated
from thirdshift.engines.emulator import Emulator
from thirdshift.flows.console import spent
from thirdshift.flows.runs.folder import locked
from thirdshift.warehouse.store.migrate import build
from thirdshift.warehouse.store.schema import VERSION

ROWS = 40


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    """A finished run `one` of 40 requests: its warehouse, and the provider's books."""
    folder = tmp_path_factory.mktemp("kept")
    rows = write_sums(folder / "requests.parquet", ROWS)
    with emulated([cheap(latency_seconds=0.01)], items=rows) as emulator:
        job = write_job(folder, emulator, PRICED)
        done = thirdshift("run", job, "--run-id", "one", "--json")
        assert done.returncode == 0, done.stderr
        return folder / "warehouse.duckdb", emulator.books()


PRICED = {"cheap": {"price": {"input": 0.1, "output": 0.4}}}


def test_the_ledger_is_summed_up_to_the_last_place(night: tuple[Path, list[dict[str, str]]]) -> None:
    warehouse, books = night
    told = answer(thirdshift("ledger", "--warehouse", warehouse, "--json"))
    assert told["cost_usd"] == pytest.approx(float(sum(Decimal(book["cost_usd"]) for book in books)))
    assert [(row["run_id"], row["endpoint"], row["attempts"]) for row in told["spent"]] == [
        ("one", "cheap", ROWS)
    ]
    said = thirdshift("ledger", "--warehouse", warehouse, "--run", "one").stdout
    assert f"│ {told['settled_usd']:.9f} │" in said, "an amount is never broken into two lines"
    assert "unsettled" not in said, "nothing is"
    assert said.endswith(f"40 attempts: {spent(told['settled_usd'], 0)}\n")
    assert thirdshift("ledger", "--warehouse", warehouse, "--run", "two").returncode == 2


def test_an_invoice_of_the_providers_agrees_and_a_cooked_one_is_found_out(
    night: tuple[Path, list[dict[str, str]]], tmp_path: Path
) -> None:
    warehouse, _ = night
    ((day, provider, cost),) = ask(
        warehouse, "select any_value(started_at)::date, any_value(provider), sum(cost_usd) from ledger"
    )
    right = {"date": day, "model": "cheap", "cost_usd": cost}

    def reconciled(*lines: dict[str, object]) -> dict[str, object]:
        path = tmp_path / "invoice.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(right))
            writer.writeheader()
            writer.writerows(lines)
        return answer(thirdshift("ledger", "reconcile", path, "--warehouse", warehouse, "--json"))

    told = reconciled(right)
    assert (told["agrees"], told["provider"]) == (True, provider)
    told = reconciled(right | {"cost_usd": cost + 1}, right | {"model": "other", "cost_usd": 3})
    assert told["agrees"] is False
    assert told["counts"] == {"matched": 0, "ours_only": 0, "theirs_only": 1, "mismatch": 1}
    shown = thirdshift("ledger", "reconcile", tmp_path / "invoice.csv", "--warehouse", warehouse).stdout
    assert not re.search(r"ref|unsettl", shown), "a column that no line fills leaves its room to the others"


def test_any_table_goes_to_parquet_that_only_its_owner_reads(
    night: tuple[Path, list[dict[str, str]]], tmp_path: Path
) -> None:
    warehouse, _ = night
    for name, rows in (("results", ROWS), ("chargeback", 1), ("certificates", 0)):
        path = tmp_path / f"{name}.parquet"
        done = thirdshift("export", name, "--output", path, "--warehouse", warehouse)
        assert done.returncode == 0, done.stderr
        assert pq.read_table(path).num_rows == rows
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    wrong = thirdshift("export", "result", "--output", tmp_path / "x.parquet", "--warehouse", warehouse)
    assert (wrong.returncode, "did you mean results?" in wrong.stderr) == (2, True)


def test_no_file_is_written_of_a_run_that_is_not_there(
    night: tuple[Path, list[dict[str, str]]], tmp_path: Path
) -> None:
    output = tmp_path / "results.parquet"
    done = thirdshift("export", "results", "--run", "onn", "--output", output, "--warehouse", night[0])
    assert (done.returncode, done.stdout) == (2, "")
    assert "no run onn; did you mean one?" in done.stderr
    assert not output.exists()


@pytest.mark.parametrize("command", [("report", "one"), ("init", "requests.parquet", "--force")])
@pytest.mark.parametrize("output", [".", "/"])
def test_a_folder_is_no_file_to_write(
    night: tuple[Path, list[dict[str, str]]], command: tuple[str, ...], output: str
) -> None:
    done = thirdshift(*command, "--output", output, cwd=night[0].parent)
    assert done.returncode == 2
    assert done.stderr == f"thirdshift: {output} is a folder; name a file\n"


def test_migrate_copies_first_and_says_what_each_step_brought(tmp_path: Path) -> None:
    path = tmp_path / "old.duckdb"
    with duckdb.connect(str(path)) as con:
        build(con, 1)
    refused = thirdshift("ledger", "--warehouse", path)
    assert (refused.returncode, "thirdshift migrate" in refused.stderr) == (2, True)
    told = answer(thirdshift("migrate", "--warehouse", path, "--json"))
    assert (told["before"], told["after"], len(told["steps"])) == (1, VERSION, VERSION - 1)
    assert Path(told["backup"]).exists()
    assert thirdshift("ledger", "--warehouse", path).returncode == 0


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The warehouse of a run that the budget stopped."""
    rows = write_sums(tmp_path / "requests.parquet", ROWS)
    with emulated([cheap(latency_seconds=0.01)], items=rows) as emulator:
        done = _stopped_early(tmp_path, emulator)
    assert done == 4
    return tmp_path / "warehouse.duckdb"


def _stopped_early(folder: Path, emulator: Emulator) -> int:
    job = write_job(folder, emulator, PRICED, budget={"cap_usd": 0.0001})
    return thirdshift("run", job, "--run-id", "short").returncode


def test_a_purged_run_keeps_its_money_and_cannot_go_on(stopped: Path, tmp_path: Path) -> None:
    spent = ask(stopped, "select sum(cost_usd), count(*) from ledger")
    ids = tmp_path / "ids.txt"
    ids.write_text("r00000\nr00001\n")
    with locked(stopped.with_name("warehouse.duckdb.d") / "short"):
        alive = thirdshift("purge", "--request-ids", ids, "--warehouse", stopped)
    assert (alive.returncode, "stop it, then purge again" in alive.stderr) == (2, True)
    told = answer(thirdshift("purge", "--request-ids", ids, "--warehouse", stopped, "--json"))
    assert (told["runs"], told["requests"]) == (["short"], 2)
    gone = ask(stopped, "select output, metadata from results where request_id in ('r00000', 'r00001')")
    assert gone == [(None, None)] * 2
    assert ask(stopped, "select count(output) > 0 from results") == [(True,)]
    assert ask(stopped, "select sum(cost_usd), count(*) from ledger") == spent
    again = thirdshift("resume", "short", "--warehouse", stopped, "--cap", "5")
    assert (again.returncode, "purged" in again.stderr) == (2, True)
    assert thirdshift("purge", "--warehouse", stopped).returncode == 2
    told = answer(thirdshift("purge", "--before", "2099-01-01", "--warehouse", stopped, "--json"))
    assert told["requests"] == ROWS
    assert ask(stopped, "select count(output), sum(attempts) > 0 from results") == [(0, True)]
