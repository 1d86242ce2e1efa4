"""Devices lent to one worker at a time, over all processes of this machine: a lock file for each, held while it is used.

A lock is `flock`'s: it is passed on to the worker, so that it lasts as long as anything of the worker lives, and no longer.
Whoever waits for devices holds a shared lock that those who have some can see.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from thirdshift.engines.devices.device import Device

VARIABLE = "THIRDSHIFT_DEVICE_LOCKS"
"""A folder for the locks, where several containers share cards and it."""
USUAL_FOLDERS = (Path("/run/lock"), Path(tempfile.gettempdir()))
EVERYBODY = 0o666


@dataclass(eq=False)
class Allocation:
    """Devices that are a worker's until it is released."""

    devices: tuple[Device, ...]
    locks: dict[str, int] = field(default_factory=dict, repr=False)
    """Lock name to the open file that holds it."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Open files that the worker inherits."""
        return tuple(self.locks.values())

    def release(self) -> None:
        """Give them back; does nothing the second time."""
        while self.locks:
            os.close(self.locks.popitem()[1])


class DeviceAllocator:
    """Lends the devices of this machine. Safe from any thread, and from any process with the same folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._failed: dict[str, int] = {}
        """Devices that failed in this process's time, their locks held: nobody is given them."""

    def take(self, devices: Sequence[Device], count: int) -> Allocation | None:
        """Lend the first `count` of these that are free, all at once or none: two that wait never hold half each."""
        with self._lock, _held(self._path("allocator"), fcntl.LOCK_EX):
            taken: dict[str, int] = {}
            chosen: list[Device] = []
            for device in devices:
                if len(chosen) == count:
                    break
                if device.lock_name in self._failed:
                    continue
                descriptor = _locked(self._path(device.lock_name))
                if descriptor is not None:
                    taken[device.lock_name] = descriptor
                    chosen.append(device)
            allocation = Allocation(tuple(chosen), taken)
            if len(chosen) == count:
                return allocation
            allocation.release()
            return None

    def leave_out(self, allocation: Allocation, failed: Sequence[Device]) -> None:
        """Lend these devices of an allocation to nobody any more."""
        with self._lock:
            for device in failed:
                descriptor = allocation.locks.get(device.lock_name)
                if descriptor is not None and device.lock_name not in self._failed:
                    self._failed[device.lock_name] = os.dup(descriptor)

    def sound(self, devices: Sequence[Device]) -> list[Device]:
        """Return those of the devices that have not failed."""
        return [device for device in devices if device.lock_name not in self._failed]

    @contextmanager
    def wanting(self, kind: str) -> Iterator[None]:
        """Let those who hold devices of a kind see that somebody waits for some."""
        with _held(self._path(f"wanted-{kind}"), fcntl.LOCK_SH):
            yield

    def wanted(self, kind: str) -> bool:
        """Whether anybody on this machine waits for devices of a kind."""
        descriptor = _locked(self._path(f"wanted-{kind}"))
        if descriptor is None:
            return True
        os.close(descriptor)
        return False

    def _path(self, name: str) -> Path:
        folder = self._folder or lock_folder(os.environ)
        return folder / f"thirdshift-{re.sub(r'[^A-Za-z0-9.-]', '_', name)}.lock"


ALLOCATOR = DeviceAllocator()
"""This process's."""


def lock_folder(environ: Mapping[str, str]) -> Path:
    """Return where the machine's locks are."""
    if environ.get(VARIABLE):
        return Path(environ[VARIABLE])
    return next((folder for folder in USUAL_FOLDERS if os.access(folder, os.W_OK)), USUAL_FOLDERS[-1])


def _opened(path: Path) -> int:
    """Open a lock's file, made where it is missing. In folders such as /tmp Linux lets nobody open another's file with
    O_CREAT (`fs.protected_regular`)."""
    how = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, how)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, how | os.O_CREAT | os.O_EXCL, EVERYBODY)
    except FileExistsError:  # somebody made it in between
        return os.open(path, how)
    os.fchmod(descriptor, EVERYBODY)
    return descriptor


def _locked(path: Path) -> int | None:
    """Return an open file that holds the lock; None where somebody else does."""
    descriptor = _opened(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def _held(path: Path, kind: int) -> Iterator[None]:
    descriptor = _opened(path)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)
