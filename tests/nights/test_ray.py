"""Whole nights on a real Ray, with real vLLM workers and the tiny model: the same answers as on one machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.support.nights import ask, night_here
from tests.support.ray_cluster import RayCluster, actors, ray_cluster, until
from tests.support.workers import MODEL, VLLM_PYTHON
from thirdshift.flows.cli.demo.exercises import items
from thirdshift.warehouse.store import rates
from thirdshift.warehouse.store.store import Warehouse

ROWS = 150
ON_PROCESSORS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "OMP_WAIT_POLICY": "PASSIVE",
    "OMP_NUM_THREADS": "1",
}
"""What vLLM's CPU build wants to know; a job that says `device: npu` does not tell it."""
ANSWERS = """
select request_id, task, endpoint, output, finish_reason, valid, error, attempts from results order by request_id
"""
USAGE = "select request_id, input_tokens, output_tokens, status from ledger where purpose = 'main' order by 1"
PAID = """
select w.node, w.device, epoch(w.stopped_at - w.started_at) as seconds,
       (select sum(cost_usd) from ledger l where l.provider_ref = w.worker_id)::double as paid
from workers w order by w.started_at
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """What a night came to."""

    answers: list[tuple[Any, ...]]
    usage: list[tuple[Any, ...]]
    workers: list[tuple[Any, ...]]
    said: str


@pytest.fixture(scope="module")
def ray() -> Iterator[RayCluster]:
    with ray_cluster({"CPU": 2, "NPU": 2}) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The night without Ray."""
    return night(tmp_path_factory.mktemp("local"))


def night(folder: Path, *, slow: bool = False, deadline: str | None = None, **endpoint: Any) -> Ended:
    """A night of the demo's exercises, without a scorer. `slow`: an earlier one has measured a slow worker."""
    rows = [
        {"request_id": item.request_id, "task": item.task, "prompt": item.prompt} for item in items(ROWS, 5)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "exercises.parquet")
    job = {
        "name": "exercises",
        "input": "exercises.parquet",
        "request": {"max_tokens": 16, "temperature": 0},
        "deadline": deadline,
        "endpoints": [
            {
                "name": "house",
                "engine": "vllm",
                "model": MODEL,
                "device": "cpu",
                "python": VLLM_PYTHON,
                "usd_per_hour": 3.6,
                "vllm": {"max_model_len": 128, "dtype": "float32"},
                **endpoint,
            }
        ],
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    warehouse = folder / "warehouse.duckdb"
    if slow:
        measured_slow(warehouse)
    done = night_here(path, "night")
    assert done.code == 0, done.said
    return Ended(ask(warehouse, ANSWERS), ask(warehouse, USAGE), ask(warehouse, PAID), done.said)


def measured_slow(path: Path) -> None:
    """Write down that a worker takes a second for a token."""
    row = {
        "run_id": "earlier",
        "endpoint": "house",
        "model": MODEL,
        "vllm": "0.32.0",
        "device": "npu",
        "hardware": "1 x npu",
        "prefill_tokens_per_second": 1000.0,
        "decode_tokens_per_second": 1.0,
        "told_apart": True,
        "startup_seconds": 10.0,
        "seconds": 1000.0,
        "prefill_tokens": 1000,
        "decode_tokens": 2000,
        "measured_at": datetime.now(UTC),
    }
    with Warehouse.open(path) as warehouse:
        rates.save(warehouse, pa.Table.from_pylist([row], rates.MEASURED))


def test_a_night_by_fewer_seats_than_planned_is_a_local_night_row_for_row(
    tmp_path: Path, ray: RayCluster, local: Ended
) -> None:
    """And NPUs place the seats, `runtime_env` reaches them, each is paid from its placement on."""
    cluster = {"address": ray.address, "runtime_env": {"env_vars": ON_PROCESSORS}}
    seats = night(tmp_path, slow=True, device="npu", workers="0-3", on="ray", cluster=cluster, deadline="6m")
    assert "3 workers of house" in seats.said
    assert seats.answers == local.answers
    assert seats.usage == local.usage
    placed = [(node, device) for node, device, *_ in seats.workers]
    assert placed == 2 * [(os.uname().nodename, "npu")]  # there was no room for a third, and nobody waited
    for _, _, seconds, paid in seats.workers:
        assert abs(paid * 1000 - seconds) < 1.0  # a thousandth of a dollar a second
    until(lambda: not actors(), 10.0)
