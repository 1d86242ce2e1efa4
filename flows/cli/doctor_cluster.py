"""The part of `doctor` that looks at a Ray cluster: its nodes, their devices, versions that differ from ours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec

from thirdshift.engines.errors import MissingExtraError
from thirdshift.engines.ray.cluster import ClusterUnreachable
from thirdshift.engines.ray.survey import ClusterNode, survey, vllm_version
from thirdshift.flows.jobs.building import vllm_python
from thirdshift.router.values import ClusterSpec

DEVICES = ("CPU", "GPU", "NPU")


def cluster_findings(ask_vllm: str) -> Iterator[tuple[str, bool, str]]:
    """Yield what was found on the cluster that RAY_ADDRESS names: what it is of, whether it is well, the finding.

    `ask_vllm`: the program that prints an interpreter's vLLM.
    """
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        said = "" if find_spec("ray") else "; for workers on a cluster: pip install 'thirdshift[ray]'"
        yield "ray", True, f"RAY_ADDRESS names no cluster{said}"
        return
    here = _vllm_here(ask_vllm)
    python = str(vllm_python()) if vllm_python().exists() else None
    try:
        found = survey(ClusterSpec(address, python=python), "a/model")
        if not any(vllm_version(node.found or {}) for node in found.nodes):
            found = survey(ClusterSpec(address), "a/model")  # where Ray itself runs
    except (ClusterUnreachable, MissingExtraError) as error:
        yield "ray", False, str(error)
        return
    yield "ray", True, f"ray {found.ray_version}, {address}: {len(found.nodes)} nodes"
    for node in found.nodes:
        yield f"ray node {node.name}", node.found is not None, _told(node, here)


def _told(node: ClusterNode, here: str) -> str:
    devices = ", ".join(f"{node.resources[name]:g} {name}s" for name in DEVICES if node.resources.get(name))
    if node.found is None:
        return f"{devices}; could not be looked at: {node.why}"
    there = vllm_version(node.found)
    if not there:
        return f"{devices}; no vLLM in {node.found['python'] or 'the interpreter asked for'}"
    differs = f", here it is {here}" if here and here != there else ""
    return f"{devices}; {there}{differs}"


def _vllm_here(ask_vllm: str) -> str:
    python = vllm_python()
    if not python.exists():
        return ""
    done = subprocess.run([str(python), "-c", ask_vllm], capture_output=True, text=True, check=False)
    return done.stdout.strip()
