"""A shard that waits for workers or is with them, request by request."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from thirdshift.engines.core.submission import Said, Submission
from thirdshift.engines.metered.ordering import arrange
from thirdshift.router.interfaces import Shard
from thirdshift.router.values import Request


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """A request on its way to an answer."""

    queue: ShardQueue
    request: Request
    attempt: int
    """The number of the attempt under way, or of the next."""
    entry_id: str = ""
    """Entry of the attempt under way."""
    deaths: int = 0
    """Workers that died while they had it."""
    cuts: int = 0
    """Answers cut before their first word."""


class ShardQueue(Submission):
    """A shard's requests, guarded by the engine's lock but for `drain`; a shard is some thousands at most."""

    def __init__(self, shard: Shard, key: str) -> None:
        super().__init__(shard, key)
        self.pending = deque(
            QueuedRequest(self, request, shard.first_attempt) for request in arrange(list(shard.requests))
        )
        if not self.pending:
            self.finish()

    def deliver(self, replies: Iterable[Said]) -> None:
        """Pass on final replies. The last one ends the shard."""
        lot = list(replies)
        self.done += len(lot)
        self._lots.put(lot)
        if self.done == self.total and not self.finished:
            self.finish()
