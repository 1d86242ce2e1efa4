"""A run that is told to stop: nothing more is sent, what is in flight may come in, and the process ends.

Every record is in the journal when it is made, so ending at once loses nothing.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

from thirdshift.flows.dispatch.dispatcher import Dispatcher

STOP_SECONDS = 5.0
"""What is in flight may still be answered in: schedulers kill ten seconds or more after they have asked."""
KEEP_SECONDS = 4.0
"""What has come may take so long into the warehouse, once nothing is waited for any more."""
LOOK_SECONDS = 0.05
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def kept(run_id: str) -> str:
    """Say how to go on with a run that was stopped."""
    return f"stopped; what was answered is kept, go on with: thirdshift resume {run_id}"


@contextmanager
def last_words(run_id: str) -> Iterator[None]:
    """End the process at a SIGTERM with how to go on. Prefect gives the signal back once its server knows of it.

    A terminal that is closed is a SIGTERM too, unless it is to be ignored (nohup).
    """

    def end(number: int, _: FrameType | None) -> None:
        _end(run_id, number)

    before = signal.signal(signal.SIGTERM, end)
    hung_up = signal.getsignal(signal.SIGHUP)
    if hung_up is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGHUP, hung_up)


def _end(run_id: str, number: int) -> None:
    cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
    os.write(2, f"{cursor}\n{kept(run_id)}\n".encode())
    os._exit(128 + number)


_GOES_ON: ContextVar[bool] = ContextVar("process_goes_on", default=False)


@contextmanager
def process_goes_on() -> Iterator[None]:
    """Meanwhile a run leaves signals to the process that it is part of: a notebook's kernel, a scheduler's worker.

    An interrupt is a KeyboardInterrupt, also where Prefect makes another error of it.
    """
    token = _GOES_ON.set(True)
    with _interrupts() as interrupts:
        try:
            yield
        except Exception as error:
            if interrupts:
                raise KeyboardInterrupt from error
            raise
        finally:
            _GOES_ON.reset(token)


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """The interrupts meanwhile, which whoever handled them before goes on handling."""
    numbers: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield numbers
        return
    handle = before

    def note(number: int, frame: FrameType | None) -> None:
        numbers.append(number)
        handle(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield numbers
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def stoppable(run_id: str, dispatcher: Dispatcher, keep: Callable[[], None] = lambda: None) -> Iterator[None]:
    """End the process at a SIGTERM or SIGINT with 128 and the signal's number, after what is in flight or `STOP_SECONDS`;
    at once at a second one.

    `keep`: enters in the warehouse what has come; it is given `KEEP_SECONDS`, and what it misses `resume` makes up for.
    """
    if _GOES_ON.get() or threading.current_thread() is not threading.main_thread():
        yield
        return
    signals: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        signals.append(number)
        if len(signals) == 1:
            logging.disable()
            dispatcher.stop()
            last = time.monotonic() + STOP_SECONDS
            while dispatcher.busy and time.monotonic() < last and len(signals) == 1:
                time.sleep(LOOK_SECONDS)
            time.sleep(LOOK_SECONDS)  # the last outcome's way into the journal
            # in a thread of its own: what was interrupted here may hold what it needs, and then it is not waited for
            keeping = threading.Thread(target=keep, daemon=True)
            keeping.start()
            keeping.join(KEEP_SECONDS)
        _end(run_id, signals[0])

    before = {number: signal.signal(number, end) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
