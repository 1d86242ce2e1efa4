"""Where workers of this machine run: cores that they share out, or devices that are theirs alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from thirdshift.engines.devices import (
    Device,
    Machine,
    cores_of,
    environment,
    hardware,
    hardware_named,
    width,
)
from thirdshift.engines.devices.allocation import ALLOCATOR, VARIABLE, Allocation, DeviceAllocator
from thirdshift.engines.vllm.deaths import NoPlace
from thirdshift.engines.vllm.engine_log import EngineFault, FaultKind
from thirdshift.engines.vllm.process import LocalPlace, cpu_environment
from thirdshift.engines.vllm.sizing import share_of
from thirdshift.router.values import JSON, WorkerSpec

LOOK_SECONDS = 2.0
"""Between two looks at devices that are waited for."""
FOREIGN_SECONDS = 600.0
"""Memory that another program holds is waited for so long, where another endpoint may answer instead."""

UNSEEN_SECONDS = 60.0
"""Devices that are not shown any more are looked for so long: a tool fails at times and shows none at all."""


@dataclass(frozen=True, slots=True)
class DevicePlacer:
    """Finds devices for the workers of one endpoint."""

    name: str
    """The endpoint's."""
    spec: WorkerSpec
    known: Machine
    look: Callable[[str], Sequence[Device]]
    """Looks at the devices of a kind anew, for the memory that is free."""
    say: Callable[[str], None]
    elsewhere: bool
    """Another endpoint may answer what this one does not."""
    allocator: DeviceAllocator = ALLOCATOR
    foreign_seconds: float = FOREIGN_SECONDS
    unseen_seconds: float = UNSEEN_SECONDS

    def find(self, number: int, wanted: Callable[[], bool]) -> LocalPlace | None:
        """Return the place of worker `number`, waiting while others hold the devices; None: it is not wanted any more.

        Raises NoPlace.
        """
        if self.spec.device == "cpu":
            return self._on_cores(number)
        try:
            return self._on_devices(wanted)
        except OSError as error:
            raise NoPlace(
                f"endpoint {self.name}: the lock of a device cannot be opened ({error}); let {VARIABLE} name a folder that "
                "all who share the devices can write"
            ) from error

    def _on_devices(self, wanted: Callable[[], bool]) -> LocalPlace | None:
        """Return a place with devices of its own, waiting for them. Raises NoPlace."""
        waiting_since = seen = time.monotonic()
        said = False
        with self.allocator.wanting(self.spec.device):
            while wanted():
                devices = self.allocator.sound(self.look(self.spec.device))
                if len(devices) >= self._count:
                    seen = time.monotonic()
                elif (
                    len(self.allocator.sound(self.known.of(self.spec.device))) < self._count
                    or time.monotonic() - seen > self.unseen_seconds
                ):
                    raise self._too_few(len(devices))
                place = self._take(devices)
                if place is not None:
                    return place
                if not said:
                    self.say(
                        f"endpoint {self.name}: waits for {self._needs()}: others hold the devices, or their memory"
                    )
                    said = True
                if self.elsewhere and time.monotonic() - waiting_since > self.foreign_seconds:
                    raise NoPlace(
                        f"endpoint {self.name}: no {self._needs()} came free in {self.foreign_seconds:.0f} s; see who "
                        "holds them, or leave the requests to the other endpoints"
                    )
                time.sleep(LOOK_SECONDS)
        return None

    def wanted_by_others(self) -> bool:
        """Whether somebody waits for devices such as a worker here holds."""
        return (
            self.spec.device != "cpu"
            and self.spec.cluster is None
            and self.allocator.wanted(self.spec.device)
        )

    def note(self, place: LocalPlace, fault: EngineFault) -> None:
        """Leave out a device that the engine said has failed; where it did not say which, all that it had."""
        if fault.kind is not FaultKind.SICK or place.allocation is None or self.spec.device == "cpu":
            return
        devices = place.allocation.devices
        rank = fault.tensor_rank
        failed = devices if rank is None or rank >= len(devices) else devices[rank : rank + 1]
        self.allocator.leave_out(place.allocation, failed)
        names = ", ".join(f"{device.index} ({device.name})" for device in failed)
        self.say(
            f"endpoint {self.name}: device {names} is left out from now on, its engine said: {fault.message}"
        )

    def _on_cores(self, number: int) -> LocalPlace:
        """Return the cores of a worker, or another's where a worker of another model has these; where none are free, they
        are shared."""
        allocation: Allocation | None = None
        for other in range(self.spec.workers if self.spec.workers > 1 else 0):
            place = on_cores(self.spec, number + other, self.known)
            cores = [Device("cpu", core, "core") for core in place.cores]
            with suppress(OSError):  # without locks cores are shared
                allocation = self.allocator.take(cores, len(cores))
            if allocation is not None:
                return replace(place, allocation=allocation)
        return on_cores(self.spec, number, self.known)

    def _take(self, devices: Sequence[Device]) -> LocalPlace | None:
        free = [one for one in devices if room(one, self.spec.options)]
        for alike in _alike(free, self._count):
            allocation = self.allocator.take(alike, self._count)
            if allocation is not None:
                return LocalPlace(
                    self.spec.python,
                    environment(allocation.devices),
                    hardware=hardware_named(self.spec, [one.name for one in allocation.devices]),
                    device=self.spec.device,
                    allocation=allocation,
                )
        return None

    def _too_few(self, here: int) -> NoPlace:
        return NoPlace(
            f"endpoint {self.name}: a worker takes {self._needs()}, and {here} sound ones are here; "
            "see to those that failed, or lower tensor_parallel_size"
        )

    @property
    def _count(self) -> int:
        return width(self.spec.options)

    def _needs(self) -> str:
        return f"{self._count} {self.spec.device} device{'s' if self._count > 1 else ''}"


def _alike(devices: Sequence[Device], count: int) -> list[list[Device]]:
    """Return what a worker's devices are taken from: of a machine with several models of card those of one; where none has
    enough of them, all."""
    models: dict[str, list[Device]] = {}
    for device in devices:
        models.setdefault(device.name, []).append(device)
    enough = [alike for alike in models.values() if len(alike) >= count]
    return enough or [list(devices)]


def room(device: Device, options: Mapping[str, JSON]) -> bool:
    """Whether the memory that vLLM takes in advance is free; True where that is not known."""
    if device.free_mib is None or device.memory_mib is None or "kv_cache_memory_bytes" in options:
        return True
    return device.free_mib >= share_of(options, device.kind) * device.memory_mib


def on_cores(spec: WorkerSpec, number: int, known: Machine) -> LocalPlace:
    """Return the cores of worker `number` of the processor's."""
    cores = cores_of(spec, number, known.cores)
    return LocalPlace(spec.python, cpu_environment(spec, cores), cores, hardware(spec, known), device="cpu")
