"""What this machine can run a model on: NVIDIA GPUs, Ascend NPUs, CPU cores."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from thirdshift.engines.devices import ascend, nvidia
from thirdshift.engines.devices.device import Device
from thirdshift.router.values import JSON, WorkerSpec

SPLITS = ("tensor_parallel_size", "pipeline_parallel_size", "prefill_context_parallel_size")
"""What vLLM multiplies to the number of its processes, one device each (`ParallelConfig.world_size`); how a context is
split for decoding uses the same devices."""

VARIABLES = {"cuda": nvidia.VISIBLE, "npu": ascend.VISIBLE}
"""By kind of device: the variable that says which of them a process may use."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What `doctor` shows."""

    gpus: tuple[Device, ...]
    npus: tuple[Device, ...]
    cores: tuple[int, ...]
    """Those that this process may use."""
    doubts: Mapping[str, str] = field(default_factory=dict)
    """By kind of device: why the variable that hides some may mean others than it seems to."""

    def of(self, kind: str) -> tuple[Device, ...]:
        """Return the devices of a kind that a worker can be given, those in ill health left out."""
        return tuple(device for device in self.all_of(kind) if device.healthy)

    def all_of(self, kind: str) -> tuple[Device, ...]:
        """Return the devices of a kind that this process may use, well or not."""
        return {"cuda": self.gpus, "npu": self.npus}.get(
            kind, (Device("cpu", 0, f"{len(self.cores)} cores"),)
        )


@lru_cache(maxsize=1)
def machine() -> Machine:
    """Return the devices of this machine. Looked up once a process: each tool takes a second."""
    gpus, npus = nvidia.nvidia_gpus(), ascend.ascend_npus()
    doubts = {"cuda": nvidia.doubtful(gpus, os.environ), "npu": ascend.doubtful(os.environ)}
    return Machine(
        visible("cuda", gpus, os.environ.get(VARIABLES["cuda"])),
        visible("npu", npus, os.environ.get(VARIABLES["npu"])),
        cpu_cores(),
        {kind: doubt for kind, doubt in doubts.items() if doubt is not None},
    )


def look_again(kind: str) -> tuple[Device, ...]:
    """Return the sound devices of a kind, with the memory that is free now."""
    devices = {"cuda": nvidia.nvidia_gpus, "npu": ascend.ascend_npus}[kind]()
    return tuple(
        device for device in visible(kind, devices, os.environ.get(VARIABLES[kind])) if device.healthy
    )


def width(options: Mapping[str, JSON]) -> int:
    """Return how many devices one worker takes."""
    return math.prod(int(options.get(name, 1)) for name in SPLITS)


def visible(kind: str, devices: Sequence[Device], value: str | None) -> tuple[Device, ...]:
    """Return the devices of a kind that the variable for them leaves to a process."""
    return ascend.visible(devices, value) if kind == "npu" else nvidia.visible(devices, value)


def environment(devices: Sequence[Device]) -> dict[str, str]:
    """Return the variables of a process that is to see these devices alone."""
    npus = bool(devices) and devices[0].kind == "npu"
    return ascend.environment(devices) if npus else nvidia.environment(devices)


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
