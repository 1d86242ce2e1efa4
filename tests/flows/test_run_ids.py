"""Run ids: what can name a folder beside the warehouse is taken, whatever leads out of there is refused unread."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.support.nights import night_here, write_job, write_sums
from tests.support.servers import cheap, emulated
from thirdshift.flows.cli.app import main
from thirdshift.flows.cli.demo.emulated import JOB as JOB_OF_DEMO
from thirdshift.flows.cli.demo.emulated import folder_for_demo, run_demo
from thirdshift.flows.errors import RunIdError, UserError
from thirdshift.flows.jobs.job import load_job
from thirdshift.flows.orchestration.invocation import with_schedule
from thirdshift.flows.runs.folder import locked
from thirdshift.flows.runs.ids import GIVEN_LONGEST, checked_run_id
from thirdshift.flows.runs.options import RunOptions
from thirdshift.warehouse.errors import StoreError
from thirdshift.warehouse.journal.run_folder import MARKER, folder_to_change, run_folder
from thirdshift.warehouse.store import runs
from thirdshift.warehouse.store.store import Warehouse

OUTSIDE = [
    "..",
    ".",
    "../x",
    "../../x",
    "/abs",
    "a/b",
    "a\nb",
    "a\n",
    "",
    "~1",
    "a b",
    "-x",
    "a\0b",
    "ä",
    "x" * 129,
]
SCHEDULERS = [
    "manual__2026-11-22T00:00:00+00:00",
    "scheduled__2026-11-22T22:00:00.123456+01:00",
    "3f1c2a7e-7f0b-4a53-9d5e-1d5f1e1f2a3b",
    "triage.ds=2026-11-22",
    "monday~1",
    "x" * GIVEN_LONGEST,
]
COMMANDS = {
    "run": ["run", "job.yaml", "--run-id"],
    "rehearse": ["rehearse", "job.yaml", "--run-id"],
    "rehearse --fresh": ["rehearse", "job.yaml", "--fresh", "--run-id"],
    "resume": ["resume"],
    "report": ["report", "--output", "page.html"],
    "report --texts": ["report", "--output", "page.html", "--texts"],
}
JOB = """\
name: sums
input: requests/mine.parquet
endpoints:
  - {name: small, model: openai/gpt-4o-mini, price: {input: 1, output: 2}}
"""


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file and folder below, with its kind and its bytes."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: a job, its input in `requests/`, a warehouse with one run, and another folder beside it."""
    folder = tmp_path / "project"
    (folder / "requests").mkdir(parents=True)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "notes.txt").write_text("mine")
    write_sums(folder / "requests" / "mine.parquet", 5)
    (folder / "job.yaml").write_text(JOB)
    for name in ("warehouse.duckdb", "warehouse.rehearsal.duckdb"):
        with Warehouse.open(folder / name) as warehouse:
            runs.start(warehouse, {"run_id": "monday", "job": "sums", "status": "done"})
        (folder / f"{name}.d" / "monday").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OPENAI_API_KEY", "made-up")
    return folder


@pytest.mark.parametrize("run_id", ["..", "../x", "../../x", "/abs", "a/b", "a\nb"])
@pytest.mark.parametrize("command", COMMANDS)
def test_an_id_that_leads_elsewhere_is_refused_and_nothing_is_written_or_deleted(
    project: Path,
    command: str,
    run_id: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = tree(project.parent)
    assert load_job(project / "job.yaml").name == "sums", "the job itself is right"
    monkeypatch.setattr(sys, "argv", ["thirdshift", *COMMANDS[command], run_id])
    with pytest.raises(SystemExit) as over:
        main()
    assert over.value.code == 2
    assert "run" in capsys.readouterr().err
    assert tree(project.parent) == before
    assert not Path("/abs").exists()


@pytest.mark.parametrize("run_id", OUTSIDE)
def test_the_value_that_command_form_and_api_share_takes_no_id_that_names_no_folder(run_id: str) -> None:
    with pytest.raises(RunIdError, match="it names a folder"):
        RunOptions(job=Path("job.yaml"), run_id=run_id)
    if run_id:  # a form's empty field is none given
        with pytest.raises(UserError, match="it names a folder"):
            with_schedule(RunOptions.from_parameters({"job": "job.yaml", "run_id": run_id}))


@pytest.mark.parametrize("run_id", SCHEDULERS)
def test_ids_of_schedulers_and_of_runs_set_aside_are_taken(run_id: str) -> None:
    assert RunOptions(job=Path("job.yaml"), run_id=checked_run_id(run_id)).run_id == run_id


def test_a_schedulers_id_names_a_run_from_its_first_line_to_its_last(tmp_path: Path) -> None:
    items = write_sums(tmp_path / "requests.parquet", 5)
    run_id = SCHEDULERS[0]
    with emulated([cheap()], items=items) as emulator:
        job = write_job(tmp_path, emulator, {"cheap": {"price": {"input": 1, "output": 1}}})
        first = night_here(job, run_id)
        assert (first.code, first.summary["run_id"]) == (0, run_id)
        again = night_here(job, run_id, fresh=True)
        assert again.code == 0
        aside = night_here(job, f"{run_id}~1")
    assert aside.summary["spent_usd"] == first.summary["spent_usd"]
    home = tmp_path / "warehouse.duckdb.d"
    assert {path.name for path in home.iterdir()} == {run_id, f"{run_id}~1"}


def test_a_folder_that_no_marker_says_is_a_runs_is_left_alone(tmp_path: Path) -> None:
    items = write_sums(tmp_path / "requests.parquet", 5)
    theirs = tmp_path / "warehouse.duckdb.d" / "mine" / "requests"
    theirs.mkdir(parents=True)
    (theirs / "mine.parquet").write_bytes(b"theirs")
    (theirs.parent / "job.json").write_text("{}")
    before = tree(theirs.parent)
    with emulated([cheap()], items=items) as emulator:
        job = write_job(tmp_path, emulator, {"cheap": {"price": {"input": 1, "output": 1}}})
        for call in ({}, {"fresh": True}):
            with pytest.raises(UserError, match=r"mine holds files that are no run's, and is left alone"):
                night_here(job, "mine", **call)
    assert tree(theirs.parent) == before


def test_a_demo_replaces_no_files_but_a_demos(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(project)
    with pytest.raises(UserError, match=r"job\.yaml is no demo's file, and is left alone"):
        run_demo(Path(), 100, lambda options: 0)
    assert tree(project) == before
    (project / "job.yaml").write_text(JOB_OF_DEMO)
    assert folder_for_demo(project) == project
    assert folder_for_demo(project / "new" / "demo").is_dir()


def test_files_of_a_run_whose_id_leads_out_are_nobodys_to_erase(tmp_path: Path) -> None:
    assert folder_to_change(tmp_path / "w.duckdb", "..") is None
    assert folder_to_change(tmp_path / "w.duckdb", "monday") is None, "it has none"


@pytest.mark.parametrize("run_id", ["..", ".", "", "/abs", "a/../../b"])
def test_a_run_id_that_a_warehouse_holds_leads_nowhere_else_either(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(StoreError, match="leads out of"):
        run_folder(tmp_path / "w.duckdb", run_id)


def test_the_marker_is_the_first_file_of_a_runs_folder(tmp_path: Path) -> None:
    with locked(tmp_path / "run") as folder:
        assert os.listdir(folder) == [MARKER]
    with locked(folder):
        pass
