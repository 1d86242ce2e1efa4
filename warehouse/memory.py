"""How much memory DuckDB may take: a share of what this process may use, on a machine, in a container, or under a limit;
and where Arrow takes its own.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

LEAST_BYTES = 256 << 20
CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
ARROWS_CHOICE = "ARROW_DEFAULT_MEMORY_POOL"


def hold_little() -> None:
    """Have Arrow take its memory from the system's allocator from now on, unless the environment names one.

    Its own keeps for every thread what that thread has freed, and dozens of shards each have one: of a night of 60,000
    requests 200 MB stayed behind, of a million more than there was. Parquet's writers do not heed this (pyarrow 26.0.1),
    only the environment: the program sets that before it loads Arrow, and who calls us from Python can.
    """
    if ARROWS_CHOICE not in os.environ:
        pa.set_memory_pool(pa.system_memory_pool())


def memory_limit(share: float, most_bytes: int) -> str:
    """Return DuckDB's setting `memory_limit`: a share of what may be used, within bounds; what does not fit is spilled.

    By itself DuckDB takes four fifths, as if nothing else of the process needed any.
    """
    return f"{min(max(int(usable_bytes() * share), LEAST_BYTES), most_bytes) >> 20}MiB"


def usable_bytes(groups: Path = CGROUPS, own: Path = OWN_GROUPS) -> int:
    """Return the memory that this process may use: the machine's, its control groups' limit or `ulimit -v`, the least."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if space != resource.RLIM_INFINITY:
        limits.append(space)
    for name in _limit_files(groups, own):
        with suppress(OSError, ValueError):  # no such file, or "max"
            limits.append(int(name.read_text()))
    return min(limits)


def _limit_files(groups: Path, own: Path) -> list[Path]:
    """Return where limits may stand: of the group and of those above it, in both versions of control groups."""
    files = []
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, place = line.split(":", 2)
            folder, name = groups, "memory.max"
            if controllers and "memory" not in controllers.split(","):
                continue
            if controllers:
                folder, name = groups / "memory", "memory.limit_in_bytes"
            steps = Path(place.lstrip("/"))
            files += [folder / step / name for step in (steps, *steps.parents)]
    return files
