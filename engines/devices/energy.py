"""What NVIDIA's cards have drawn, by their own counters: `nvidia-smi` prints no such figure, its library has it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from thirdshift.engines.devices.device import Device

LIBRARY = "libnvidia-ml.so.1"
DONE = 0
"""NVML_SUCCESS."""


@lru_cache(maxsize=1)
def nvml() -> Any | None:
    """Return the driver's library, ready for use; None where there is none."""
    try:
        library = ctypes.CDLL(LIBRARY)
        return library if library.nvmlInit_v2() == DONE else None
    except (OSError, AttributeError):
        return None


def joules(devices: Sequence[Device], library: Any | None = None) -> float | None:
    """Return what these cards have drawn since their driver was loaded; None where one does not tell (a part of a card,
    cards before Volta)."""
    library = library or nvml()
    if library is None or not devices:
        return None
    total = 0.0
    for device in devices:
        handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
        known = library.nvmlDeviceGetHandleByUUID(device.uuid.encode(), ctypes.byref(handle)) == DONE
        counted = (
            known and library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)) == DONE
        )
        if device.kind != "cuda" or not counted:
            return None
        total += millijoules.value / 1000
    return total
