"""A cap that is nearly spent: what is left of it, and what that does to pilot and plan, is said."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from tests.support.nights import ask, night_here, write_job, write_sums
from tests.support.servers import cheap, dear, emulated
from thirdshift.flows.cli.app import app
from thirdshift.flows.console import money

ENDPOINTS = {"dear": {"price": {"input": 5, "output": 25}}, "cheap": {"price": {"input": 0.1, "output": 0.4}}}


def test_a_window_that_is_nearly_spent_is_named_with_what_is_left_and_what_that_does(tmp_path: Path) -> None:
    known = write_sums(tmp_path / "requests.parquet", 120)
    with emulated([dear(), cheap()], items=known) as emulator:
        rich = {"cap_usd": 1, "window": "day"}
        quality = {"floor": 0.9, "scorer": "exact", "pilot": 80}
        night_here(write_job(tmp_path, emulator, ENDPOINTS, budget=rich, quality={}), "one")
        ((spent,),) = ask(tmp_path / "warehouse.duckdb", "select sum(cost_usd) from ledger")
        poor = {"cap_usd": float(spent) + 0.0002, "window": "day"}
        job = write_job(tmp_path, emulator, ENDPOINTS, budget=poor, quality=quality)
        planned = CliRunner().invoke(app, ["plan", str(job)])
        night = night_here(job, "two")
    said = f"runs of this day: {money(spent)} spent; the cap is {money(poor['cap_usd'])}, and $0.000200 are left of it"
    assert f"{said} to plan with" in planned.output.replace("\n", " ")
    assert f"other {said}" in night.said
    assert "is left of the cap of this day: a round of the pilot costs" in night.said
    assert (
        "nobody has been tried, and the plan and its quality are by what is believed beforehand" in night.said
    )
