"""What the terminal shows while a night goes on: lines on stderr, and a bar where there is a terminal."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from threading import Lock
from typing import TYPE_CHECKING, Any, ParamSpec, TextIO, TypeVar

from thirdshift.flows.formats import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

PLAIN_SECONDS = 10.0
"""How often a log that is no terminal gets a line of progress."""
STILL_SECONDS = 600.0
"""How often at least, while it waits for answers: a batch takes hours."""
SOON_SECONDS = 3.0
"""What takes no longer needs none."""


TELLING_SECONDS = 2.0
"""A rate of less than this is luck."""


def span(seconds: float) -> str:
    """A time as people say it: 40 s, 12 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def money(amount: Decimal | float) -> str:
    """Dollars as people read them: cents where they say it all or there are many; else as many places as it needs."""
    value = float(amount)
    if value == 0 or abs(value) >= 100:
        return f"${value:,.2f}"
    return f"${value:,.4f}".removesuffix("00") if abs(value) >= 0.01 else f"${value:.6f}"


def spent(
    settled_usd: float | Decimal, unsettled_usd: float | Decimal, in_flight_usd: float | Decimal = 0
) -> str:
    """`$1.18 settled, up to $0.54 more unsettled, up to $0.20 more in flight`; `$1.18 spent` where nothing else is."""
    more = [
        f"up to {money(amount)} more {what}"
        for amount, what in ((unsettled_usd, "unsettled"), (in_flight_usd, "in flight"))
        if amount
    ]
    return ", ".join([f"{money(settled_usd)} settled", *more]) if more else f"{money(settled_usd)} spent"


@dataclass
class ProgressCounts:
    """What the line of progress tells. Counted by the threads that run shards."""

    total: int
    bill: Callable[[], str]
    """Says what is spent at this moment."""
    batched: int = 0
    """The part of the total that is with a batch tier, which answers it all at once."""
    batched_until: float = 0.0
    """Clock time, when it should."""
    done: int = 0
    batched_done: int = 0
    failed: int = 0
    unsent: int = 0
    """Those of `done` that were not sent, as money or time ran out."""
    begun: float = field(default_factory=time.monotonic)
    lock: Lock = field(default_factory=Lock)

    @property
    def sent(self) -> int:
        """How many of `done` were sent."""
        return self.done - self.unsent

    def count(self, *, failed: bool, batch: bool = False, sent: bool = True) -> None:
        with self.lock:
            self.done += 1
            self.batched_done += batch
            self.failed += failed and sent
            self.unsent += not sent

    def seconds_left(self) -> float | None:
        """Until the last answer: of what is sent in real time by its rate so far, of batches by what they usually
        take. None where that cannot be told (yet)."""
        seconds, left = time.monotonic() - self.begun, 0.0
        if self.batched_done < self.batched:
            left = self.batched_until - time.time()
            if left <= 0:
                return None  # overdue
        live, live_done = self.total - self.batched, self.done - self.batched_done
        if live_done < live:
            if not live_done or seconds < TELLING_SECONDS:
                return None
            left = max(left, (live - live_done) * seconds / live_done)
        return left

    def line(self) -> str:
        seconds = max(time.monotonic() - self.begun, 1e-3)
        parts = [self.bill(), f"{self.sent / seconds:,.0f}/s"]
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if self.unsent:
            parts.append(f"{self.unsent:,} not sent")
        if (left := self.seconds_left()) is not None and self.done < self.total:
            parts.append(f"{span(left)} left")
        return ", ".join(parts)


class LongWork:
    """Says how far work on many requests is, a line now and then; of what is done soon it says nothing."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock, self._next = say, clock, clock() + SOON_SECONDS

    def on(self, doing: str, of: int | None = None) -> Callable[[int], None]:
        """Return what is to be called with how many are done, as often as one likes. `of`: how many there are, if known."""

        def told(done: int) -> None:
            if self._clock() >= self._next:
                self._next = self._clock() + PLAIN_SECONDS
                self._say(f"{doing}: {done:,}{'' if of is None else f' of {of:,}'} requests")

        return told


QUIET = "THIRDSHIFT_QUIET"
"""Where this variable is set, a run says nothing but warnings."""


class RunConsole:
    """Everything a run says goes through here, to stderr: stdout is for the answer of a command."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console

    @property
    def console(self) -> Console:
        """rich's, made when something is said: a command that says nothing is spared its import."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        return self._console

    def say(self, text: str, style: str | None = None) -> None:
        """A line; one with a style is a warning."""
        if QUIET in os.environ and style is None:
            return
        from rich.markup import escape

        self.console.print(escape(printable(text)), style=style)

    @contextmanager
    def working(
        self, title: str, tally: ProgressCounts, clock: Callable[[], float] = time.monotonic
    ) -> Iterator[Bar]:
        """A bar for one dispatch; `Bar.show` redraws it."""
        if self.console.is_terminal and QUIET not in os.environ:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            with Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
                TextColumn("{task.fields[told]}"), console=self.console,
            ) as progress:  # fmt: skip
                yield _Drawn(tally, progress, title)
        else:
            bar = _Plain(tally, self, title, clock)
            yield bar
            bar.end()


class Bar:
    """How far one dispatch is."""

    def show(self) -> None:
        raise NotImplementedError


class _Drawn(Bar):
    def __init__(self, tally: ProgressCounts, progress: Progress, title: str) -> None:
        from rich.markup import escape

        self._tally, self._progress = tally, progress
        self._task = progress.add_task(escape(title), total=tally.total, told="")

    def show(self) -> None:
        self._progress.update(self._task, completed=self._tally.done, told=self._tally.line())


class _Plain(Bar):
    """A line now and then; ever more seldom while nothing is answered."""

    def __init__(
        self,
        tally: ProgressCounts,
        screen: RunConsole,
        title: str,
        clock: Callable[[], float],
    ) -> None:
        self._tally, self._screen, self._title, self._clock = tally, screen, title, clock
        self._told, self._last, self._pause = 0, clock(), PLAIN_SECONDS
        self._lock = Lock()

    def show(self) -> None:
        with self._lock:
            now, done = self._clock(), self._tally.done
            if now - self._last < (self._pause if done == self._told else PLAIN_SECONDS):
                return
            self._pause = min(2 * self._pause, STILL_SECONDS) if done == self._told else PLAIN_SECONDS
            self._told, self._last = done, now
        self.end()

    def end(self) -> None:
        tally = self._tally
        self._screen.say(f"{self._title}: {tally.sent:,} of {tally.total:,}; {tally.line()}")


# --- the answer ---------------------------------------------------------------------------------------------------

P = ParamSpec("P")
R = TypeVar("R")
OUT, ERR = 1, 2
UNREAD = 141
"""The exit code of a program whose reader has gone, as a shell has it: 128 and SIGPIPE's number."""


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """The command, with file descriptor 1 kept for what Python prints."""

    @functools.wraps(command)
    def work(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with answers_alone():
                return command(*args, **kwargs)
        except BrokenPipeError:  # whoever read the answer has gone
            raise SystemExit(UNREAD) from None

    return work


@contextmanager
def answers_alone() -> Iterator[None]:
    """Meanwhile file descriptor 1 is stderr's, and `sys.stdout` writes to where 1 went before."""
    try:
        os.fstat(ERR)
        kept = os.dup(OUT)
    except OSError:  # started with one of them closed
        yield
        return
    before = sys.stdout
    before.flush()
    os.dup2(ERR, OUT)
    sys.stdout = _onto(kept, before)
    try:
        yield
    finally:
        ours, sys.stdout = sys.stdout, before
        ctypes.CDLL(None).fflush(None)  # what C has buffered belongs where it was meant to go
        os.dup2(kept, OUT)
        try:
            ours.flush()
        finally:
            with suppress(BrokenPipeError):
                ours.close() if ours is not before else os.close(kept)


def _onto(descriptor: int, stream: TextIO) -> TextIO:
    """A stream like `stream` onto `descriptor`; itself where it is none of the process's stdout, as in a test."""
    try:
        theirs = stream.fileno() == OUT
    except (OSError, ValueError):
        theirs = False
    if not theirs:
        return stream
    made: Any = os.fdopen(
        descriptor,
        "w",
        encoding=stream.encoding,
        errors=stream.errors,
        buffering=1 if stream.isatty() else -1,
    )
    return made  # type: ignore[no-any-return]
