"""How fast a worker reads prompts and writes answers, measured as it works."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

READ_PER_WRITTEN = 4.0
"""Prompt tokens that a GPU reads in the time it writes one, in large batches: a prior, of the order that
`engines/devices/roofline.py` gives. It divides the time only where what ran cannot tell the two apart."""

FULL = 0.8
"""The share of the requests that an engine can run at once from which it counts as full."""
PLATEAU, LEVEL = 10, 0.9
"""Tellings in a row that must lie so near each other, where the memory holds fewer requests than the engine would run."""
LITTLE = 0.1
"""The share of the time that steps take whatever runs in them, up to which an engine need not have been full: more
requests at once would not make a token faster by more."""
LIKE = 0.05
"""Stretches whose read and written tokens differ in proportion by less (the squared sine between the two) tell the two not
apart."""
ALIKE = 1e-4
"""The same for the steps, against written tokens: an engine that ran as many requests at all times."""
STRETCH_SECONDS = 1.0
"""Stretches are weighed by their seconds' inverse, errors being in proportion to them; shorter ones than this alike."""

STRETCH_ANSWERS = 50
"""Answers of a stretch at least, where answers alone tell of tokens: those of few differ too much from one to the next."""

COUNTED = ("worked", "steps", "input_tokens", "cached_tokens", "output_tokens")
"""What is told of an engine as it adds up, all nought when it starts."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Speed of one worker, start-up excluded, all its requests together. Zeros: nothing has run."""

    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    measured: bool
    """False: the two were told apart by a prior ratio; their combination is measured all the same."""
    seconds: float
    """At work."""
    prefill_tokens: int
    """Read, those found in the prefix cache left out."""
    decode_tokens: int
    vllm_version: str
    device: str
    hardware: str = ""
    startup_seconds: float = 0.0
    """Seconds of one worker from its start to its first request; the median."""
    full: bool = True
    """As a full engine has it: fewer requests at once say little of it, unless steps take hardly any time of their own."""


class Speedometer:
    """Least squares of seconds on steps, tokens written and tokens read, stretch by stretch: sums are all it keeps.

    A step of an engine takes a time of its own (reading the weights) however many requests write a token in it. So what a
    token takes depends on how many run at once, and is told for the most that did.
    """

    def __init__(self) -> None:
        self.squares, self.products = np.zeros((3, 3)), np.zeros(3)
        """The normal equations of steps, tokens written and tokens read."""
        self.seconds, self.read, self.written = 0.0, 0, 0
        self.running = 0.0
        """Requests at once, the most that were seen; 0: nobody told."""
        self.full = False

    def add(
        self,
        seconds: float,
        read: int,
        written: int,
        *,
        steps: float = 0.0,
        running: float = 0.0,
        full: bool = True,
    ) -> None:
        """Take in a stretch of `seconds` at work in which so many tokens were read and written.

        `steps`: of the engine, 0 where they are not told; `full`: as many requests ran as it will run at once.
        """
        if seconds <= 0:
            return
        stretch = np.array([steps, written, read], dtype=np.float64)
        weight = 1.0 / max(seconds, STRETCH_SECONDS)
        self.squares += weight * np.outer(stretch, stretch)
        self.products += weight * stretch * seconds
        self.seconds += seconds
        self.read += read
        self.written += written
        self.running = max(self.running, running)
        self.full |= full

    @classmethod
    def together(cls, speedometers: Iterable[Speedometer]) -> Speedometer:
        """Add up what several have measured."""
        whole = cls()
        for one in speedometers:
            whole.squares += one.squares
            whole.products += one.products
            whole.seconds += one.seconds
            whole.read += one.read
            whole.written += one.written
            whole.running = max(whole.running, one.running)
            whole.full |= one.full
        return whole

    def rates(
        self, vllm_version: str, device: str, hardware: str = "", startup_seconds: float = 0.0
    ) -> Rates:
        """Return the speed measured so far."""
        told_apart, (step, writing, reading) = self._fitted()
        own = step / max(self.running, 1.0)
        little = own * self.written <= LITTLE * self.seconds and self.seconds > 0
        return Rates(
            1 / reading if reading else 0.0,
            1 / (writing + own) if reading else 0.0,
            told_apart,
            self.seconds,
            self.read,
            self.written,
            vllm_version,
            device,
            hardware,
            startup_seconds,
            self.full or (little and self.running > 0),
        )

    def _fitted(self) -> tuple[bool, tuple[float, float, float]]:
        """Whether reading and writing were told apart, and the seconds of a step, a written token and a read one.

        Where stretches were too alike, or contradict, a stated ratio divides the time between the two.
        """
        if not _alike(self.squares, 1, 2, LIKE):
            apart = _least(self.squares, self.products)
            if apart is not None and apart[2] > 0 and apart[0] + apart[1] > 0:
                return True, (float(apart[0]), float(apart[1]), float(apart[2]))
        columns = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1 / READ_PER_WRITTEN]])
        joined = _least(columns.T @ self.squares @ columns, columns.T @ self.products)
        if joined is not None and joined[1] > 0:
            return False, (float(joined[0]), float(joined[1]), float(joined[1]) / READ_PER_WRITTEN)
        work = self.read + READ_PER_WRITTEN * self.written
        reading = self.seconds / work if work else 0.0
        return False, (0.0, reading * READ_PER_WRITTEN, reading)


class FullBatch:
    """Sees, telling by telling, whether as many requests run as will."""

    def __init__(self, most: int) -> None:
        """`most`: requests that run at once where nothing else holds them back."""
        self._most = most
        self._recent: deque[float] = deque(maxlen=PLATEAU)

    def told(self, running: float, waiting: float) -> bool:
        """Whether as many run as will: near the most, or where others wait as many as the memory holds."""
        self._recent.append(running)
        level = len(self._recent) == PLATEAU and min(self._recent) >= LEVEL * max(self._recent)
        return running >= FULL * self._most or (waiting > 0 and running > 0 and level)


class PaceWatch:
    """Takes one engine's counters in, telling by telling."""

    def __init__(self, speed: Speedometer, most: int) -> None:
        """`most`: requests that the engine runs at once where the memory holds them."""
        self._speed, self._full = speed, FullBatch(most)
        self._before: Mapping[str, Any] = dict.fromkeys(COUNTED, 0)

    def told(self, now: Mapping[str, Any]) -> None:
        """Take in the stretch since the telling before, of what a worker's `pace` tells (engines/vllm/worker.py)."""
        before, self._before = self._before, now
        steps, read, written, cached = (
            now[name] - before[name] for name in ("steps", "input_tokens", "output_tokens", "cached_tokens")
        )
        self._speed.add(
            now["worked"] - before["worked"],
            read - cached,
            written,
            steps=steps,
            running=written / max(steps, 1),  # what waits once more for room in the memory is told as running
            full=self._full.told(now["running"], now["waiting"]),
        )


@dataclass(frozen=True, slots=True)
class Answered:
    """What a server has answered so far."""

    answers: int = 0
    read: int = 0
    written: int = 0


class AnswersWatch:
    """Measures a server that is known by its answers alone, which tell of tokens when they are done.

    A stretch begins once as many answers have come as run at once since the server was full, so that what runs is as mixed
    as what ends, and is counted while it stays full. All other time tells that it worked, and nothing of its speed.
    """

    def __init__(self, most: int) -> None:
        """`most`: requests that are sent to it at once."""
        self._full, self._filled, self._thin = FullBatch(most), Speedometer(), Speedometer()
        self._told = 0.0, Answered()
        """When it was told last, and what was answered then."""
        self._begun: tuple[float, Answered] | None = None
        """Where the stretch began; None: it was not full when it was told last."""
        self._mixed = False
        """Whether what runs has all been sent since it was full."""

    def told(self, now: float, answered: Answered, running: int, waiting: int) -> None:
        """Take in the time since the telling before, unless nothing was asked in it. `running`, `waiting`: requests now."""
        before, self._told = self._told, (now, answered)
        if not running and not waiting and answered == before[1]:
            self._begun, self._mixed = None, False
            return
        _add(self._thin, before, self._told, full=False)
        if not self._full.told(running, waiting):
            self._end_stretch(before, 1)
            self._begun, self._mixed = None, False
        elif self._begun is None:
            self._begun = self._told
        elif self._mixed:
            self._end_stretch(self._told, max(running, STRETCH_ANSWERS))
        elif answered.answers - self._begun[1].answers >= running:
            self._begun, self._mixed = self._told, True

    @property
    def speed(self) -> Speedometer:
        """What was measured: of the full server, or before it was full what says nothing of its speed."""
        return self._filled if self._filled.full else self._thin

    def _end_stretch(self, at: tuple[float, Answered], least: int) -> None:
        """Count a stretch up to there where it has so many answers, and begin another."""
        begun = self._begun
        if begun is not None and self._mixed and at[1].answers - begun[1].answers >= least:
            _add(self._filled, begun, at, full=True)
            self._begun = at


def _add(
    speed: Speedometer, since: tuple[float, Answered], until: tuple[float, Answered], *, full: bool
) -> None:
    (began, before), (now, answered) = since, until
    speed.add(now - began, answered.read - before.read, answered.written - before.written, full=full)


def _alike(squares: NDArray[np.float64], one: int, other: int, share: float) -> bool:
    whole = squares[one, one] * squares[other, other]
    return bool(whole - squares[one, other] ** 2 <= share * whole)


def _least(squares: NDArray[np.float64], products: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the least squares without a negative coefficient: of all choices of columns the best that has none."""
    width, best, lowest = len(products), None, 0.0
    for size in range(1, width + 1):
        for chosen in combinations(range(width), size):
            if any(squares[c, c] <= 0 for c in chosen):
                continue
            if any(_alike(squares, *pair, ALIKE) for pair in combinations(chosen, 2)):
                continue
            part = list(chosen)
            found = np.linalg.solve(squares[np.ix_(part, part)], products[part])
            gain = -float(found @ products[part])
            if (found >= 0).all() and gain < lowest:
                best, lowest = np.zeros(width), gain
                best[part] = found
    return best
