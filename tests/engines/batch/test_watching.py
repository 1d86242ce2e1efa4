"""How often a provider is asked for a batch, and for how long for what it has done."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.support.engines import requests
from tests.support.simulated.loop import VirtualLoop
from tests.support.simulated.world import Disk, SimulatedWorld
from thirdshift.engines.batch.provider import CallError, Remote, RemoteState
from thirdshift.engines.batch.watcher import CANCEL_SECONDS, BatchWatcher
from thirdshift.engines.core.submission import Submission
from thirdshift.router.interfaces import Shard
from thirdshift.router.values import FailureKind, Purpose

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


class OutFor:
    """A provider that cannot give a file for so many seconds."""

    def __init__(self, loop: VirtualLoop, seconds: float) -> None:
        self._loop, self._seconds = loop, seconds

    async def fetch(self, name: str, path: Path) -> None:
        if self._loop.now < self._seconds:
            raise CallError(FailureKind.OVERLOADED, "status 503", passing=True)


def watched_at(loop: VirtualLoop, wire: Any, folder: Path, deadline: float | None) -> BatchWatcher:
    world = SimulatedWorld(loop, Random(0), Disk(folder), lambda _: None, steps=None, die=lambda: None)
    return BatchWatcher(
        wire,
        (0.5, 60.0),
        None if deadline is None else lambda: deadline - loop.now,
        unknown_seconds=1800.0,
        cancel_seconds=CANCEL_SECONDS,
        world=world,
    )


def played(loop: VirtualLoop, coroutine: Any) -> Any:
    try:
        asyncio.set_event_loop(loop)
        task = loop.create_task(coroutine)
        loop.play_until(task.done)
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    return task.result()


def test_results_are_asked_for_again_while_a_provider_cannot_be_asked(tmp_path: Path) -> None:
    loop = VirtualLoop(Random(0), 1e6)
    watcher = watched_at(loop, OutFor(loop, 1200.0), tmp_path, None)
    played(loop, watcher.fetch("f", tmp_path / "f"))
    assert 1200.0 <= loop.now < 1261.0


def test_a_third_of_what_is_left_is_waited_for_results_at_most(tmp_path: Path) -> None:
    loop = VirtualLoop(Random(0), 1e6)
    watcher = watched_at(loop, OutFor(loop, 1200.0), tmp_path, 900.0)
    with pytest.raises(CallError):
        played(loop, watcher.fetch("f", tmp_path / "f"))
    assert loop.now < 300.0 + 61.0


def test_after_the_deadline_a_cancelled_batch_is_looked_at_ever_more_seldom(tmp_path: Path) -> None:
    loop, wire = VirtualLoop(Random(0), 1e6), NeverDone()
    watcher = watched_at(loop, wire, tmp_path, 100.0)
    work = Submission(Shard("run", "s", "e", Purpose.MAIN, requests(1)), "key")
    seen = played(loop, watcher.watch(RUNNING, work, asyncio.Event()))
    assert seen is RUNNING
    assert wire.cancels == 1
    assert 100.0 + CANCEL_SECONDS <= loop.now < 100.0 + CANCEL_SECONDS + 61.0
    assert wire.looks < 45
