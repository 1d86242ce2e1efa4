"""What NVIDIA's cards have drawn, by their own counters: `nvidia-smi` prints no such figure, its library has it.

Standard library only, and nothing kept between calls: on a cluster this travels to the nodes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
DONE = 0
"""NVML_SUCCESS."""


def joules(uuids: Sequence[str], library: Any | None = None) -> float | None:
    """Return what these cards have drawn since their driver was loaded; None where one does not tell (a part of a card,
    cards before Volta). `library`: the driver's, where it is loaded and ready."""
    if library is None:
        try:
            library = ctypes.CDLL(LIBRARY)
            if library.nvmlInit_v2() != DONE:
                return None
        except (OSError, AttributeError):
            return None
    total = 0.0
    for uuid in uuids:
        handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
        known = library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)) == DONE
        counted = (
            known and library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)) == DONE
        )
        if not counted:
            return None
        total += millijoules.value / 1000
    return total if uuids else None
