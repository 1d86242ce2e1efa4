"""Only type-checked, never run: what a caller's type checker is told of the public API."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import assert_type

import pyarrow as pa

import thirdshift
from thirdshift import BacktestReport, BacktestSettings, Job, PlanReport, RunSummary


def typed(path: Path, when: datetime) -> None:
    job = thirdshift.load_job("job.yaml", {"ds": "2026-11-22", "level": 3})
    assert_type(job, Job)
    plan = thirdshift.plan(job, warehouse="warehouse.duckdb")
    assert_type(plan, PlanReport)
    assert_type(plan.cost_usd, float | None)
    assert_type(plan.finish_at, datetime | None)
    assert_type([share.requests for share in plan.endpoints.values()], list[int])
    summary = thirdshift.run(
        path, run_id="monday", params={"ds": when.date()}, cap_usd=Decimal(5), deadline=when
    )
    assert_type(summary, RunSummary)
    assert_type(summary.exit_code, int)
    assert_type(summary.outcomes, tuple[str, ...])
    assert_type(thirdshift.resume("monday", warehouse=summary.warehouse, cap_usd=7.5, yes=True), RunSummary)
    assert_type(thirdshift.rehearse(job, outcomes=path, fresh=True), RunSummary)
    report = thirdshift.backtest(path, BacktestSettings(0.9, relative=True), endpoints=["a", "b"], repeat=3)
    assert_type(report, BacktestReport)
    assert_type(report.mean.cost_best_mix, float | None)
    table: pa.Table = thirdshift.query(path, "select 1")
    assert table.num_rows == 1


def mended(path: Path) -> int:
    try:
        return thirdshift.run(path).exit_code
    except thirdshift.JobError as error:
        assert_type([mistake.line for mistake in error.mistakes], list[int])
        return error.exit_code
    except (thirdshift.RunAlive, thirdshift.BrokeOff, thirdshift.UserError) as error:
        return error.exit_code


def refused(path: Path) -> None:
    """Each line is wrong, and a type checker says so: an ignore that is not needed is an error."""
    thirdshift.run(path, "monday")  # type: ignore[call-arg]
    thirdshift.resume("monday")  # type: ignore[call-arg]
    thirdshift.run(path, cap=5)  # type: ignore[call-arg]
    thirdshift.plan(3)  # type: ignore[arg-type]
