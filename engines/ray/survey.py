"""What a cluster has for an endpoint's workers, and what keeps them from starting there: sentences with a remedy."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from thirdshift.engines.core.json import dumps, loads
from thirdshift.engines.devices import (
    VARIABLES,
    Device,
    hardware_named,
    parse_ascend,
    parse_nvidia,
    visible,
    width,
)
from thirdshift.engines.ray.cluster import BridgeEnded, Cluster
from thirdshift.engines.vllm.packages import told
from thirdshift.router.values import ClusterSpec, Endpoint, WorkerSpec

RESOURCES = {"cuda": "GPU", "npu": "NPU", "cpu": "CPU"}
"""Ray's names of our devices."""
BRIDGES = 4
"""So many processes that speak with Ray may be killed before a look is given up."""


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node that is alive."""

    name: str
    resources: Mapping[str, float]
    found: Mapping[str, Any] | None
    """What a worker would find there; None where it could not be looked at."""
    why: str | None = None
    """Why it could not."""

    def seats(self, spec: WorkerSpec, cpus: float) -> int:
        """How many workers it has room for when nobody else uses it."""
        size = cpus if spec.device == "cpu" else width(spec.options)
        return int(self.resources.get(RESOURCES[spec.device], 0.0) // max(size, 1e-9))

    def hardware(self, spec: WorkerSpec, cpus: float) -> str:
        """Name what a worker runs on there."""
        if spec.device == "cpu":
            return f"{int(cpus)} {'core' if cpus == 1 else 'cores'}"
        return hardware_found(spec, {**(self.found or {}), "visible": {}})


@dataclass(frozen=True, slots=True)
class ClusterSurvey:
    """What was found on a cluster."""

    ray_version: str
    nodes: tuple[ClusterNode, ...]

    def hardware(self, spec: WorkerSpec) -> tuple[tuple[str, int], ...]:
        """What workers would run on, and how many of each kind there is room for."""
        cpus = cpus_for(spec, [{"resources": node.resources} for node in self.nodes])
        kinds: Counter[str] = Counter()
        for node in self.nodes:
            kinds[node.hardware(spec, cpus)] += node.seats(spec, cpus)
        return tuple((name, count) for name, count in sorted(kinds.items()) if count)

    def per_node(self, spec: WorkerSpec) -> int:
        """How many workers most of the nodes have room for that have room for some."""
        cpus = cpus_for(spec, [{"resources": node.resources} for node in self.nodes])
        seats = Counter(count for node in self.nodes if (count := node.seats(spec, cpus)))
        return max(seats, key=lambda count: (seats[count], count), default=1)


def hardware_found(spec: WorkerSpec, found: Mapping[str, Any]) -> str:
    """Name what a worker runs on at a node, as it would be named on that machine."""
    return hardware_named(spec, [device.name for device in devices_found(spec, found)])


def devices_found(spec: WorkerSpec, found: Mapping[str, Any]) -> tuple[Device, ...]:
    """Return the devices that Ray gave a worker at a node; where that does not tell, all of its kind there."""
    if spec.device == "npu":
        devices = parse_ascend(found.get("ascend", ""))
    else:
        devices = parse_nvidia(found.get("nvidia", ""), lambda: str(found.get("nvidia_parts", "")))
    return visible(spec.device, devices, found["visible"].get(VARIABLES[spec.device])) or devices


def survey(cluster: ClusterSpec, model: str) -> ClusterSurvey:
    """Look at every node of the cluster, once in the life of this process. Raises ClusterUnreachable."""
    environment = dumps(dict(cluster.runtime_env)).decode()
    return _surveyed(cluster.address, environment, cluster.python, model)


@lru_cache(maxsize=16)
def _surveyed(address: str, environment: str, python: str | None, model: str) -> ClusterSurvey:
    spec = ClusterSpec(address, loads(environment), python)
    version, looked = _looked(spec, model)
    nodes = [ClusterNode(one["name"], one["resources"], one.get("found"), one.get("why")) for one in looked]
    return ClusterSurvey(version, tuple(sorted(nodes, key=lambda node: node.name)))


def _looked(spec: ClusterSpec, model: str, bridges: int = BRIDGES) -> tuple[str, list[dict[str, Any]]]:
    """Return Ray's version and the nodes, by another bridge where one was killed."""
    cluster = None
    try:
        cluster = Cluster(spec)
        return cluster.version, cluster.look(model)
    except BridgeEnded:
        if bridges == 1:
            raise
    finally:
        if cluster is not None:
            cluster.close()
    return _looked(spec, model, bridges - 1)


def problems(endpoint: Endpoint, spec: WorkerSpec, found: ClusterSurvey) -> list[str]:
    """Return what keeps the endpoint's workers from starting on the nodes that have its devices, each in a sentence."""
    cpus = cpus_for(spec, [{"resources": node.resources} for node in found.nodes])
    able = [node for node in found.nodes if node.seats(spec, cpus)]
    sentences = [
        sentence
        for node in able
        if node.found is not None
        for sentence in missing(endpoint.model, spec, node.found)
    ]
    if all(node.found is None for node in able):  # where one could be looked at, the run goes on with that
        sentences = [f"node {node.name} could not be looked at: {node.why}" for node in able]
    return [f"endpoint {endpoint.name}: {sentence}" for sentence in dict.fromkeys(sentences)]


def missing(model: str, spec: WorkerSpec, found: Mapping[str, Any]) -> list[str]:
    """Return what a worker would miss where this was found, each in a sentence with a remedy."""
    node, cluster = found["node"], spec.cluster
    python = None if cluster is None else cluster.python
    lacks = []
    packages = told(found["packages"] or "")
    if found["python"] is None:
        lacks.append(f"node {node} has no Python at {python}; name under python: one that every node has")
    elif packages is None:
        lacks.append(
            f"on node {node} {found['python']} does not run as a Python interpreter; name another under python:"
        )
    elif not packages["vllm"] and not (python is None and cluster is not None and cluster.runtime_env):
        where = found["python"]
        lacks.append(
            f"on node {node} {where} has no vLLM; install it there, or name under python: one that has it"
        )
    elif packages["vllm"] and spec.device == "cuda" and packages.get("cpu"):
        lacks.append(
            f"on node {node} the vLLM of {found['python']} is the CPU's build, and would answer at a GPU's price; "
            "name under python: one that was built for CUDA"
        )
    elif packages["vllm"] and spec.device == "npu" and "ascend" not in packages["plugins"]:
        lacks.append(
            f"on node {node} {found['python']} lacks vLLM's plugin for Ascend; install vllm-ascend there, or name "
            "under python: one that has it"
        )
    if not found["model"]:
        lacks.append(f"node {node} has no model at {model}; put it there, or name a model of a hub")
    return lacks


def vllm_version(found: Mapping[str, Any]) -> str:
    """Return the vLLM of a node's interpreter with its version, empty where there is none."""
    return str((told(found["packages"] or "") or {}).get("version", ""))


def cpus_for(spec: WorkerSpec, nodes: Sequence[Mapping[str, Any]]) -> float:
    """Return the CPUs of one worker on processors: a node's, shared equally by the workers that it must hold."""
    most = max((node["resources"].get("CPU", 0.0) for node in nodes), default=1.0)
    per_node = math.ceil(spec.workers / max(1, len(nodes)))
    return float(max(1, int(most) // max(1, per_node)))
