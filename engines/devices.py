"""What this machine can run a model on: NVIDIA GPUs, Ascend NPUs, CPU cores."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from thirdshift.router.values import JSON, WorkerSpec

ASK_SECONDS = 20.0
"""A driver in trouble can hang its own tool."""


@dataclass(frozen=True, slots=True)
class Device:
    kind: str
    """cuda, npu or cpu."""
    index: int
    """As CUDA_VISIBLE_DEVICES or ASCEND_RT_VISIBLE_DEVICES counts; 0 for the CPU."""
    name: str
    memory_mib: int | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What `doctor` shows."""

    gpus: tuple[Device, ...]
    npus: tuple[Device, ...]
    cores: tuple[int, ...]
    """Those that this process may use."""

    def of(self, kind: str) -> tuple[Device, ...]:
        return {"cuda": self.gpus, "npu": self.npus}.get(
            kind, (Device("cpu", 0, f"{len(self.cores)} cores"),)
        )


@lru_cache(maxsize=1)
def machine() -> Machine:
    """Return the devices of this machine. Looked up once a process: each tool takes a second."""
    return Machine(nvidia_gpus(), ascend_npus(), cpu_cores())


def width(options: Mapping[str, JSON]) -> int:
    """Return how many devices one worker takes."""
    return int(options.get("tensor_parallel_size", 1)) * int(options.get("pipeline_parallel_size", 1))


def cores_of(spec: WorkerSpec, number: int, cores: tuple[int, ...]) -> tuple[int, ...]:
    """Return an equal share of the cores for worker `number`; with more workers than cores, one each in turn."""
    share = max(1, len(cores) // spec.workers)
    first = number * share % len(cores)
    return cores[first : first + share]


def hardware(spec: WorkerSpec, known: Machine | None = None) -> str:
    """Name what one worker runs on: rates measured on one kind of hardware say nothing of another."""
    here = machine() if known is None else known
    if spec.device == "cpu":
        count = len(cores_of(spec, 0, here.cores))
        return f"{count} {'core' if count == 1 else 'cores'}"
    return hardware_named(spec, [device.name for device in here.of(spec.device)])


def hardware_named(spec: WorkerSpec, names: Sequence[str]) -> str:
    """Name the devices of one worker by the first of a machine's."""
    return f"{width(spec.options)} x {names[0] if names else spec.device}"


def cpu_cores() -> tuple[int, ...]:
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def nvidia_gpus() -> tuple[Device, ...]:
    printed = _ask("nvidia-smi", "--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits")
    return _visible(parse_nvidia(printed), "CUDA_VISIBLE_DEVICES")


def ascend_npus() -> tuple[Device, ...]:
    return _visible(parse_ascend(_ask("npu-smi", "info")), "ASCEND_RT_VISIBLE_DEVICES")


def parse_nvidia(printed: str) -> tuple[Device, ...]:
    """Read nvidia-smi's lines, such as `0, NVIDIA H200, 143771`."""
    devices = []
    for line in printed.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3 and parts[0].isdigit():
            memory = int(parts[2]) if parts[2].isdigit() else None
            devices.append(Device("cuda", int(parts[0]), parts[1], memory))
    return tuple(devices)


CARD = re.compile(r"\|\s*(\d+)\s+(\w*[A-Za-z]\w*)\s*\|\s*[A-Z]\w*\s*\|")
CHIP = re.compile(r"\|\s*\d+(?:\s+(\d+))?\s*\|\s*[0-9A-Fa-f]{4}:\S+\s*\|.*/\s*(\d+)\s*\|")


def parse_ascend(printed: str) -> tuple[Device, ...]:
    """Read the table of `npu-smi info`.

    It has two rows for each chip. The first begins with the card's number and name; the second
    with the chip's number on its card and, where cards have two chips, the number that devices are counted by. It ends
    with the memory used and there, in MiB. Not tried on such a machine: the tables are from users' reports.
    """
    devices, card = [], None
    for line in printed.splitlines():
        if named := CARD.match(line):
            card = named
        elif card is not None and (chip := CHIP.match(line)):
            index = int(chip[1] if chip[1] is not None else card[1])
            devices.append(
                Device("npu", index, f"Ascend {card[2].removeprefix('Ascend')}", int(chip[2]) or None)
            )
            card = None
    return tuple(devices)


def _visible(devices: tuple[Device, ...], variable: str) -> tuple[Device, ...]:
    """Return the devices that the environment lets this process see."""
    allowed = os.environ.get(variable)
    if allowed is None or not all(part.strip().isdigit() for part in allowed.split(",") if part.strip()):
        return devices  # unset, or UUIDs, which the driver's tools do not number
    wanted = {int(part) for part in allowed.split(",") if part.strip()}
    return tuple(device for device in devices if device.index in wanted)


def _ask(program: str, *arguments: str) -> str:
    path = shutil.which(program)
    if path is None:
        return ""
    try:
        done = subprocess.run(
            (path, *arguments), capture_output=True, text=True, timeout=ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
