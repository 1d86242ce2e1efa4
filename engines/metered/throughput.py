"""How fast a worker reads prompts and writes answers, measured as it works."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

READ_PER_WRITTEN = 4.0
"""Prompt tokens that a GPU reads in the time it writes one, in large batches: a prior, of the order that
`engines/devices/roofline.py` gives. It divides the time only where what ran cannot tell the two apart."""

FULL = 0.8
"""The share of the requests that an engine can run at once from which it counts as full; below half nothing may count."""
PLATEAU, LEVEL = 10, 0.9
"""Tellings in a row that must lie so near each other, where the memory holds fewer requests than the engine would run."""


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
    """Measured with at least half of the requests that the engine runs at once: fewer say nothing of a full one."""


class BatchWatch:
    """Tells whether an engine runs as many requests as it will: a smaller batch is slower for each token."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=PLATEAU)

    def full(self, running: float, waiting: float, most: int) -> bool:
        """Whether so many are, once a second asked: near `most`, or where others wait as many as the memory holds."""
        self._recent.append(running)
        level = len(self._recent) == PLATEAU and min(self._recent) >= LEVEL * max(self._recent)
        return running >= FULL * most or (waiting > 0 and running > 0 and level)


class Speedometer:
    """Least squares of seconds on tokens read and written, stretch by stretch: five sums are all it keeps."""

    def __init__(self) -> None:
        self._rr = self._rw = self._ww = self._rs = self._ws = 0.0
        self.seconds, self.read, self.written = 0.0, 0, 0
        self.full = 0
        """Stretches of a full engine; from the first on only such are taken in."""
        self.at_work = 0.0
        """Seconds of all stretches."""

    def add(self, seconds: float, read: int, written: int, *, full: bool = True) -> None:
        """Take in a stretch of `seconds` in which so many tokens were read and written.

        `full`: at least half of the requests ran that the engine runs at once, or some waited.
        """
        at_work = self.at_work + seconds
        self.at_work = at_work
        if self.full and not full:
            return
        if full and not self.full:
            self.__init__()  # type: ignore[misc]
            self.at_work = at_work
        self.full += full
        self.seconds += seconds
        self.read += read
        self.written += written
        self._rr += read * read
        self._rw += read * written
        self._ww += written * written
        self._rs += read * seconds
        self._ws += written * seconds

    @classmethod
    def together(cls, speedometers: Iterable[Speedometer]) -> Speedometer:
        """Add up what several have measured."""
        whole, several = cls(), list(speedometers)
        full = [speedometer for speedometer in several if speedometer.full]
        for speedometer in full or several:
            for name, value in vars(speedometer).items():
                setattr(whole, name, getattr(whole, name) + value)
        return whole

    def rates(
        self, vllm_version: str, device: str, hardware: str = "", startup_seconds: float = 0.0
    ) -> Rates:
        """Return the speed measured so far."""
        fitted = self._fitted()
        reading, writing = fitted or self._split()
        return Rates(
            1 / reading if reading else 0.0,
            1 / writing if writing else 0.0,
            fitted is not None,
            self.seconds,
            self.read,
            self.written,
            vllm_version,
            device,
            hardware,
            startup_seconds,
            bool(self.full),
        )

    def _fitted(self) -> tuple[float, float] | None:
        """Seconds per token read and written; None where the stretches were too alike, or contradict."""
        area = self._rr * self._ww - self._rw * self._rw
        if not self.seconds or area <= 0.05 * self._rr * self._ww:
            return None
        reading = (self._rs * self._ww - self._ws * self._rw) / area
        writing = (self._ws * self._rr - self._rs * self._rw) / area
        return (reading, writing) if reading > 0 and writing > 0 else None

    def _split(self) -> tuple[float, float]:
        work = self.read + READ_PER_WRITTEN * self.written
        reading = self.seconds / work if work else 0.0
        return reading, reading * READ_PER_WRITTEN
