"""An engine that runs requests in a batch, step by step, on a clock of its own: what it takes is known exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

READ, WRITTEN = 400, 80
"""Tokens that the mean request reads and writes."""
LONGEST = 2 * WRITTEN
TELLS_SECONDS = 0.5


@dataclass
class BatchingEngine:
    """A step takes a time of its own however many requests write a token in it; prompts are read in no time."""

    most: int
    """Requests that run at once."""
    step_seconds: float = 0.02
    token_seconds: float = 20e-6
    now: float = 0.0
    steps: int = 0
    answers: int = 0
    read: int = 0
    """By requests that have begun."""
    written: int = 0
    ended: tuple[int, int] = (0, 0)
    """Tokens that answered requests have read and written."""
    waiting: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))

    def __post_init__(self) -> None:
        self._lengths = self._left = np.zeros(0, np.int64)

    @property
    def running(self) -> int:
        """Requests in the batch."""
        return len(self._left)

    @property
    def seconds_per_request(self) -> float:
        """What the mean request takes of an engine that is full."""
        return WRITTEN * (self.step_seconds / self.most + self.token_seconds)

    def answer(self, requests: int, tell: Callable[[BatchingEngine], None]) -> None:
        """Answer so many, and tell of it every half second and at the end."""
        self.waiting += requests
        told = self.now
        while self.waiting or self.running:
            self._step()
            if self.now - told >= TELLS_SECONDS:
                told = self.now
                tell(self)
        tell(self)

    def _step(self) -> None:
        new = min(self.waiting, self.most - self.running)
        drawn = self.rng.integers(1, LONGEST, new)
        self.waiting -= new
        self._lengths = np.concatenate([self._lengths, drawn])
        self._left = np.concatenate([self._left, drawn])
        self.read += READ * new
        self.now += self.step_seconds + self.running * self.token_seconds
        self.steps += 1
        self.written += self.running
        self._left = self._left - 1
        over = self._left <= 0
        self.answers += int(over.sum())
        self.ended = self.ended[0] + READ * int(over.sum()), self.ended[1] + int(self._lengths[over].sum())
        self._lengths, self._left = self._lengths[~over], self._left[~over]
