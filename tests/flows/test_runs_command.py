"""`runs` lists what a warehouse has, as it stands; commands that read a run take the latest where none is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from thirdshift.flows.cli.app import app
from thirdshift.flows.errors import UserError
from thirdshift.flows.runs.folder import locked, remember
from thirdshift.warehouse.journal.run_folder import run_folder
from thirdshift.warehouse.store import runs
from thirdshift.warehouse.store.store import Warehouse

NOW = datetime(2026, 11, 22, 22, 0, tzinfo=UTC)
HOLD = """
import os, sys
from pathlib import Path
from thirdshift.flows.runs.folder import locked, remember
with locked(Path(sys.argv[1])) as folder:
    remember(folder, {})
    os.kill(os.getpid(), 9)
"""


def command(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    path = tmp_path / "w.duckdb"
    with Warehouse.open(path) as warehouse:
        for days, (run_id, status, outcomes) in enumerate(
            [
                ("kept", "done", []),
                ("missed", "done", ["floor_missed"]),
                ("scored", "done", []),
                ("broke", "budget", ["budget"]),
                ("killed", "running", None),
                ("working", "running", None),
            ]
        ):
            row = {"run_id": run_id, "job": "sums", "status": status, "outcomes": outcomes}
            runs.start(warehouse, row | {"started_at": NOW + timedelta(days=days)})
        ledger = [
            {"run_id": "kept", "cost_usd": Decimal(2), "status": "settled"},
            {"run_id": "killed", "cost_usd": Decimal(1), "status": "settled"},
            {"run_id": "killed", "cost_usd": Decimal(4), "status": "unsettled"},
        ]
        warehouse.append("ledger", pa.Table.from_pylist(ledger))
        claim: dict[str, Any] = {"run_id": "kept", "task": None, "floor": 0.9, "confidence": 0.95}
        claims = [
            claim | {"lower_bound": 0.5, "certified": False, "issued_at": NOW},
            claim | {"lower_bound": 0.93, "certified": True, "issued_at": NOW + timedelta(days=1)},
            claim
            | {"run_id": "scored", "floor": 0.0, "lower_bound": 0.7, "certified": True, "issued_at": NOW},
        ]
        warehouse.append("certificates", pa.Table.from_pylist(claims))
    for run_id in ("killed", "early"):
        done = subprocess.run([sys.executable, "-c", HOLD, run_folder(path, run_id)], check=False)
        assert done.returncode == -9
    return path


def test_runs_are_listed_with_status_spend_and_verdict(warehouse: Path) -> None:
    with locked(run_folder(warehouse, "working")) as folder:
        remember(folder, {})
        done = command("runs", "--warehouse", warehouse, "--json")
        shown = command("runs", "--warehouse", warehouse)
    assert done.exit_code == 0, done.output
    listed = json.loads(done.stdout)["runs"]
    data = {run["run_id"]: (run["status"], run["spent_usd"], run["verdict"]) for run in listed}
    assert list(data) == ["early", "working", "killed", "broke", "scored", "missed", "kept"]
    assert data == {
        "early": ("interrupted", 0, "thirdshift resume early"),
        "working": ("running", 0.0, ""),
        "killed": ("interrupted", 1.0, "thirdshift resume killed"),
        "broke": ("budget", 0.0, "thirdshift resume broke"),
        "missed": ("done", 0.0, "floor missed"),
        "scored": ("done", 0.0, "≥ 0.700, no floor was asked"),
        "kept": ("done", 2.0, "≥ 0.930, floor 0.9 certified"),
    }
    said = " ".join(shown.output.replace("│", " ").split())
    assert "$1.00" in said
    assert "started (UTC)" in said
    assert {"settled,", "unsettled"} <= set(said.split()), "what is settled and what more it can be, by name"


def test_a_warehouse_without_runs_says_so(tmp_path: Path) -> None:
    with Warehouse.open(tmp_path / "w.duckdb"):
        pass
    assert "no run yet" in command("runs", "--warehouse", tmp_path / "w.duckdb").output
    assert isinstance(command("runs", "--warehouse", tmp_path / "x.duckdb").exception, UserError)
    report = command("report", "--output", tmp_path / "r.html", "--warehouse", tmp_path / "w.duckdb")
    assert isinstance(report.exception, UserError)


def test_a_report_is_of_the_latest_run_where_none_is_named(demo_night: Path, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    done = command("report", "--output", page, "--warehouse", demo_night / "warehouse.duckdb")
    assert done.exit_code == 0, done.output
    assert "demo" in page.read_text(encoding="utf-8")


def test_labels_are_imported_by_the_run_that_exported_them(demo_night: Path, tmp_path: Path) -> None:
    night, file = shutil.copytree(demo_night, tmp_path / "night"), tmp_path / "labels.csv"
    place = night / "warehouse.duckdb"
    done = command("labels", "export", "--output", file, "--count", "5", "--warehouse", place)
    assert done.exit_code == 0, done.output
    assert f"thirdshift labels import demo --input {file}" in done.output
    for words in (("demo", "--input", file), (file,)):
        empty = command("labels", "import", *words, "--warehouse", place)
        assert "no score is filled in" in str(empty.exception)
    assert "--input FILE" in str(command("labels", "import", "--warehouse", place).exception)


def test_the_program_tells_its_version() -> None:
    done = command("--version")
    assert (done.exit_code, done.output) == (0, f"thirdshift {version('thirdshift')}\n")
