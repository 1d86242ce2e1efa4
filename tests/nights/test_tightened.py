"""A policy that is tightened between a killed run and its resumption holds for what the run had begun."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.support.nights import ask, night_here, start
from tests.support.patience import PATIENCE_SECONDS
from tests.support.scripted import Said, ScriptedProvider, completion, scripted

ROWS = 20


def write_night(folder: Path, provider: ScriptedProvider, **more: Any) -> Path:
    rows = [{"request_id": f"r{n}", "prompt": f"question {n}"} for n in range(ROWS)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "requests.parquet")
    at = {"api_base": provider.base, "price": {"input": 1.0, "output": 10.0}}
    abroad = {
        "name": "abroad",
        "model": "openai/abroad",
        "mode": "batch",
        "turnaround": "1s",
        "region": "us",
    } | at
    home = (
        {"name": "home", "model": "openai/home", "region": "eu"} | at | {"price": {"input": 5, "output": 50}}
    )
    job = {
        "name": "tight", "input": "requests.parquet", "warehouse": "warehouse.duckdb", "request": {"max_tokens": 64},
        "endpoints": [abroad, home],
    } | more  # fmt: skip
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder / "job.yaml"


def test_a_batch_that_was_never_made_is_not_made_where_its_requests_may_not_go_any_more(
    tmp_path: Path,
) -> None:
    with scripted(lambda _: Said(completion())) as provider:
        provider.batch = lambda batch: {**batch, "status": "in_progress"}
        job = write_night(tmp_path, provider)
        night = start("run", job, "--run-id", "one")
        until = time.monotonic() + PATIENCE_SECONDS
        while not any(path.startswith("GET /batches/") for path in provider.paths):
            assert night.poll() is None
            assert time.monotonic() < until
        night.kill()
        night.wait()
        provider.batches.clear()  # as if the process had died before it was made
        provider.bodies.clear()
        provider.batch = lambda batch: batch
        job = write_night(tmp_path, provider, policy={"regions": {"allow": ["eu"]}})
        done = night_here(job, "one")
    assert done.code == 0, done.said
    assert {body["model"] for body in provider.bodies} == {"home"}
    served = "select endpoint, count(*) from results where error is null group by 1"
    assert ask(tmp_path / "warehouse.duckdb", served) == [("home", ROWS)]
