"""`on: ray` before anything runs: the job's keys, what a plan is told of a cluster, what is said where there is none."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from tests.support.nights import thirdshift, write_sums
from tests.support.paths import ROOT
from tests.support.workers import MODEL, worker_endpoint
from thirdshift.engines.ray import survey
from thirdshift.engines.ray.cluster import ClusterSeat
from thirdshift.engines.ray.engine import SeatPlace
from thirdshift.engines.ray.survey import ClusterNode, ClusterSurvey, hardware_found, problems
from thirdshift.engines.vllm.engine_log import EngineLog
from thirdshift.flows.errors import JobError
from thirdshift.flows.jobs.building import books, endpoint_values
from thirdshift.flows.jobs.job import load_job
from thirdshift.flows.planning.measured.throughput import known_paces
from thirdshift.flows.runs import clusters
from thirdshift.router.values import ClusterSpec, Endpoint, WorkerSpec
from thirdshift.warehouse.store import rates
from thirdshift.warehouse.store.store import Warehouse

HOUSE = {"name": "house", "engine": "vllm", "model": MODEL, "device": "cpu", "usd_per_hour": 1, "on": "ray"}
H100S = "".join(f"{n}, GPU-{n}{n}, NVIDIA H100, 81559, 81000, Disabled\n" for n in range(8))
A910S = """
| 0     910C                | OK            | 167.9       36                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          3356 / 65536         |
"""
VLLM = '{"vllm": true, "plugins": ["ascend"], "version": "vllm 0.32.0", "cpu": false}'
AT = ClusterSpec("head:6379")


def job_file(folder: Path, **house: Any) -> Path:
    write_sums(folder / "requests.parquet", 4)
    job = {
        "name": "sums",
        "input": "requests.parquet",
        "request": {"max_tokens": 8},
        "endpoints": [HOUSE | house],
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path


def spec(folder: Path, **house: Any) -> WorkerSpec:
    job = load_job(job_file(folder, **house))
    workers = endpoint_values(job, *books())[0].workers
    assert workers is not None
    return workers


def node(name: str, found: dict[str, Any] | None = None, **resources: float) -> ClusterNode:
    """A node with what a worker would find there, `found` besides the usual."""
    usual = {
        "node": name,
        "python": "/usr/bin/python3",
        "packages": VLLM,
        "model": True,
        "nvidia": "",
        "ascend": "",
    }
    return ClusterNode(name, resources, None if found is None else usual | found)


def endpoint(**workers: Any) -> Endpoint:
    return worker_endpoint(**{"cluster": AT, **workers})


def test_a_jobs_keys_say_where_how_many_and_in_what_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {"env_vars": {"HF_HOME": "/models"}}
    workers = spec(
        tmp_path, workers="0-16", cluster={"address": "head:6379", "runtime_env": env}, python="python3.12"
    )
    assert (workers.workers, workers.python) == (16, "python3.12")  # of the nodes: no path from the job file
    assert workers.cluster == ClusterSpec("head:6379", env, "python3.12")
    monkeypatch.setenv("RAY_ADDRESS", "other:6379")
    most = spec(tmp_path, workers="max", cluster={"runtime_env": env})
    assert most.cluster == ClusterSpec("other:6379", env, None, whole=True)


@pytest.mark.parametrize(
    ("house", "said"),
    [
        ({}, "is required with on: ray"),
        ({"cluster": {"address": "ray://head:10001"}}, "run thirdshift on a node of the cluster"),
        ({"cluster": {"address": "head:6379"}, "workers": "4-16"}, "a range that begins at 0"),
        ({"cluster": {"address": "head:6379"}, "workers": 0}, "is a number from 1"),
        ({"cluster": {"adress": "head:6379"}}, "address"),
        (
            {"cluster": {"address": "h:1", "runtime_env": {"env_vars": {"HF_TOKEN": "x"}}}},
            "set the variable where Ray runs",
        ),
        ({"on": None, "cluster": {"address": "head:6379"}}, "say on: ray"),
        ({"on": None, "workers": "max"}, "max is for on: ray"),
        ({"on": "dask"}, "ray"),
    ],
)
def test_what_a_job_says_wrongly_of_a_cluster_is_told_with_the_remedy(
    tmp_path: Path, house: dict[str, Any], said: str
) -> None:
    with pytest.raises(JobError, match=said):
        load_job(job_file(tmp_path, **house), environ={})


def test_the_job_of_the_page_on_clusters_is_a_job(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    text = page.partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "cluster.yaml").write_text(text, encoding="utf-8")
    (house,) = endpoint_values(load_job(tmp_path / "cluster.yaml"), *books())
    assert house.workers is not None
    assert house.workers.cluster is not None
    assert house.workers.cluster.address == "auto"


def test_a_plan_without_a_cluster_is_one_sentence_and_exit_2(tmp_path: Path) -> None:
    done = thirdshift("plan", job_file(tmp_path, cluster={"address": "127.0.0.1:1"}))
    assert done.returncode == 2
    assert done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    assert "the Ray cluster at 127.0.0.1:1 cannot be reached" in sentence


def test_workers_max_are_as_many_as_the_cluster_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ClusterSurvey(
        "2.60.0",
        (node("a", {"nvidia": H100S}, GPU=8), node("b", {}, CPU=64), node("c", {"nvidia": ""}, GPU=3)),
    )
    monkeypatch.setattr(survey, "survey", lambda *_: found)
    asked = endpoint(device="cuda", options={"tensor_parallel_size": 2}, cluster=replace(AT, whole=True))
    workers = clusters.surveyed(asked).workers
    assert workers is not None
    assert workers.cluster is not None
    assert workers.workers == 5
    assert workers.cluster.hardware == (("2 x NVIDIA H100", 4), ("2 x cuda", 1))
    assert workers.cluster.per_node == 4


def test_a_seats_hardware_is_that_of_the_devices_that_ray_gave_it() -> None:
    mixed = H100S.replace("4, GPU-44, NVIDIA H100", "4, GPU-44, NVIDIA L4")
    cuda, npu = WorkerSpec("cuda", 1, ""), WorkerSpec("npu", 1, "")
    for given, name in (("4", "1 x NVIDIA L4"), ("GPU-44", "1 x NVIDIA L4"), ("5", "1 x NVIDIA H100")):
        assert hardware_found(cuda, {"nvidia": mixed, "visible": {"CUDA_VISIBLE_DEVICES": given}}) == name
    assert (
        hardware_found(npu, {"ascend": A910S, "visible": {"ASCEND_RT_VISIBLE_DEVICES": "0"}})
        == "1 x Ascend 910C"
    )


class Connection:
    """Stands for a connection: what is said goes in a list, a worker has started when it is asked to."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.seat = ClusterSeat(self, 1)  # type: ignore[arg-type]

    def say(self, header: dict[str, Any], payload: bytes = b"") -> None:
        assert not payload
        self.said.append(header)
        self.seat.take({"op": "started", "pid": 7}, b"")


@pytest.mark.parametrize(
    ("given", "cards"), [("4", ["GPU-44"]), ("GPU-22,GPU-33", ["GPU-22", "GPU-33"]), (None, [])]
)
def test_electricity_is_counted_by_the_cards_that_ray_gave_a_seat(
    tmp_path: Path, given: str | None, cards: list[str]
) -> None:
    paid = spec(tmp_path, device="cuda", usd_per_kwh=0.3, cluster={"address": "head:6379"})
    link = Connection()
    link.seat.found = {"python": "python3", "nvidia": H100S, "visible": {"CUDA_VISIBLE_DEVICES": given}}
    for workers, counted in ((paid, cards), (replace(paid, usd_per_kwh=None), [])):
        place = SeatPlace(link.seat, workers, "1 x NVIDIA H100")
        place.start("m/m", {}, EngineLog())
        assert link.said[-1]["cards"] == counted
        assert place.joules() == (0.0 if counted else None)
    for told in (7.2e6, None):
        link.seat.take(
            {"op": "said", "log": [], "status": None, "joules": told}, b'{"op": "pace"}\n== hello ==\n'
        )
        assert place.joules() == told
    assert link.seat.received.get() == [{"op": "pace"}], "what is no message is left out"


def test_a_plan_knows_what_each_kind_of_device_does(tmp_path: Path) -> None:
    measured = [
        ("cuda", "1 x NVIDIA H100", 40_000.0),
        ("npu", "1 x Ascend 910C", 20_000.0),
        ("cuda", "1 x NVIDIA L4", 4_000.0),
    ]
    rows = [
        {"run_id": "r", "endpoint": "house", "model": MODEL, "device": device, "hardware": name, "vllm": "0.32.0",
         "startup_seconds": 60.0, "prefill_tokens_per_second": speed, "decode_tokens_per_second": speed / 10,
         "prefill_tokens": 1000, "decode_tokens": 100, "seconds": 1.0, "measured_at": datetime(2026, 11, 1, tzinfo=UTC)}
        for device, name, speed in measured
    ]  # fmt: skip

    def pace(device: str, *hardware: tuple[str, int]) -> float:
        asked = endpoint(device=device, cluster=replace(AT, hardware=hardware))
        return known_paces([asked], warehouse)["house"].throughput.prefill_tokens_per_second

    with Warehouse.open(tmp_path / "w.duckdb") as warehouse:
        rates.save(warehouse, pa.Table.from_pylist(rows, rates.MEASURED))
        assert pace("cuda", ("1 x NVIDIA H100", 8)) == pytest.approx(40_000)
        assert pace("npu", ("1 x Ascend 910C", 16)) == pytest.approx(20_000)
        assert pace("cuda", ("1 x NVIDIA H100", 2), ("1 x NVIDIA L4", 1)) == pytest.approx(28_000)
        assert pace("cuda", ("1 x NVIDIA H200", 8)) == pace("cuda")  # a guess


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"model": False}, "node b has no model at"),
        (
            {"packages": '{"vllm": true, "plugins": []}'},
            "on node b /usr/bin/python3 lacks vLLM's plugin for Ascend",
        ),
        ({"packages": '{"vllm": false}'}, "on node b /usr/bin/python3 has no vLLM"),
        ({"packages": ""}, "does not run as a Python interpreter"),
        ({"python": None}, "node b has no Python at"),
    ],
)
def test_what_a_node_with_the_devices_lacks_is_told_with_its_name(found: dict[str, Any], said: str) -> None:
    asked = endpoint(device="npu")
    assert asked.workers is not None
    survey = ClusterSurvey(
        "2.60.0", (node("a", {}, NPU=8), node("b", found, NPU=8), node("c", {"model": False}, CPU=8))
    )
    (sentence,) = problems(asked, asked.workers, survey)
    assert said in sentence


def test_a_banner_before_what_a_nodes_python_says_is_passed_by() -> None:
    asked = endpoint(device="cuda")
    assert asked.workers is not None
    greeting = node("a", {"packages": '== CUDA ==\n\n{"vllm": true, "plugins": []}'}, GPU=8)
    assert problems(asked, asked.workers, ClusterSurvey("2.60.0", (greeting,))) == []


def test_a_node_that_cannot_be_looked_at_stops_a_run_only_where_it_is_the_only_one() -> None:
    asked = endpoint(device="cuda")
    assert asked.workers is not None
    hung, well = replace(node("hung", None, GPU=8), why="it does not answer"), node("well", {}, GPU=8)
    assert problems(asked, asked.workers, ClusterSurvey("2.60.0", (hung, well))) == []
    (sentence,) = problems(asked, asked.workers, ClusterSurvey("2.60.0", (hung,)))
    assert "node hung could not be looked at: it does not answer" in sentence
