"""What this machine can run a model on: NVIDIA GPUs, Ascend NPUs, CPU cores."""

from thirdshift.engines.devices.ascend import parse_ascend
from thirdshift.engines.devices.device import Device
from thirdshift.engines.devices.machine import (
    VARIABLES,
    Machine,
    cores_of,
    environment,
    hardware,
    hardware_named,
    look_again,
    machine,
    visible,
    width,
)
from thirdshift.engines.devices.nvidia import parse_nvidia

__all__ = [
    "VARIABLES",
    "Device",
    "Machine",
    "cores_of",
    "environment",
    "hardware",
    "hardware_named",
    "look_again",
    "machine",
    "parse_ascend",
    "parse_nvidia",
    "visible",
    "width",
]
