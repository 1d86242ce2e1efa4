"""Nights with a batch tier whose batches cannot be listed: it is asked once, and the night goes on without it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import stamina
import yaml

from tests.support.nights import ask, night_here
from tests.support.scripted import Said, ScriptedProvider, completion, failed, scripted

ROWS = 600
RIGHT = {"cheap": 0.5, "dear": 0.95}
TIER = {"mode": "batch", "turnaround": "1s", "price": {"input": 2.5, "output": 10}}


def said(body: dict[str, Any]) -> Said:
    number = int(body["messages"][-1]["content"].split()[1])
    right = random.Random(f"{body['model']} {number}").random() < RIGHT[body["model"]]
    return Said(completion(f"a{number}" if right else "no"))


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    stamina.set_testing(True, attempts=2)  # else each try takes a minute
    with scripted(said) as provider:
        provider.listing = failed(500, "Internal server error")
        yield provider
    stamina.set_testing(False)


def write(folder: Path, provider: ScriptedProvider, ends: dict[str, Any], **quality: Any) -> Path:
    rows = [{"request_id": f"r{n}", "prompt": f"question {n}", "reference": f"a{n}"} for n in range(ROWS)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "requests.parquet")
    endpoints = [{"name": name, "api_base": provider.base, **more} for name, more in ends.items()]
    job = {
        "name": "unlisted", "input": "requests.parquet", "request": {"max_tokens": 64}, "quality": quality,
        "endpoints": endpoints, "budget": {"cap_usd": 50},
    }  # fmt: skip
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder / "job.yaml"


CHEAP = {"model": "openai/cheap", "price": {"input": 0.1, "output": 0.4}}
DEAR = {"model": "openai/dear", "price": {"input": 5, "output": 20}}


@pytest.mark.parametrize("pilot", [0, 60])
def test_what_is_mended_goes_to_real_time_after_the_first_try(
    tmp_path: Path, provider: ScriptedProvider, pilot: int
) -> None:
    ends = {"cheap": CHEAP, "dear": DEAR, "tier": TIER | {"model": "openai/dear"}}
    night = night_here(
        write(tmp_path, provider, ends, floor=0.9, scorer="exact", pilot=pilot, confidence=0.5), "one"
    )
    assert (night.code, night.summary["errors"]) == (0, 0), night.said
    broken = ask(tmp_path / "warehouse.duckdb", "select shard_id from shards where status = 'failed'")
    assert len(broken) == 1, night.said
    assert provider.paths.count("GET /batches") == 2, "what was tried twice was tried once"


def test_a_pilot_asks_it_no_more(tmp_path: Path, provider: ScriptedProvider) -> None:
    ends = {
        "cheap": CHEAP | {"quality_prior": 0.5},
        "tier": TIER | {"model": "openai/dear", "quality_prior": 0.95},
    }
    night = night_here(write(tmp_path, provider, ends, floor=0.9, scorer="exact", pilot=100), "one")
    assert (night.code, night.summary["errors"]) == (3, 0), night.said
    assert "tier broke off, and is given nothing more" in night.said
    assert provider.paths.count("GET /batches") == 2


@pytest.mark.parametrize("pilot", [0, 50])
def test_a_judge_that_breaks_off_costs_the_certificate_and_not_the_night(
    tmp_path: Path, provider: ScriptedProvider, pilot: int
) -> None:
    judge = {"endpoint": "wise", "rubric": "Be kind and right."}
    ends = {"cheap": CHEAP, "wise": TIER | {"model": "openai/wise", "only": "judge"}}
    night = night_here(
        write(tmp_path, provider, ends, floor=0.4, scorer="judge", judge=judge, pilot=pilot), "one"
    )
    assert night.code == 3, night.said
    assert (night.summary["results"], night.summary["errors"]) == (ROWS, 0)
    assert "not_certified" in night.summary["outcomes"]
    assert night.said.count("-judge-wise failed") == 1
