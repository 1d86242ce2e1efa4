"""The one event loop of this process, on a thread of its own: every engine over HTTP shares it."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Coroutine
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Any, TypeVar

T = TypeVar("T")

COLLECT_AFTER = 10_000
"""New objects, before Python looks for cycles among them: at its own 700 that takes a sixth of a request's time, because
requests in flight are objects that live. `benchmarks/dispatch.py` shows it."""

_lock = Lock()
_running: dict[int, asyncio.AbstractEventLoop] = {}
"""By process id: a forked child has the object but not the thread."""


def event_loop() -> asyncio.AbstractEventLoop:
    """The loop, started at the first call; its thread ends with the process."""
    with _lock:
        loop = _running.get(os.getpid())
        if loop is None:
            gc.set_threshold(max(COLLECT_AFTER, gc.get_threshold()[0]), *gc.get_threshold()[1:])
            loop = asyncio.new_event_loop()
            Thread(target=loop.run_forever, name="thirdshift-wire", daemon=True).start()
            _running[os.getpid()] = loop
        return loop


def start(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine on the loop, from any other thread."""
    return asyncio.run_coroutine_threadsafe(work, event_loop())
