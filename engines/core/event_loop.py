"""The one event loop of this process, on a thread of its own: every engine over HTTP shares it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Any, TypeVar

T = TypeVar("T")

_lock = Lock()
_running: dict[int, asyncio.AbstractEventLoop] = {}
"""By process id: a forked child has the object but not the thread."""


def event_loop() -> asyncio.AbstractEventLoop:
    """The loop, started at the first call; its thread ends with the process."""
    with _lock:
        loop = _running.get(os.getpid())
        if loop is None:
            loop = asyncio.new_event_loop()
            Thread(target=loop.run_forever, name="thirdshift-wire", daemon=True).start()
            _running[os.getpid()] = loop
        return loop


def start(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine on the loop, from any other thread."""
    return asyncio.run_coroutine_threadsafe(work, event_loop())
