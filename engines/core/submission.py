"""A submitted shard while it runs: what is done of it, and its answers on their way to whoever collects."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from queue import SimpleQueue
from threading import Lock

from thirdshift.router.interfaces import Progress, Shard, Ticket
from thirdshift.router.values import Answer, Failure

FLUSH_SECONDS = 0.02
"""Answers cross to the collecting thread in lots: waking it for each would cost more than the answer."""

Said = Answer | Failure


class Submission:
    """Filled on the event loop, read from any one thread."""

    def __init__(self, shard: Shard, key: str) -> None:
        self.shard = shard
        self.ticket = Ticket(shard.shard_id, key)
        self.total = len(shard.requests)
        self.done = 0
        self.in_flight = 0
        self.finished = False
        self.done_elsewhere = 0
        """Done at a provider that has not handed the answers over yet."""
        self._lock = Lock()
        self._lot: list[Said] = []
        self._lots: SimpleQueue[list[Said] | BaseException | None] = SimpleQueue()

    def put(self, answer: Said) -> None:
        self.done += 1
        if not self._lot:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush)
        self._lot.append(answer)

    def put_lot(self, lot: list[Said]) -> None:
        """Take in many answers at once, from any thread."""
        if lot:
            with self._lock:
                self.done += len(lot)
            self._lots.put(lot)

    def finish(self, fault: BaseException | None = None) -> None:
        """No more will come; `fault` (a full disk, a bug of ours) is raised where answers are collected."""
        self._flush()
        self.finished = True
        self._lots.put(fault)

    def progress(self) -> Progress:
        done = min(self.done + self.done_elsewhere, self.total)
        return Progress(done, self.total, self.in_flight, self.finished)

    def drain(self) -> Iterator[Said]:
        """What is put, until `finish`; a second reader finds the end."""
        while True:
            lot = self._lots.get()
            if lot is None or isinstance(lot, BaseException):
                self._lots.put(lot)
                if lot is not None:
                    raise lot
                return
            yield from lot

    def _flush(self) -> None:
        if self._lot:
            lot, self._lot = self._lot, []
            self._lots.put(lot)
