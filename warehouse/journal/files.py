"""Write files that are whole or absent, and their owner's alone.

What is built lies in `.building` beside its place until it is complete and on disk; a marker then says so,
and moving it into place can be finished by whoever comes next. Before the marker, nothing has happened;
after it, everything has.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thirdshift.world import REAL, World

BUILDING = ".building"
COMPLETE = ".complete"


def private_dir(path: Path) -> Path:
    """Return the directory, made where missing, with mode 0700."""
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.chmod(0o700)
    return path


def sync(path: Path, world: World = REAL) -> None:
    """Wait until a file or a directory is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        world.sync(handle)
    finally:
        os.close(handle)


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """Give a place to build files in; they replace those of the same names in `folder` when the block ends well."""
    settle(folder)
    place = private_dir(folder / BUILDING)
    try:
        yield place
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    for path in [*place.rglob("*"), place]:
        path.chmod(0o700 if path.is_dir() else 0o600)
        sync(path)
    (place / COMPLETE).touch(mode=0o600)
    sync(place)
    settle(folder)


def settle(folder: Path) -> None:
    """Move into place what was built completely, and remove what was not."""
    place = folder / BUILDING
    if not place.is_dir():
        return
    if (place / COMPLETE).exists():
        for path in sorted(place.iterdir()):
            if path.name != COMPLETE:
                _replace(path, folder / path.name)
        sync(folder)
    shutil.rmtree(place)


def _replace(new: Path, old: Path) -> None:
    if old.is_dir():
        shutil.rmtree(old)
    new.replace(old)


def write_whole(path: Path, data: bytes, world: World = REAL) -> None:
    """Write a small file beside its place, sync it and rename it; mode 0600."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        world.sync(file.fileno())
    world.replace(beside, path)
    sync(path.parent, world)
