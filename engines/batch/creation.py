"""A batch is made once: whenever it may have been made unseen, it is looked for before it is made again."""

from __future__ import annotations

import stamina

from thirdshift.engines.batch.http import passing
from thirdshift.engines.batch.provider import BatchWire, CallError, Remote, RemoteState

ATTEMPTS = 6
"""Each after the first looks for the batch before it makes one."""


async def make(wire: BatchWire, source: str, label: str) -> Remote:
    """Raises CallError; `lost` says that it may have been made all the same."""
    unseen = False
    async for attempt in stamina.retry_context(
        on=passing, attempts=ATTEMPTS, timeout=None, wait_initial=0.2, wait_max=30.0
    ):
        with attempt:
            if attempt.num > 1:
                remote = await found_by(wire, label)
                if remote is not None:
                    return remote
            try:
                return await wire.create(source, label)
            except CallError as error:
                unseen = unseen or error.lost
                error.lost = unseen
                raise
    raise AssertionError  # stamina returns or raises


async def found_by(wire: BatchWire, label: str) -> Remote | None:
    """The batch of that label that was or will be run."""
    async for remote in wire.find(label):
        if remote.label == label and remote.state is not RemoteState.FAILED:
            return remote
    return None
