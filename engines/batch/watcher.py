"""Looking at a batch until it is over, ever more seldom, but not for ever; cancelling one that is to be harvested;
bringing what it has done to disk."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from thirdshift.engines.batch.provider import BatchWire, CallError, Remote, RemoteState
from thirdshift.engines.core.submission import Submission
from thirdshift.engines.errors import UnknownBatchError
from thirdshift.router.tiers import BatchTier
from thirdshift.router.values import FailureKind
from thirdshift.world import REAL, World

POLL_GROWTH = 1.5
UNKNOWN_SECONDS = 1800.0
"""A batch that tells a status which nobody here knows is waited for so long."""
CANCEL_SECONDS = 600.0
"""A batch that was cancelled is waited for so long: OpenAI says up to ten minutes."""
MISSING_SECONDS = 300.0
"""A batch that the provider has told of and does not know now, or whose files are not there or not named yet, is waited for
so long: Anthropic answered 404 in between for a quarter of an hour, seconds after a batch was made and just after it had
ended (anthropic-sdk-python#1432)."""
UNDER_WAY = frozenset({RemoteState.RUNNING, RemoteState.UNKNOWN})

_NEVER = float("inf")
OVERDUE = 1.5
"""A batch that has not ended after so many times the time that its tier gives it hangs: it is cancelled, and what it has
not done goes elsewhere."""


def overdue_seconds(tier: BatchTier) -> float:
    """Seconds after which a batch of a tier hangs; endless where its window is not told, or it cannot be cancelled."""
    hours = tier.longest_hours or (None if tier.window is None else tier.window.hours)
    return _NEVER if hours is None or tier.cancel == "none" else OVERDUE * hours * 3600


class BatchWatcher:
    """One endpoint's. `polls`: the first wait and the longest; `left`: seconds to the deadline, where there is one."""

    def __init__(
        self,
        wire: BatchWire,
        polls: tuple[float, float],
        left: Callable[[], float] | None,
        *,
        unknown_seconds: float,
        cancel_seconds: float,
        missing_seconds: float = MISSING_SECONDS,
        overdue_seconds: float = float("inf"),
        world: World = REAL,
    ) -> None:
        self._wire, self._polls, self._left = wire, polls, left
        self._unknown_seconds, self._cancel_seconds = unknown_seconds, cancel_seconds
        self._missing_seconds = missing_seconds
        self._overdue_seconds, self._world = overdue_seconds, world

    async def watch(self, remote: Remote, work: Submission, cut_off: asyncio.Event) -> Remote:
        """The batch when it is over, or as it is when it is not waited for any longer. It is cancelled at the deadline, or
        when `cut_off` is set. One that is over and does not name its answers is asked again for a while. Raises
        CallError."""
        wait, longest = self._polls
        cancelled, give_up_at, began = False, _NEVER, self._world.monotonic()
        seen_at = began
        work.done_elsewhere += remote.done
        while remote.state in UNDER_WAY and self._world.monotonic() < give_up_at:
            if not cancelled and (cut_off.is_set() or self._late() or self._overdue(remote, began)):
                await self._cancel(remote)
                cancelled, wait = True, self._polls[0]
                give_up_at = self._world.monotonic() + self._cancel_patience(harvested=cut_off.is_set())
            elif not cancelled:
                give_up_at = self._unknown_until(remote, give_up_at)
            if cancelled:
                await self._pause(wait, None)
            else:
                await self._pause(self._until_late(wait), cut_off)
            wait = min(wait * POLL_GROWTH, longest)
            try:
                seen = await self._wire.look(remote)
            except CallError as error:
                if not error.passing and not self._is_missing(error, seen_at):
                    raise
                continue  # a provider that does not answer for an hour still has the batch
            seen_at = self._world.monotonic()
            work.done_elsewhere += seen.done - remote.done
            remote = seen
        work.done_elsewhere -= remote.done
        return await self._named(remote)

    async def _named(self, remote: Remote) -> Remote:
        wait, longest = self._polls
        began = self._world.monotonic()
        while remote.unnamed and self._world.monotonic() - began < self._patience(self._missing_seconds):
            await self._pause(wait, None)
            wait = min(wait * POLL_GROWTH, longest)
            with contextlib.suppress(CallError):
                remote = await self._wire.look(remote)
        return remote

    async def fetch(self, name: str, path: Path, *, unreachable_seconds: float | None = None) -> None:
        """Write a file of the provider's to `path`. What is in it is paid for, so that a provider which does not give it
        is asked again: `unreachable_seconds` (None: as long as for a status unknown) while it cannot be asked, shorter
        where it says that there is none, and never beyond a third of what is left. Raises CallError."""
        unreachable = self._unknown_seconds if unreachable_seconds is None else unreachable_seconds
        wait, longest = self._polls
        began = self._world.monotonic()
        while True:
            try:
                await self._wire.fetch(name, path)
            except CallError as error:
                again = error.passing and self._world.monotonic() - began < self._patience(unreachable)
                if not again and not self._is_missing(error, began):
                    raise
            else:
                return
            await self._pause(wait, None)
            wait = min(wait * POLL_GROWTH, longest)

    def _is_missing(self, error: CallError, since: float) -> bool:
        """Whether the provider says that it has no such thing, and has not said so for long."""
        waited = self._world.monotonic() - since
        return error.kind is FailureKind.NOT_FOUND and waited < self._patience(self._missing_seconds)

    def _patience(self, seconds: float) -> float:
        return seconds if self._left is None else min(seconds, max(0.0, self._left() / 2))

    def _until_late(self, seconds: float) -> float:
        """Return so many seconds, or as many as there are to the deadline if those are fewer."""
        return seconds if self._left is None else min(seconds, max(self._left(), self._polls[0]))

    def _overdue(self, remote: Remote, began: float) -> bool:
        """Whether a batch hangs: it should have been over long ago. Counted from when it was first looked at here: what
        providers say of a batch's beginning is no time to act upon."""
        return self._world.monotonic() - began > self._overdue_seconds and not remote.doubtful

    async def _cancel(self, remote: Remote) -> None:
        if remote.doubtful:
            raise UnknownBatchError(
                f"whether batch {remote.id} is ours is known when it is over; it was not cancelled"
            )
        await self._wire.cancel(remote.id)

    def _unknown_until(self, remote: Remote, give_up_at: float) -> float:
        """Until when a batch is waited for that is not cancelled."""
        if remote.state is RemoteState.RUNNING:
            return _NEVER
        if remote.results:  # whatever it calls that, it has results
            return 0.0
        return min(give_up_at, self._world.monotonic() + self._unknown_seconds)

    def _cancel_patience(self, *, harvested: bool) -> float:
        """Seconds that a cancelled batch is waited for; where its rest goes elsewhere, half of what is left."""
        if not harvested or self._left is None:
            return self._cancel_seconds
        return min(self._cancel_seconds, max(2.0, self._left() / 2))

    @staticmethod
    async def _pause(seconds: float, until: asyncio.Event | None) -> None:
        if until is None:
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await until.wait()

    def _late(self) -> bool:
        return self._left is not None and self._left() <= 0
