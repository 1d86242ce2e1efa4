"""Ascend NPUs as `npu-smi info` prints them, and which of them ASCEND_RT_VISIBLE_DEVICES leaves to a process.

The runtime counts what it sees from 0. In a container that is given /dev/davinci4 and 5, npu-smi prints NPUs 4 and 5 and
the runtime knows 0 and 1: a device's number is its place in the table. Not tried on such machines; the tables are from
users' reports.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from thirdshift.engines.devices.device import Device, ask

VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"
BUS = re.compile(r"^[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]$")
NAME = re.compile(r"(?:Ascend)?\d{3}\w*")
MEMORY = re.compile(r"(\d+)\s*/\s*(\d+)")
HEALTHY = "OK"
NUMBERS = re.compile(r"\d+(?:,\d+)*")
DRIVER = re.compile(r"npu-smi\s+\S+\s+Version:\s*(\S+)")
GENERATIONS = (("310P", "_310P"), ("910B", "A2"), ("910", "A3"), ("950", "A5"))
"""How a chip's name begins, and the `__device_type__` of a vllm-ascend that is built for it; a 910C is printed as 910."""


def ascend_npus() -> tuple[Device, ...]:
    """Return the NPUs of this machine, those in ill health too."""
    return parse_ascend(ask("npu-smi", "info"))


def parse_ascend(printed: str) -> tuple[Device, ...]:
    """Read the table of `npu-smi info`: two rows a chip, the second known by its place on the bus.

    The first begins with the card's number and its name, in one column or (950) in two, then its health. The last pair
    of the second row that is not 0 / 0 is the memory used and there, in MiB: HBM where the chip has it, else DDR.
    """
    devices: list[Device] = []
    card: tuple[str, bool] | None = None
    told = DRIVER.search(printed)
    for line in printed.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        bus = next((cell for cell in cells if BUS.match(cell)), None)
        if bus is not None and card is not None:
            pairs = [(int(used), int(whole)) for used, whole in MEMORY.findall(cells[-1]) if int(whole)]
            used, whole = pairs[-1] if pairs else (0, 0)
            name, healthy = card
            chip = (cells[0].split() or ["0"])[0]
            free = whole - used if whole else None
            devices.append(
                Device(
                    "npu",
                    len(devices),
                    f"Ascend {name}",
                    whole or None,
                    f"NPU-{bus}-{chip}",
                    free,
                    healthy,
                    told[1] if told else "",
                )
            )
            card = None
        elif bus is None:
            card = _card(cells) or card
    return tuple(devices)


def _card(cells: Sequence[str]) -> tuple[str, bool] | None:
    """Return a card's name and whether it is well; None for every other row."""
    words = " ".join(cells[:2]).split() if cells else []
    if len(words) < 2 or not words[0].isdigit() or not NAME.fullmatch(words[1]):
        return None
    health = cells[1] if len(cells[0].split()) > 1 else (cells[2] if len(cells) > 2 else "")
    return words[1].removeprefix("Ascend"), health.strip() == HEALTHY


def generation(name: str) -> str | None:
    """Return what vllm-ascend calls a chip's generation; None for a name that is not known."""
    chip = name.removeprefix("Ascend").strip()
    return next((found for begins, found in GENERATIONS if chip.startswith(begins)), None)


def visible(devices: Sequence[Device], value: str | None) -> tuple[Device, ...]:
    """Return the NPUs that ASCEND_RT_VISIBLE_DEVICES names, as the runtime reads it: numbers and commas alone, up to the
    first other character (a space, the dash of a range) or the first number that is none's."""
    if value is None:
        return tuple(devices)
    chosen: list[Device] = []
    read = NUMBERS.match(value)
    for number in read[0].split(",") if read else ():
        if int(number) >= len(devices):
            break
        if all(device.index != int(number) for device in chosen):
            chosen.append(replace(devices[int(number)], index=int(number)))
    return tuple(chosen)


def doubtful(environ: Mapping[str, str]) -> str | None:
    """Return what the runtime does not read of ASCEND_RT_VISIBLE_DEVICES; None: it reads the whole."""
    value = environ.get(VISIBLE, "")
    if not value or NUMBERS.fullmatch(value):
        return None
    read = NUMBERS.match(value)
    return (
        f"of {VISIBLE}={value} CANN reads {read[0] if read else 'nothing'}: it knows numbers and commas, no spaces and no "
        "ranges; write 0,1,2"
    )


def environment(devices: Sequence[Device]) -> dict[str, str]:
    """Return the variables of a process that is to see these NPUs alone; CANN takes numbers in ascending order only."""
    return {VISIBLE: ",".join(map(str, sorted(device.index for device in devices)))}
