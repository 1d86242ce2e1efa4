"""How many batches of one endpoint may be under way, and how many tokens may wait in them."""

from __future__ import annotations

from collections.abc import Callable

from thirdshift.engines.core.returns import RETURNS, pauses

IN_TIME = 0.95
"""The share of its turnaround that must be left for a batch: one that was planned to be just in time is placed."""


def too_late(seconds_left: float, turnaround_seconds: float | None) -> bool:
    """Whether a batch placed now would not be back before the deadline, as far as its turnaround is known."""
    return turnaround_seconds is not None and seconds_left < IN_TIME * turnaround_seconds


class QueueRoom:
    """One endpoint's, over all its shards. `batches` and `tokens`: what its tier allows at a time; None: not known. `left`:
    seconds to the deadline."""

    def __init__(
        self, batches: int | None, tokens: int | None, poll_seconds: float, left: Callable[[], float]
    ) -> None:
        self.tokens = tokens
        self._batches, self._poll_seconds, self._left = batches, poll_seconds, left
        self.under_way = 0
        """Batches that are not over, or are about to be made."""
        self._waiting_tokens = 0
        """In those."""

    async def wait_for(self, tokens: int, over: Callable[[], bool]) -> None:
        """Take the room of a batch with so many tokens, as soon as there is, or when nothing more is to be sent."""
        while self._full(tokens) and not over():
            await self.one_less(over)
        self.take(tokens)

    def take(self, tokens: int) -> None:
        self.under_way += 1
        self._waiting_tokens += tokens

    def leave(self, tokens: int) -> None:
        self.under_way -= 1
        self._waiting_tokens -= tokens

    async def one_less(self, over: Callable[[], bool]) -> None:
        """Wait until a batch is over, or nothing more is to be sent."""
        before, waits = self.under_way, pauses(self._poll_seconds)
        while self.under_way >= before and not over():
            await self.news(next(waits))

    async def news(self, seconds: float) -> None:
        """Wait until something is told, so long at most, and not past the deadline."""
        await RETURNS.wait(min(seconds, max(self._left(), self._poll_seconds)))

    def _full(self, tokens: int) -> bool:
        if self._batches is not None and self.under_way >= self._batches:
            return True
        return self.tokens is not None and self.under_way > 0 and self._waiting_tokens + tokens > self.tokens
