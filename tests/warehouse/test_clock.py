"""A clock that is set back or ahead: nothing is scored for ever, missed by its readers or erased too early."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support.warehouses import COUNT, secret_run
from thirdshift.flows.execution import earlier_runs
from thirdshift.flows.quality import finishing
from thirdshift.router.certification.scorers import Scorer
from thirdshift.warehouse.store import runs
from thirdshift.warehouse.store.ask import ask
from thirdshift.warehouse.store.store import Warehouse

TOMORROW = datetime.now(UTC) + timedelta(days=1)


def test_answers_of_tomorrow_are_scored_once(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    messages: list[str] = []
    secret_run(path, "set back", TOMORROW)
    with Warehouse.open(path) as warehouse:
        assert finishing.score_new(warehouse, "set back", Scorer("exact"), messages.append)[0] == COUNT
        assert finishing.score_new(warehouse, "set back", Scorer("exact"), messages.append)[0] == 0


def test_the_watermark_of_answers_only_grows(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    for run_id in ("first", "second"):
        secret_run(path, run_id, TOMORROW)
    with Warehouse.open(path) as warehouse:
        runs.finish(warehouse, "first", status="done", published_at=TOMORROW)
        runs.finish(warehouse, "second", status="done")
    rows = ask(path, "select distinct run_id, loaded_at from answers").to_pylist()
    assert [(row["run_id"], row["loaded_at"] > TOMORROW) for row in rows] == [("second", True)]


def test_a_clock_set_ahead_tonight_does_not_move_what_is_old_enough_to_be_forgotten() -> None:
    assert abs(earlier_runs.seen_to_pass() - datetime.now(UTC)) < timedelta(minutes=1)
