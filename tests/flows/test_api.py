"""`import thirdshift`: what it offers, what it loads, and that its signatures are what type checkers are told."""

from __future__ import annotations

import inspect
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

import thirdshift
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_SECONDS
from thirdshift.flows.api.jobs import money_of, options_for
from thirdshift.flows.errors import UserError
from thirdshift.flows.runs.ids import derive_run_id

LOADED = """
import sys
before = set(sys.modules)
import thirdshift
dir(thirdshift)
print(*sorted(set(sys.modules) - before))
"""
SIGNATURES = {
    "load_job": ["path", "params"],
    "plan": ["job", "params", "warehouse"],
    "run": ["job", "run_id", "params", "cap_usd", "deadline", "warehouse", "yes", "fresh"],
    "resume": ["run_id", "warehouse", "cap_usd", "deadline", "yes"],
    "rehearse": ["job", "outcomes", "run_id", "params", "cap_usd", "deadline", "warehouse", "fresh"],
    "query": ["warehouse", "sql"],
    "backtest": ["outcomes", "settings", "endpoints", "shortlist", "seed", "repeat"],
}


def python(*words: str) -> str:
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    ).stdout


def test_importing_loads_nothing_of_ours_and_nothing_foreign() -> None:
    loaded = python("-c", LOADED).split()
    assert [name for name in loaded if name.startswith("thirdshift")] == ["thirdshift"]
    assert {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names) == {"thirdshift"}


@pytest.mark.parametrize(
    "names",
    ["UserError, JobError", "load_job", "plan", "query", "backtest, BacktestSettings", "run, RunAlive"],
)
def test_only_running_loads_prefect_and_litellm(names: str) -> None:
    program = f"from thirdshift import {names}\nimport sys\nprint('prefect' in sys.modules, 'litellm' in sys.modules)"
    assert python("-c", program).split() == ["False", "False"]


@pytest.mark.parametrize("name", thirdshift.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(thirdshift, name)
    assert getattr(thirdshift, name) is value
    assert value.__doc__
    assert name in dir(thirdshift)


def test_there_is_no_other_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        _ = thirdshift.runn  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_function_takes_what_the_document_says(name: str) -> None:
    assert list(inspect.signature(getattr(thirdshift, name)).parameters) == SIGNATURES[name]


def test_every_error_has_the_exit_code_of_its_command() -> None:
    errors = (thirdshift.UserError, thirdshift.JobError, thirdshift.RunAlive, thirdshift.BrokeOff)
    assert [error.exit_code for error in errors] == [2, 2, 2, 1]
    assert all(issubclass(error, thirdshift.UserError) for error in errors)


def test_a_loaded_job_is_called_as_its_file_with_its_params(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "name: sums\nparams: {ds: null, level: 3, fast: true}\ninput: x.parquet\nendpoints:\n"
        "  - {name: a, model: openai/a, api_base: 'http://127.0.0.1:1/v1', price: {input: 1, output: 1}}\n"
    )
    (tmp_path / "x.parquet").touch()
    job = thirdshift.load_job(path, {"ds": datetime(2026, 11, 22, tzinfo=UTC).date(), "level": 4})
    by_job = options_for(job, cap_usd=2.5, deadline=datetime(2026, 11, 23, 6, tzinfo=UTC))
    by_path = options_for(str(path), {"ds": "2026-11-22", "level": 4, "fast": True})
    assert by_job.job == by_path.job == path
    assert by_job.params == by_path.params
    assert (by_job.cap, by_job.deadline) == (Decimal("2.5"), "2026-11-23T06:00:00+00:00")
    again = thirdshift.load_job(by_path.job, by_path.params)
    now = datetime.now(UTC)
    assert derive_run_id(job, now=now, token="x") == derive_run_id(again, now=now, token="x")


def test_a_type_checker_is_told_the_signatures() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "tests/typing_api.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("cap", ["nan", "inf", -1, 1e30])
def test_a_cap_is_an_amount_that_a_ledger_can_hold(cap: float | str) -> None:
    with pytest.raises(UserError, match="must be a number of USD from 0"):
        money_of(cap)


def test_outcomes_that_are_not_there_are_told_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nope\.parquet: no such file"):
        thirdshift.backtest(tmp_path / "nope.parquet", thirdshift.BacktestSettings(0.5))
