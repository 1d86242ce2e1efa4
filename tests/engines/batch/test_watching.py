"""How often a provider is asked for a batch."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from tests.support.engines import requests
from tests.support.simulated.loop import VirtualLoop
from tests.support.simulated.world import Disk, SimulatedWorld
from thirdshift.engines.batch.provider import Remote, RemoteState
from thirdshift.engines.batch.watcher import CANCEL_SECONDS, BatchWatcher
from thirdshift.engines.core.submission import Submission
from thirdshift.router.interfaces import Shard
from thirdshift.router.values import Purpose

RUNNING = Remote("b", "label", RemoteState.RUNNING, datetime(2026, 11, 29, tzinfo=UTC))


class NeverDone:
    """A provider that takes a cancellation and goes on."""

    def __init__(self) -> None:
        self.looks = self.cancels = 0

    async def look(self, remote: Remote) -> Remote:
        self.looks += 1
        return remote

    async def cancel(self, batch_id: str) -> None:
        self.cancels += 1


def test_after_the_deadline_a_cancelled_batch_is_looked_at_ever_more_seldom(tmp_path: Path) -> None:
    loop, wire = VirtualLoop(Random(0), 1e6), NeverDone()
    world = SimulatedWorld(loop, Random(0), Disk(tmp_path), lambda _: None, steps=None, die=lambda: None)
    watched: Any = wire
    watcher = BatchWatcher(
        watched,
        (0.5, 60.0),
        lambda: 100.0 - loop.now,
        unknown_seconds=60.0,
        cancel_seconds=CANCEL_SECONDS,
        world=world,
    )
    work = Submission(Shard("run", "s", "e", Purpose.MAIN, requests(1)), "key")
    try:
        asyncio.set_event_loop(loop)
        task = loop.create_task(watcher.watch(RUNNING, work, asyncio.Event()))
        loop.play_until(task.done)
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    assert task.result() is RUNNING
    assert wire.cancels == 1
    assert 100.0 + CANCEL_SECONDS <= loop.now < 100.0 + CANCEL_SECONDS + 61.0
    assert wire.looks < 45
