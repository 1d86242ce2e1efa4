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
    """Return what a tool prints, empty where it is not there or hangs. One that fails for one device may still tell of the
    others."""
    done = _run(program, *arguments)
    return "" if isinstance(done, str) else done.stdout


def complaint(program: str, *arguments: str) -> str | None:
    """Return what keeps a tool from telling, in its own words where it has any; None: it does, or it is not there."""
    done = _run(program, *arguments)
    if isinstance(done, str):
        return done or None
    lines = [line.strip() for line in (*done.stderr.splitlines(), *done.stdout.splitlines()) if line.strip()]
    well = done.returncode == 0 and any("|" in line for line in lines)
    return None if well else (lines[0] if lines else f"nothing (status {done.returncode})")


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str] | str:
    """Run a tool. Returns why it told nothing where it did not end; empty: it is not there."""
    path = shutil.which(program)
    if path is None:
        return ""
    try:
        return subprocess.run(
            (path, *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ASK_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not end in {ASK_SECONDS:.0f} s"
    except OSError as error:
        return str(error)
