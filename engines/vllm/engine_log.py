"""A worker's log: kept in the run's folder, its last lines at hand, and the error that the engine itself named first.

With several processes an engine fails in one of them and is reported by all: what its parent says at the end ("Engine core
initialization failed") names no cause. The cause is the end of the first traceback, some hundred lines before.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO

LINES = 200
"""Kept at hand for messages."""
FILE_BYTES = 16 << 20
"""What is kept of a log in its file: an engine that repeats itself must not fill the disk."""
LINE_LETTERS = 600


class FaultKind(StrEnum):
    """Why an engine failed, as far as its remedy differs."""

    OUT_OF_MEMORY = "out_of_memory"
    """While it loaded or ran: fewer requests at once, and less memory taken in advance."""
    TOO_LONG = "too_long"
    """The memory that is left holds no request of the full length: a shorter one fits."""
    BUSY = "busy"
    """Another process holds the device's memory: it is waited for."""
    SICK = "sick"
    """The device itself has failed, and is left out."""
    CERTAIN = "certain"
    """The next try would end in the same way: something is not installed, not supported or not there."""
    OTHER = "other"


PATTERNS: dict[FaultKind, re.Pattern[str]] = {
    FaultKind.SICK: re.compile(
        r"\bXid\b|uncorrectable ECC|\bECC error|fallen off the bus|GPU is lost|HBM.{0,20}ECC|MULTI_BIT_ECC"
        r"|hardware stack error|UCE error",
        re.IGNORECASE,
    ),
    FaultKind.BUSY: re.compile(
        r"Free memory on device .* is less than desired|Available memory on node .* is less than (?:desired|requested)",
    ),
    FaultKind.TOO_LONG: re.compile(
        r"larger than the available KV cache memory|estimated maximum model length"
    ),
    FaultKind.OUT_OF_MEMORY: re.compile(
        r"OutOfMemoryError|out of memory|No available memory for the cache blocks|can't allocate memory"
        r"|CUBLAS_STATUS_ALLOC_FAILED",
        re.IGNORECASE,
    ),
    FaultKind.CERTAIN: re.compile(
        r"^(?:\w+\.)*(?:ModuleNotFoundError|ImportError|ValidationError|RepositoryNotFoundError|GatedRepoError"
        r"|LocalEntryNotFoundError|NotImplementedError|KeyError|AssertionError|TypeError)\b"
        r"|not supported|does not support|unrecognized|is not a valid|Can't load|Cannot find",
    ),
}
"""Looked at in this order: a card that fails may well say that its memory is out."""

SPEAKER = re.compile(r"^\((?P<speaker>[^()]*?)\s*pid=\d+(?:,[^()]*)?\)\s?")
STAMP = re.compile(r"^(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?")
HARMLESS = re.compile(r"^(?:DEBUG|INFO|WARNING) \d\d-\d\d ")
TRACEBACK = "Traceback (most recent call last):"
ERROR = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt)(?:\(\w+\))?(?::\s.*)?$")
FITTED = re.compile(r"estimated maximum model length is ([\d,]+)")
RANK = re.compile(r"(?:PP(?P<pp>\d+))?_?TP(?P<tp>\d+)|^(?:VllmW|W)orker[-_ ]?(?P<rank>\d+)")


@dataclass(frozen=True, slots=True)
class EngineFault:
    """What an engine said when it failed."""

    kind: FaultKind
    message: str
    """The engine's own words."""
    fitted_length: int | None = None
    """Tokens of a request that the memory would hold, where the engine says so."""
    tensor_rank: int | None = None
    """Which of the processes that share the tensors said it, and so which of the worker's devices it used."""


class EngineLog:
    """Takes in a log line by line. Written by one thread; what it holds may be read by others at any time."""

    def __init__(self, path: Path | None = None) -> None:
        """`path`: where the whole of it is kept; None: nowhere."""
        self.path = path
        self._lines: deque[str] = deque(maxlen=LINES)
        self._within: set[str] = set()
        """Processes that are within a traceback."""
        self._faults: list[EngineFault] = []
        self._file: IO[str] | None = None
        self._room = FILE_BYTES

    def add(self, line: str) -> None:
        """Take in one line."""
        line = line.rstrip()
        self._keep(line)
        self._lines.append(line.strip()[:LINE_LETTERS])
        named = SPEAKER.match(line)
        speaker = named["speaker"] if named else ""
        said = line[named.end() :] if named else line
        harmless = HARMLESS.match(said) is not None
        text = STAMP.sub("", said).strip()
        if text == TRACEBACK and not harmless:
            self._within.add(speaker)
        elif speaker in self._within and ERROR.match(text):
            self._within.discard(speaker)
            self._faults.append(_fault(text, speaker))
        elif not harmless and PATTERNS[FaultKind.SICK].search(text) and speaker not in self._within:
            self._faults.append(_fault(text, speaker))

    def fault(self) -> EngineFault | None:
        """Return the first error whose kind is known, or else the first of all; None: no error was named."""
        faults = list(self._faults)
        known = (fault for fault in faults if fault.kind not in {FaultKind.OTHER, FaultKind.CERTAIN})
        return next(known, faults[0] if faults else None)

    def told(self) -> str:
        """Return what a message quotes: the engine's first error, or its last lines, and where the whole log is."""
        fault = self.fault()
        where = f"; its whole log is {self.path}" if self._file is not None else ""
        if fault is not None:
            return f"its engine said: {fault.message}{where}"
        return f"the last lines of its log: {self.last_lines()}{where}"

    def last_lines(self, lines: int = 6) -> str:
        """Return the last lines, joined in one."""
        return " | ".join([line for line in list(self._lines) if line][-lines:]) or "(its log is empty)"

    def close(self) -> None:
        """Close the file; what was said can still be asked for."""
        if self._file is not None:
            self._file.close()

    def _keep(self, line: str) -> None:
        if self.path is None or self._room <= 0:
            return
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8", errors="replace")
        self._room -= len(line) + 1
        self._file.write(line + "\n" if self._room > 0 else "(the rest is left out)\n")
        self._file.flush()


def _fault(text: str, speaker: str) -> EngineFault:
    kind = next((kind for kind, pattern in PATTERNS.items() if pattern.search(text)), FaultKind.OTHER)
    fitted, rank = FITTED.search(text), RANK.search(speaker)
    number = None if rank is None else rank["tp"] or rank["rank"]
    return EngineFault(
        kind,
        text[:LINE_LETTERS],
        int(fitted[1].replace(",", "")) if fitted else None,
        int(number) if number is not None and not (rank and rank["pp"]) else None,
    )
