"""Shared memory that a killed worker leaves behind: nobody else unlinks it, and it is the machine's memory."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

PLACE = Path("/dev/shm")  # noqa: S108 (the system's own, read and unlinked by name)
NAMES = re.compile(rf"{PLACE}/((?:psm_|nccl-|torch_)[^\s/]+)$", re.MULTILINE)
"""What Python, NCCL and PyTorch call theirs."""


class SharedMemory:
    """What the processes of one worker have mapped; looked at while they live, unlinked when they are dead."""

    def __init__(self, group: int) -> None:
        """`group`: the worker's process group."""
        self._group = group
        self._names: set[str] = set()

    def look(self) -> None:
        """Take note of what is mapped now. A process that is going or another's tells nothing."""
        if not PLACE.is_dir() or not Path("/proc/self/maps").exists():
            return
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):
                if os.getpgid(int(pid)) == self._group:
                    self._names.update(NAMES.findall(Path(f"/proc/{pid}/maps").read_text(errors="replace")))

    def unlink(self) -> None:
        """Give it back; what vLLM unlinked itself is gone already."""
        for name in self._names:
            with suppress(OSError):
                (PLACE / name).unlink()
