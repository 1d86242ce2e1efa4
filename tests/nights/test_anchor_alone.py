"""A relative floor that no mix reaches: its own anchor meets it alone, and nobody is paid to say so.

That everything goes to the anchor where no mix is sure enough is held by tests/flows/test_anchor_plans.py.
"""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support.nights import ask, night_here, write_job, write_sums
from tests.support.plans import plan
from tests.support.servers import billed_usd, cheap, dear, emulated
from thirdshift.engines.emulator import EmulatedModel, ability_for
from thirdshift.router.values import Price

ROWS, TRIED = 120, 30
ENDPOINTS: dict[str, dict[str, Any]] = {
    "dear": {"price": {"input": 5, "output": 25}, "quality_prior": 0.9},
    "cheap": {"price": {"input": 0.1, "output": 0.4}, "quality_prior": 0.5},
    "wise": {"price": {"input": 1, "output": 4}, "only": "judge"},
}
JUDGE = {"endpoint": "wise", "rubric": "1 if the sum is right, 0 if it is not.", "max_usd": 2}
WHOLE = {"scorer": "judge", "judge": JUDGE, "floor": 1.0, "relative_to": "dear"}


def test_the_anchor_serves_all_and_no_score_is_bought_for_that(tmp_path: Path) -> None:
    known = write_sums(tmp_path / "requests.parquet", ROWS)
    pq.write_table(
        pq.read_table(tmp_path / "requests.parquet").drop(["reference"]), tmp_path / "requests.parquet"
    )
    models = [
        dear(ability=ability_for(0.9), slope=1),
        cheap(ability=ability_for(0.5), slope=1),
        EmulatedModel("wise", Price(Decimal(1), Decimal(4)), lenient=0.0, harsh=0.0),
    ]
    with emulated(models, items=known, seed=5) as emulator:
        quality = WHOLE | {"pilot": TRIED, "labels": 400}
        night = night_here(
            write_job(tmp_path, emulator, ENDPOINTS, quality=quality, budget={"cap_usd": 5}), "one"
        )
        books, entries = billed_usd(emulator), emulator.books()
    warehouse = tmp_path / "warehouse.duckdb"
    assert (night.code, night.summary["outcomes"]) == (0, ["done"]), night.said
    assert ask(warehouse, "select endpoint, count(*) from results group by 1") == [("dear", ROWS)]
    claim = night.summary["certificate"]
    assert (claim["method"], claim["mean"], claim["lower_bound"], claim["population"]) == (
        "identity",
        1.0,
        1.0,
        ROWS,
    )
    assert "not feasible" not in night.said
    # the judge was asked of the pilot's answers, before there was a plan, and of nothing that was served by it
    verdicts = [Decimal(entry["cost_usd"]) for entry in entries if entry["model"] == "wise"]
    assert 0 < len(verdicts) <= 2 * TRIED
    after = """select count(*) from ledger where purpose = 'judge'
               and started_at > (select min(started_at) from ledger where purpose = 'main')"""
    assert ask(warehouse, after) == [(0,)]
    assert ask(warehouse, "select sum(cost_usd) from ledger where purpose = 'judge'") == [(sum(verdicts),)]
    assert night.summary["spent_usd"] == float(books)


def test_without_a_pilot_the_plan_has_no_money_for_a_judge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(tmp_path, ENDPOINTS, quality=WHOLE | {"pilot": 0}) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["endpoints"].keys() == {"dear"}
    assert (data["labels_needed"], data["labels_usd"]) == (0, 0)
    assert data["purposes"].keys() == {"main"}
    assert data["cost_usd"] == pytest.approx(data["endpoints"]["dear"]["cost_usd"])
