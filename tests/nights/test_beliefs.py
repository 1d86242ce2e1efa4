"""A floor without a scorer: the plan holds it by what is believed, and says that this is a prediction."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.nights import ask, thirdshift, write_job, write_sums
from tests.support.plans import plan
from tests.support.servers import cheap, dear, emulated
from thirdshift.engines.emulator import Emulator
from thirdshift.flows.errors import UserError

PRIORS = {"small": (0.1, 0.55), "middle": (1.0, 0.78), "large": (5.0, 0.90)}


def endpoints(**lacking: Any) -> dict[str, dict[str, Any]]:
    return {
        name: {"price": {"input": usd, "output": 4 * usd}, "quality_prior": prior} | lacking.get(name, {})
        for name, (usd, prior) in PRIORS.items()
    }


def test_a_floor_is_held_by_priors_where_there_is_no_scorer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(tmp_path, endpoints(), quality={"floor": 0.8}) == 0
    data = json.loads(capsys.readouterr().out)
    assert 0.8 <= data["quality"] < 0.81
    assert data["endpoints"].keys() == {"middle", "large"}
    assert data["labels_needed"] is None


def test_without_a_floor_the_cheapest_is_planned_and_its_quality_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(tmp_path, endpoints()) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["endpoints"].keys() == {"small"}
    assert data["quality"] == pytest.approx(0.55)


def test_a_relative_floor_is_held_by_priors_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(tmp_path, endpoints(), quality={"floor": 0.95, "relative_to": "large"}) == 0
    assert json.loads(capsys.readouterr().out)["quality"] >= 0.95 * 0.9 - 1e-6


def test_an_endpoint_of_which_nothing_is_believed_is_named(tmp_path: Path) -> None:
    unknown = endpoints(middle={"quality_prior": None})
    with pytest.raises(UserError, match="nothing is known of middle: give it a quality_prior"):
        plan(tmp_path, unknown, quality={"floor": 0.8})


def test_a_floor_above_all_beliefs_is_not_feasible(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(tmp_path, endpoints(), quality={"floor": 0.95}) == 3
    data = json.loads(capsys.readouterr().out)
    assert data["nearest"]["floor"] == pytest.approx(0.9, abs=1e-3)


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Emulator]:
    items = write_sums(tmp_path / "requests.parquet", 60)
    with emulated([dear(), cheap()], items=items, seed=5) as emulator:
        yield emulator


def test_a_night_without_a_scorer_holds_the_floor_says_it_is_a_prediction_and_ends_well(
    tmp_path: Path, provider: Emulator
) -> None:
    offered = {
        "dear": {"price": {"input": 5, "output": 25}, "quality_prior": 0.9},
        "cheap": {"price": {"input": 0.1, "output": 0.4}, "quality_prior": 0.6},
    }
    job = write_job(tmp_path, provider, offered, quality={"floor": 0.8})
    done = thirdshift("run", job, "--run-id", "one", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["certificate"] is None
    assert "prediction" in done.stderr
    served = dict(ask(tmp_path / "warehouse.duckdb", "select endpoint, count(*) from results group by 1"))
    assert served == {"dear": 40, "cheap": 20}
    assert ask(tmp_path / "warehouse.duckdb", "select distinct purpose from ledger") == [("main",)]
    assert ask(tmp_path / "warehouse.duckdb", "select floor from runs") == [(0.8,)]


def test_a_night_without_beliefs_spends_nothing_and_says_what_is_missing(
    tmp_path: Path, provider: Emulator
) -> None:
    offered = {
        "dear": {"price": {"input": 5, "output": 25}},
        "cheap": {"price": {"input": 0.1, "output": 0.4}},
    }
    job = write_job(tmp_path, provider, offered, quality={"floor": 0.8})
    done = thirdshift("run", job, "--run-id", "one")
    assert done.returncode == 2
    assert "quality_prior" in done.stderr
    assert provider.books() == []
