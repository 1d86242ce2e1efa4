"""Virtual time: what a build reads from `datetime.now`, `time.time` and `time.sleep` is this clock.

Import it and call `install` before anything of the build is imported. Processor time and `time.monotonic` stay real.
"""

from __future__ import annotations

import datetime as dt
import time as time_module
from typing import Any

_REAL = dt.datetime


class VirtualClock:
    """POSIX seconds that move only when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.0)


CLOCK = VirtualClock()


class _IsDatetime(type(_REAL)):  # type: ignore[misc]
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, _REAL)


class VirtualDatetime(_REAL, metaclass=_IsDatetime):
    """`datetime` whose present is the virtual clock's."""

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return _REAL.fromtimestamp(CLOCK.now, tz)


def install() -> None:
    """Have everything that is imported from now on read the virtual clock."""
    dt.datetime = VirtualDatetime  # type: ignore[misc]
    time_module.time = lambda: CLOCK.now
    time_module.sleep = CLOCK.sleep
