"""A job's input by the day: folders like `date=2026-11-22` become a param."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DAYS = ("date", "dt", "ds", "day")
"""Names that hive partitions by the day have."""
PARTITION = re.compile(r"(?P<key>[A-Za-z_][A-Za-z0-9_]*)=(?P<value>[^/]+)")
DEEPEST = 4
GENERIC = frozenset(
    {"data", "input", "inputs", "part", "parquet", "output", "export", "rows", "train", "test"}
)
"""Names of files and folders that say nothing of what is in them."""


@dataclass(frozen=True, slots=True)
class Partitioned:
    """An input of one day among several."""

    pattern: str
    """The input with `${ds}` for the day."""
    key: str
    day: str
    """The latest day that is there, which the job takes where none is given."""

    @property
    def latest(self) -> str:
        """The input of that day."""
        return self.pattern.replace("${ds}", self.day)


def by_day(source: str, base: Path) -> Partitioned | None:
    """Find the day in the input's path, or in the folders below it; None where there is none."""
    if "${" in source:
        return None
    steps = source.split("/")
    for place, step in enumerate(steps):
        match = PARTITION.fullmatch(step)
        if match is not None and match["key"].lower() in DAYS and not set(match["value"]) & set("*?["):
            steps[place] = f"{match['key']}=${{ds}}"
            return Partitioned("/".join(steps), match["key"], match["value"])
    folder = base / source
    return None if "://" in source or not folder.is_dir() else _below(source.rstrip("/"), folder)


def _below(source: str, folder: Path) -> Partitioned | None:
    """Follow the partitions down to the files, the latest day's where they are by the day."""
    pattern, day = [source], None
    for _ in range(DEEPEST):
        folders = sorted(path for path in folder.iterdir() if path.is_dir())
        matches = {path: match for path in folders if (match := PARTITION.fullmatch(path.name))}
        if not matches:
            break
        folder, match = list(matches.items())[-1]
        is_day = day is None and match["key"].lower() in DAYS
        pattern.append(f"{match['key']}={'${ds}' if is_day else '*'}")
        day = (match["key"], match["value"]) if is_day else day
    return None if day is None else Partitioned("/".join([*pattern, "*.parquet"]), *day)


def job_name(source: str) -> str:
    """Name a job after its data: the last part of the path that is no partition, pattern or generic word."""
    names = [_plain_name(step) for step in reversed(source.rstrip("/").split("/")) if "=" not in step]
    return next((name for name in _telling(names)), next((name for name in names if name), "job"))


def _telling(names: list[str]) -> Iterator[str]:
    for name in names:
        if name and name.partition("-")[0] not in GENERIC:
            yield name


def _plain_name(step: str) -> str:
    stem = "" if step.endswith(":") else step.split(".", maxsplit=1)[0].strip("*? ")
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:60]
