"""NVIDIA GPUs as nvidia-smi prints them, and which of them CUDA_VISIBLE_DEVICES leaves to a process."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from thirdshift.engines.devices.device import Device, ask

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
QUERY = "--query-gpu=index,uuid,name,memory.total,memory.free,mig.mode.current,driver_version"
COLUMNS = 7
GPU = re.compile(r"^GPU (?P<index>\d+): (?P<name>.+?) \(UUID: (?P<uuid>[^)\s]+)\)")
SLICE = re.compile(r"^\s+MIG (?P<profile>\S+)\s+Device\s+\d+: \(UUID: (?P<uuid>MIG-[^)\s]+)\)")
GIGABYTES = re.compile(r"(\d+)gb", re.IGNORECASE)


def nvidia_gpus() -> tuple[Device, ...]:
    """Return the GPUs of this machine, the parts of a divided one in its place, those in ill health too."""
    printed = ask("nvidia-smi", QUERY, "--format=csv,noheader,nounits")
    return parse_nvidia(printed, lambda: ask("nvidia-smi", "-L"))


def parse_nvidia(printed: str, listed: Callable[[], str] = str) -> tuple[Device, ...]:
    """Read nvidia-smi's lines for QUERY; `listed` gives what `nvidia-smi -L` prints, for GPUs that are divided."""
    devices: list[Device] = []
    parts: dict[str, list[Device]] | None = None
    for line in printed.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if (
            len(cells) not in {COLUMNS - 1, COLUMNS} or not cells[0].isdigit()
        ):  # nodes of a cluster tell no driver
            continue
        index, uuid, name, total, free, mig, driver = (*cells, "")[:COLUMNS]
        if mig == "Enabled":
            parts = parse_slices(listed()) if parts is None else parts
            devices += parts.get(uuid, [])
        else:
            lost = not uuid.startswith("GPU-")  # `[GPU is lost]`, `[Unknown Error]` in place of what is asked
            identity = "" if lost else uuid
            devices.append(
                Device("cuda", int(index), name, _mib(total), identity, _mib(free), not lost, driver)
            )
    return tuple(devices)


def parse_slices(listed: str) -> dict[str, list[Device]]:
    """Read `nvidia-smi -L`: the parts of every divided GPU, by its UUID. A profile such as `3g.40gb` tells the memory."""
    parts: dict[str, list[Device]] = {}
    gpu: re.Match[str] | None = None
    for line in listed.splitlines():
        if named := GPU.match(line):
            gpu = named
        elif gpu is not None and (part := SLICE.match(line)):
            size = GIGABYTES.search(part["profile"])
            memory = int(size[1]) * 1024 if size else None
            name = f"{gpu['name']} MIG {part['profile']}"
            parts.setdefault(gpu["uuid"], []).append(
                Device("cuda", int(gpu["index"]), name, memory, part["uuid"])
            )
    return parts


def visible(devices: Sequence[Device], value: str | None) -> tuple[Device, ...]:
    """Return what CUDA makes of CUDA_VISIBLE_DEVICES: its order is kept, it ends before the first entry that names
    nothing (`-1`, `NoDevFiles`), and an entry that comes twice leaves nothing."""
    if value is None:
        return tuple(devices)
    chosen: list[Device] = []
    for entry in value.split(","):
        device = _named(devices, entry.strip())
        if device is None:
            break
        if device in chosen:
            return ()
        chosen.append(device)
    return tuple(chosen)


def _named(devices: Iterable[Device], entry: str) -> Device | None:
    """Return the device of a number, or of the beginning of a UUID that no other shares; a divided GPU's number is its
    first part's."""
    number = re.match(r"\+?(\d+)", entry)
    if number is not None:
        return next((device for device in devices if device.index == int(number[1])), None)
    if not entry.startswith(("GPU-", "MIG-")):
        return None
    named = [device for device in devices if device.uuid.startswith(entry)]
    return named[0] if len(named) == 1 else None


def doubtful(devices: Sequence[Device], environ: Mapping[str, str]) -> str | None:
    """Return why the numbers in CUDA_VISIBLE_DEVICES may mean other GPUs to CUDA than to nvidia-smi; None: they do not."""
    value = environ.get(VISIBLE, "")
    numbered = bool(re.match(r"\s*\+?\d", value))
    if not numbered or environ.get(ORDER) == "PCI_BUS_ID" or len({device.name for device in devices}) < 2:
        return None
    return (
        f"{VISIBLE}={value} numbers unlike GPUs, which CUDA counts from the fastest and nvidia-smi by their place; "
        f"set {ORDER}=PCI_BUS_ID, or name them by UUID (nvidia-smi -L)"
    )


def environment(devices: Sequence[Device]) -> dict[str, str]:
    """Return the variables of a process that is to see these GPUs alone."""
    named = [device.uuid or str(device.index) for device in devices]
    return {VISIBLE: ",".join(named), ORDER: "PCI_BUS_ID"}


def _mib(cell: str) -> int | None:
    return int(cell) if cell.isdigit() else None
