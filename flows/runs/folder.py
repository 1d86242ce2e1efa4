"""A run's folder beside the warehouse: its job, frozen input and journals; and the lock of the process on it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thirdshift.flows.errors import UserError
from thirdshift.warehouse.errors import StoreError
from thirdshift.warehouse.journal.files import write_whole
from thirdshift.warehouse.journal.run_folder import MARKER, check_marked, run_folder
from thirdshift.world import REAL, World

OWNERS_ALONE = 0o077


class RunAlive(UserError):
    """Another process is on this run."""


class UnknownRun(UserError):
    """No run of that id beside this warehouse."""


@contextmanager
def masked(mask: int) -> Iterator[int]:
    """Files made meanwhile, by whatever library, have no right that `mask` takes. Yields the mask that was before."""
    before = os.umask(mask)
    try:
        yield before
    finally:
        os.umask(before)


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """The folder, made where it is missing, held by this process alone; the lock ends with the process.

    Raises RunAlive, naming the pid, while another process holds it; StoreError where the folder is not a run's.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_marked(folder)
    descriptor = os.open(folder / MARKER, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 32, 0).decode() or "unknown"
            raise RunAlive(
                f"run {folder.name} is alive: process {pid} is on it; wait for it or stop it"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield folder
    finally:
        os.close(descriptor)


def mark_of(folder: Path, world: World = REAL) -> str:
    """What tells this run from others of its name, at a provider that knows them all: eight letters and digits, drawn
    when it is first asked. It outlives the machine: batches are found again by it."""
    place = folder / "mark"
    if not place.exists():
        write_whole(place, world.random_bytes(4).hex().encode(), world)
    return place.read_text(encoding="utf-8")


def remember(folder: Path, facts: dict[str, Any]) -> None:
    """Keep what `resume` needs to know of how the run was called."""
    write_whole(folder / "job.json", json.dumps(facts, indent=1).encode())


def recall(folder: Path) -> dict[str, Any] | None:
    """What `remember` kept; None where no run has begun."""
    path = folder / "job.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def known_runs(warehouse: Path) -> list[str]:
    """Ids of the runs that have a folder beside this warehouse, newest first."""
    home = run_folder(warehouse, "x").parent
    begun = [path.parent for path in home.glob("*/job.json")]
    return [path.name for path in sorted(begun, key=lambda path: path.stat().st_mtime, reverse=True)]


def alive_runs(warehouse: Path) -> list[str]:
    """Ids of the runs that a process is on now."""
    return [run_id for run_id in known_runs(warehouse) if folder_of_dead(warehouse, run_id) is None]


def folder_of_dead(warehouse: Path, run_id: str) -> Path | None:
    """The folder, which may be gone, of a run that no process is on; None where a process is, or where it cannot be told:
    beside a copy of a warehouse there are no folders at all."""
    try:
        folder = run_folder(warehouse, run_id)
    except StoreError:  # entered by a version that took any id
        return None
    if not folder.parent.is_dir():
        return None
    if (folder / MARKER).exists():
        try:
            with locked(folder):
                pass
        except RunAlive:
            return None
    return folder
