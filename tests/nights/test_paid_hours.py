"""Workers by the hour: as many as the plan chose, none that is not worth its start, and a minimum reserved once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.nights import answer, ask, night_here, thirdshift, write_job, write_sums
from tests.support.servers import cheap, emulated
from tests.support.workers import MODEL, stand_in_python
from thirdshift.engines.emulator import Emulator, ability_for

ROWS = 300
HOUR_USD = 3


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Emulator]:
    items = write_sums(tmp_path / "requests.parquet", ROWS)
    with emulated([cheap(ability=ability_for(0.9999), slope=1)], items=items, seed=5) as emulator:
        yield emulator


def house(folder: Path, **more: Any) -> dict[str, Any]:
    """An endpoint of workers at `HOUR_USD` with a minimum of an hour; they add rightly."""
    return {
        "name": "house",
        "engine": "vllm",
        "model": MODEL,
        "device": "cpu",
        "python": str(stand_in_python(folder)),
        "usd_per_hour": HOUR_USD,
        "minimum_minutes": 60,
        "vllm": {"adds": True, "max_num_seqs": 32},
        **more,
    }


def with_house(job: Path, endpoint: dict[str, Any]) -> Path:
    keys = yaml.safe_load(job.read_text())
    keys["endpoints"].append(endpoint)
    job.write_text(yaml.safe_dump(keys, sort_keys=False))
    return job


def workers(folder: Path) -> list[tuple[Any, ...]]:
    return ask(folder / "warehouse.duckdb", "select run_id, worker_id, cost_usd from workers")


def test_as_many_workers_run_as_the_plan_chose(tmp_path: Path, provider: Emulator) -> None:
    job = with_house(write_job(tmp_path, provider, {}), house(tmp_path, workers=3))
    planned = answer(thirdshift("plan", job, "--json"))
    assert planned["endpoints"]["house"]["workers"] == 1
    assert planned["cost_usd"] == pytest.approx(HOUR_USD, rel=0.01)
    done = night_here(job, "one")
    assert done.code == 0, done.said
    ((_, _, cost),) = workers(tmp_path)
    assert cost == done_usd(done.summary) == pytest.approx(Decimal(HOUR_USD), abs=Decimal("1e-6"))


def test_plan_table_ledger_and_bill_agree_on_a_rented_machine(tmp_path: Path, provider: Emulator) -> None:
    """A machine of two workers at the price of this moment, by the started hour."""
    machine = house(
        tmp_path, workers=2, price_per="node", billing_increment_minutes=60, spot_price="echo 2.00"
    )
    job = with_house(write_job(tmp_path, provider, {}), machine | {"minimum_minutes": 0})
    planned = answer(thirdshift("plan", job, "--json"))
    assert planned["endpoints"]["house"]["workers"] == 2
    assert planned["cost_usd"] == pytest.approx(2, rel=0.01)
    done = night_here(job, "one")
    assert done.code == 0, done.said
    ((count, by_table, price),) = ask(
        tmp_path / "warehouse.duckdb", "select count(*), sum(cost_usd), max(usd_per_hour) from workers"
    )
    ((by_ledger, priced),) = ask(
        tmp_path / "warehouse.duckdb",
        "select (select sum(cost_usd) from ledger), (select max(usd_per_hour) from prices where endpoint = 'house')",
    )
    assert (count, price, priced) == (2, 2, 2)
    assert by_table == pytest.approx(Decimal(2), abs=Decimal("1e-6"))
    assert by_ledger == done_usd(done.summary)
    assert by_ledger - by_table < Decimal("0.01"), "the rest is the API's"


def done_usd(summary: dict[str, Any]) -> Decimal:
    return Decimal(str(summary["spent_usd"]))


def test_a_worker_that_could_save_less_than_its_start_is_never_started(
    tmp_path: Path, provider: Emulator
) -> None:
    job = write_job(tmp_path, provider, {"cheap": {"price": {"input": 0.1, "output": 0.4}}},
                    quality={"floor": 0.9, "scorer": "numeric", "pilot": 80})  # fmt: skip
    with_house(job, house(tmp_path))
    for night in ("one", "two"):
        done = night_here(job, night)
        assert done.code == 0, done.said
        assert done_usd(done.summary) < Decimal("0.01")
        assert "house is not tried: starting a worker costs $3" in done.said
    assert workers(tmp_path) == []


def test_a_worker_is_started_where_the_floor_cannot_be_had_without_it(tmp_path: Path) -> None:
    items = write_sums(tmp_path / "requests.parquet", ROWS)
    with emulated([cheap(ability=ability_for(0.05), slope=1)], items=items, seed=5) as emulator:
        job = write_job(tmp_path, emulator, {"cheap": {"price": {"input": 0.1, "output": 0.4}}},
                        quality={"floor": 0.9, "scorer": "numeric", "pilot": 80})  # fmt: skip
        done = night_here(with_house(job, house(tmp_path)), "one")
    assert done.code == 0, done.said
    ((_, _, cost),) = workers(tmp_path)
    assert cost == pytest.approx(Decimal(HOUR_USD), abs=Decimal("1e-6"))


def test_a_model_loads_while_the_api_answers_its_part(tmp_path: Path, provider: Emulator) -> None:
    """No vendor may have more than 60 % of the requests: the first of the API's answers are there before the worker is."""
    cheap = {"cheap": {"price": {"input": 0.1, "output": 0.4}}}
    job = write_job(tmp_path, provider, cheap, policy={"max_vendor_share": 0.6})
    loading = house(tmp_path, vllm={"adds": True, "max_num_seqs": 32, "loads": 4.0}, minimum_minutes=0)
    done = night_here(with_house(job, loading), "one")
    assert done.code == 0, done.said
    ((before, by_worker),) = ask(
        tmp_path / "warehouse.duckdb",
        "select count(*) filter (l.endpoint = 'cheap' and l.settled_at < w.ready_at), "
        "count(*) filter (l.endpoint = 'house') from ledger l, workers w where l.purpose = 'main'",
    )
    assert before > 0
    assert by_worker > ROWS / 4


def test_a_night_of_text_alone_leaves_out_a_models_part_for_pictures(tmp_path: Path) -> None:
    write_sums(tmp_path / "requests.parquet", 8)
    seeing = tmp_path / "seeing"
    shutil.copytree(MODEL, seeing)
    config = json.loads((seeing / "config.json").read_text())
    (seeing / "config.json").write_text(json.dumps({**config, "vision_config": {}}))
    worker = house(tmp_path, model=str(seeing), vllm={"adds": True, "starts": str(tmp_path / "starts")})
    job = {
        "name": "sums",
        "input": "requests.parquet",
        "warehouse": "warehouse.duckdb",
        "endpoints": [worker],
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    done = night_here(tmp_path / "job.yaml", "one")
    assert done.code == 0, done.said
    assert json.loads((tmp_path / "starts").read_text())["language_model_only"] is True


def test_a_cap_that_the_plan_keeps_is_enough_for_what_a_worker_reserves(
    tmp_path: Path, provider: Emulator
) -> None:
    job = with_house(write_job(tmp_path, provider, {}, budget={"cap_usd": HOUR_USD}), house(tmp_path))
    assert answer(thirdshift("plan", job, "--json"))["feasible"]
    done = night_here(job, "one")
    assert done.code == 0, done.said
    ((spent,),) = ask(tmp_path / "warehouse.duckdb", "select sum(cost_usd) from ledger")
    assert spent <= HOUR_USD
