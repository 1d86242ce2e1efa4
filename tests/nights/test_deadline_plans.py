"""A deadline is planned with what answers take: latency, the pilot's own time, and what is suggested instead."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.nights import ask, night_here, write_job, write_sums
from tests.support.plans import plan
from tests.support.servers import cheap, dear, emulated
from thirdshift.engines.emulator import BatchHabits, Emulator, ability_for
from thirdshift.flows.api.plans import INFEASIBLE
from thirdshift.router.values import Limits

SLOW = {"price": {"input": 0.1, "output": 0.4}, "limits": {"concurrency": 2}}
FAST = {"price": {"input": 5, "output": 25}, "limits": {"concurrency": 64}}


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Emulator]:
    items = write_sums(tmp_path / "requests.parquet", 300)
    models = [
        cheap(latency_seconds=0.25, limits=Limits(concurrency=2), ability=ability_for(0.9999), slope=1),
        dear(latency_seconds=0.01, ability=ability_for(0.9999), slope=1),
    ]
    habits = BatchHabits(turnaround_seconds=12)
    with emulated(models, items=items, seed=5, batches=habits) as emulator:
        yield emulator


def test_what_a_slow_endpoint_cannot_answer_in_time_goes_to_a_fast_one(
    tmp_path: Path, provider: Emulator
) -> None:
    job = write_job(tmp_path, provider, {"cheap": SLOW, "dear": FAST}, deadline="30s")
    first, second = night_here(job, "one"), night_here(job, "two")
    for done in (first, second):  # a machine that others keep busy is late with some, and that is told
        assert done.code in (0, 5), done.said
        assert done.summary["results"] >= 270, done.said
    assert asked_first(first.said) > asked_first(second.said), "the night before tells what an answer takes"
    served = "select run_id, count(*) from results where endpoint = 'cheap' group by 1 order by 1"
    for _, count in ask(tmp_path / "warehouse.duckdb", served):
        assert 0 < count <= 30 * 2 / 0.25


def asked_first(said: str) -> int:
    """Requests that went first, for how long answers are was not known."""
    return sum(int(count) for count in re.findall(r"(\d+) requests? first", said))


def test_what_turns_out_late_is_planned_anew_while_it_runs(tmp_path: Path) -> None:
    """An endpoint is five times as slow as the night before, and no first look is made that would tell."""
    items, four = write_sums(tmp_path / "requests.parquet", 64), Limits(concurrency=4)
    slow = {**SLOW, "limits": {"concurrency": 4}}
    for night, seconds in (("before", 0.4), ("slow", 2)):
        models = [cheap(latency_seconds=seconds, limits=four), dear(latency_seconds=0.01)]
        with emulated(models, items=items, seed=5) as emulator:
            job = write_job(tmp_path, emulator, {"cheap": slow, "dear": FAST}, deadline="24s")
            done = night_here(job, night)
        assert done.code in (0, 5), done.said
    assert "answers come later than planned" in done.said
    assert done.summary["results"] >= 57, done.said


def test_a_pilot_that_the_deadline_has_no_time_for_is_not_made(tmp_path: Path, provider: Emulator) -> None:
    tier = {"price": {"input": 0.1, "output": 0.4}, "mode": "batch", "turnaround": "15s"}
    other = {"price": {"input": 5, "output": 25}, "mode": "batch", "turnaround": "15s"}
    job = write_job(tmp_path, provider, {"cheap": tier, "dear": other}, deadline="28s",
                    quality={"floor": 0.5, "scorer": "numeric", "pilot": 60})  # fmt: skip
    done = night_here(job, "one")
    assert "no time for" in done.said
    assert done.summary["results"] == 300, done.said


PRIORS = {
    "cheap": {"price": {"input": 1, "output": 4}, "quality_prior": 0.6, "limits": {"rpm": 60}},
    "dear": {"price": {"input": 50, "output": 250}, "quality_prior": 0.98, "limits": {"rpm": 60}},
}


@pytest.mark.parametrize("pilot", [0, 40])
@pytest.mark.parametrize(
    "keys",
    [
        {"quality": {"floor": 0.99}},
        {"quality": {"floor": 0.9}, "budget": {"cap_usd": 0.001}},
        {"quality": {"floor": 0.9}, "deadline": "20s"},
        {"quality": {"floor": 0.9}, "deadline": "20s", "budget": {"cap_usd": 30}},
        {"quality": {"floor": 0.95, "relative_to": "dear"}, "budget": {"cap_usd": 0.05}},
    ],
)
def test_every_suggestion_typed_into_the_job_a_minute_later_has_a_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: dict[str, Any], pilot: int
) -> None:
    keys = {**keys, "quality": {**keys["quality"], "scorer": "numeric", "pilot": pilot}}
    assert plan(tmp_path, PRIORS, **keys) == INFEASIBLE
    told = json.loads(capsys.readouterr().out)
    assert (told["finish_at"] is None) is ("deadline" not in keys)
    nearest = {name: value for name, value in told["nearest"].items() if value is not None}
    assert nearest
    for name, value in nearest.items():
        typed = dict(keys)
        if name == "floor":
            typed["quality"] = {**keys["quality"], "floor": value}
        elif name == "cap_usd":
            typed["budget"] = {"cap_usd": value}
        else:
            typed["deadline"] = (datetime.fromisoformat(value) - timedelta(minutes=1)).isoformat()
        assert plan(tmp_path, PRIORS, **typed) == 0, (name, value, capsys.readouterr().out)
        again = json.loads(capsys.readouterr().out)
        assert (again["finish_at"] is None) is ("deadline" not in typed and not again["endpoints"])
