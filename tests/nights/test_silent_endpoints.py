"""A model that answers nothing is asked in the pilot and never again, in this run and the next."""

from __future__ import annotations

from pathlib import Path

from tests.support.nights import ask, night_here, write_job, write_sums
from tests.support.servers import cheap, dear, emulated
from thirdshift.engines.emulator import ability_for


def test_a_model_that_is_not_there_gets_nothing_from_the_plan_this_run_and_the_next(tmp_path: Path) -> None:
    items = write_sums(tmp_path / "requests.parquet", 200)
    models = [cheap(ability=ability_for(0.6), slope=1), dear(ability=ability_for(0.9999), slope=1)]
    with emulated(models, items=items, seed=5) as emulator:
        price = {"price": {"input": 0.1, "output": 0.4}}
        job = write_job(
            tmp_path, emulator, {"cheap": price, "dear": {"price": {"input": 5, "output": 25}}, "gone": price},
            quality={"floor": 0.9, "scorer": "numeric", "pilot": 60},
        )  # fmt: skip
        for night in ("one", "two"):
            done = night_here(job, night)
            assert done.code == 0, done.said
            assert "gone" in done.said
    planned = "select run_id, count(*) from assignments where endpoint = 'gone' group by 1"
    assert ask(tmp_path / "warehouse.duckdb", planned) == []
    tried = "select run_id, count(distinct request_id) from ledger where endpoint = 'gone' group by 1"
    ((night, count),) = ask(tmp_path / "warehouse.duckdb", tried)
    assert night == "one"
    assert count <= 60
