"""A device of this machine that a model can run on."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

ASK_SECONDS = 20.0
"""A driver in trouble can hang its own tool."""


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU, a part of one (MIG), an NPU, or the processor."""

    kind: str
    """cuda, npu or cpu."""
    index: int
    """As ASCEND_RT_VISIBLE_DEVICES counts; GPUs: as nvidia-smi does, by their place on the bus; 0 for the CPU."""
    name: str
    memory_mib: int | None = None
    uuid: str = ""
    """What names it in CUDA_VISIBLE_DEVICES, whatever is counted how; of an NPU its place on the bus."""
    free_mib: int | None = None
    """Memory that nobody held when it was looked at."""
    healthy: bool = True
    """False: its own tool says that it is not."""
    driver: str = ""
    """Version of its driver; empty where its tool does not say."""

    @property
    def lock_name(self) -> str:
        """What names it on this machine, for every process on it."""
        return self.uuid or f"{self.kind}-{self.index}"


def ask(program: str, *arguments: str) -> str:
    """Return what a tool prints; empty where it is not there, hangs or fails."""
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
