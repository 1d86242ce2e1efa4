"""Shards through a provider's batch tier: cut into parts, each placed once, watched, harvested.

A part's intents are on disk before its batch is made. A batch carries its shard's key, and before any is made the
provider is asked for those that carry it already: what a dead process left is adopted, never sent twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Lock

from thirdshift.engines.batch.creation import found_by, make
from thirdshift.engines.batch.labels import prefix
from thirdshift.engines.batch.parts import BatchPart, BatchParts, RequestFeed, leave
from thirdshift.engines.batch.provider import BatchWire, CallError, Remote, RemoteState
from thirdshift.engines.batch.providers import wire_for
from thirdshift.engines.batch.room import QueueRoom, too_late
from thirdshift.engines.batch.watcher import (
    CANCEL_SECONDS,
    MISSING_SECONDS,
    UNKNOWN_SECONDS,
    BatchWatcher,
    overdue_seconds,
)
from thirdshift.engines.core.records import AttemptRecords
from thirdshift.engines.core.returns import RETURNS, pauses
from thirdshift.engines.core.submission import Said, Submission
from thirdshift.engines.core.transport import lost, not_sent
from thirdshift.engines.errors import ClosedError
from thirdshift.engines.registry import tier_of
from thirdshift.engines.wires.openai import Bodies
from thirdshift.router.interfaces import EngineContext, Progress, Shard, Ticket
from thirdshift.router.values import Endpoint, FailureKind

UNLISTED = (
    "; without its list of batches none can be placed, and nothing was sent. Has it a batch tier? `mode: realtime` asks "
    "the same model at once"
)
POLL_FIRST_SECONDS = 0.5
"""A small batch may be over in seconds; after a dozen looks it is the longest wait, and a day has 1,440 of those."""
EMULATED_POLL_SECONDS = 0.2
POLL_MAX_SECONDS = 60.0


class BatchEngine:
    """`interfaces.Engine` over a batch tier.

    `poll_first_seconds` (None: a half, or a fifth where the provider is emulated) grows to `poll_max_seconds` while a
    batch runs; `unknown_seconds`, `cancel_seconds` and `missing_seconds` bound what is waited for where its status is
    unknown, it was cancelled, or it is said not to be there. At the run's deadline what is finished is harvested.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        engine_context: EngineContext,
        *,
        wire: BatchWire | None = None,
        poll_first_seconds: float | None = None,
        poll_max_seconds: float = POLL_MAX_SECONDS,
        unknown_seconds: float = UNKNOWN_SECONDS,
        cancel_seconds: float = CANCEL_SECONDS,
        missing_seconds: float = MISSING_SECONDS,
    ) -> None:
        bodies, tier = Bodies(endpoint), tier_of(endpoint)
        self._endpoint, self._context, self._world = endpoint, engine_context, engine_context.world
        self._wire = wire or wire_for(endpoint, bodies, engine_context.keep, self._world)
        records = AttemptRecords(endpoint, bodies.extra_bytes, engine_context.keep, self._world)
        self._parts = BatchParts(engine_context, records, self._wire)
        first = EMULATED_POLL_SECONDS if endpoint.emulated else POLL_FIRST_SECONDS
        self._polls = (first if poll_first_seconds is None else poll_first_seconds, poll_max_seconds)
        self._watcher = BatchWatcher(
            self._wire,
            self._polls,
            self._left if engine_context.deadline is not None else None,
            unknown_seconds=unknown_seconds,
            cancel_seconds=cancel_seconds,
            missing_seconds=missing_seconds,
            overdue_seconds=overdue_seconds(tier),
            world=self._world,
        )
        # in the run's folder, where purge finds what a killed process leaves
        name = f"thirdshift-batch-{self._world.random_bytes(8).hex()}"
        self._folder = (engine_context.keep or Path(tempfile.gettempdir())) / name
        self._folder.mkdir(mode=0o700)
        self._numbers = count()
        self._lock = Lock()
        self._works: dict[str, Submission] = {}
        self._cut_off: dict[str, asyncio.Event] = {}
        """Per key: harvest what there is."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._halted: FailureKind | None = None
        tokens = endpoint.limits.enqueued_tokens or tier.limits.enqueued_tokens
        self._room = QueueRoom(self._wire.limits.batches, tokens, self._polls[0], self._left)
        self._parts.tokens_max = tokens
        self._closed = self._placed = False

    def submit(self, shard: Shard, key: str) -> Ticket:
        with self._lock:
            known = self._works.get(key)
            if known is None:
                known = self._works[key] = Submission(shard, key)
                self._cut_off[key] = asyncio.Event()
                self._world.loop().call_soon_threadsafe(self._begin, known)
            return known.ticket

    def progress(self, ticket: Ticket) -> Progress:
        return self._works[ticket.key].progress()

    def collect(self, ticket: Ticket) -> Iterator[Said]:
        return self._works[ticket.key].drain()

    def harvest(self, ticket: Ticket) -> None:
        """Cancel the shard's batches and collect what they have finished; what they have not expires.

        Returns at once: `collect` ends when the provider has reached its final state and all is booked.
        """
        self._world.loop().call_soon_threadsafe(self._cut_short, ticket.key)

    def stop(self) -> None:
        self._world.loop().call_soon_threadsafe(self._halt, FailureKind.CANCELLED)

    def close(self) -> None:
        """Stop watching. Batches under way go on at the provider, for a later process to adopt."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._world.run(self._close())
            shutil.rmtree(self._folder, ignore_errors=True)

    # --- a shard ---

    def _begin(self, work: Submission) -> None:
        task = asyncio.create_task(self._serve(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, work: Submission) -> None:
        """A shard from what is adopted to the last result."""
        fault: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                adopted, unread = set[int](), list[str]()
                async for part, remote in self._adopted(work, unread):
                    adopted |= part.held.keys()
                    work.in_flight += len(part.held)
                    self._room.take(part.tokens)
                    group.create_task(self._carry(group, work, part, remote))
                await asyncio.to_thread(self._parts.disown, work.shard, unread)
                await self._place(group, work, RequestFeed(work.shard.requests, without=adopted))
        except BaseExceptionGroup as faults:
            fault = faults.exceptions[0]
        except asyncio.CancelledError:
            fault = ClosedError(f"endpoint {self._endpoint.name} was closed before its shard was done")
        except BaseException as error:  # noqa: BLE001 - raised where answers are collected
            fault = error
        work.finish(fault)

    async def _adopted(self, work: Submission, unread: list[str]) -> AsyncIterator[tuple[BatchPart, Remote]]:
        """Batches that an earlier process made of this shard; to `unread` go those whose requests are not known."""
        key = work.ticket.key
        try:
            async for remote in self._wire.find(prefix(key)):
                if remote.state is RemoteState.FAILED or remote.source is None:
                    continue
                uploaded = self._path()
                try:
                    await self._watcher.fetch(remote.source, uploaded, unreachable_seconds=0.0)
                except CallError as error:
                    if error.kind is not FailureKind.NOT_FOUND:
                        raise
                    unread.append(remote.id)
                    continue
                part = await asyncio.to_thread(self._parts.adopt, work.shard, key, remote, uploaded)
                yield part, remote
                uploaded.unlink(missing_ok=True)
        except CallError as error:
            if error.passing or work.shard.shard_id in self._context.committed:
                # whether there is something to adopt is not known: nothing may be sent
                error.add(UNLISTED)
                raise

    async def _place(
        self, group: asyncio.TaskGroup, work: Submission, source: RequestFeed, attempt: int = 0
    ) -> None:
        """Cut and place part after part until the source is empty or nothing more is to be sent."""
        shard, key = work.shard, work.ticket.key
        number, waits = attempt or shard.first_attempt, pauses(*self._polls)
        while True:
            if (halted := self._nothing_more(work)) is not None:
                await asyncio.to_thread(leave, work, source, halted)
                return
            part = await asyncio.to_thread(self._parts.cut, shard, key, source, self._path(), number)
            if part is None:
                return
            work.put_lot(part.said)
            if part.held:
                work.in_flight += len(part.held)
                waits = pauses(*self._polls)
                await self._room.wait_for(part.tokens, lambda: self._nothing_more(work) is not None)
                await self._send(group, work, part)
            elif part.in_vain:
                self._halt(FailureKind.BUDGET)
            elif part.stopped_by_cap:
                await self._room.news(next(waits))

    async def _send(
        self, group: asyncio.TaskGroup, work: Submission, part: BatchPart, source: str | None = None
    ) -> None:
        """Upload a part, unless that is done, and make its batch; neither where nothing more is to be sent by now."""
        remote = None
        try:
            if source is None and self._nothing_more(work) is None:
                source = await self._wire.upload(part.path, part.label)
                self._placed = True
            if source is not None:
                remote = await self._made(work, part, source)
        except CallError as error:
            self._room.leave(part.tokens)
            reply = (
                lost(FailureKind.CONNECTION, str(error)) if error.lost else not_sent(error.kind, str(error))
            )
            await self._finish(work, part, lambda: self._parts.end(part, reply, work.put_lot))
            return
        finally:
            part.path.unlink(missing_ok=True)
        if remote is not None:
            group.create_task(self._carry(group, work, part, remote))
        else:
            self._room.leave(part.tokens)
            await self._place_anew(group, work, part, "nothing more was to be sent")

    async def _made(self, work: Submission, part: BatchPart, source: str) -> Remote | None:
        """The batch of a part; None where nothing more is to be sent. Where too many wait at the provider already, one of
        ours is awaited."""
        while self._over(work) is None:
            try:
                return await make(self._wire, source, part.label)
            except CallError as error:
                full = error.kind is FailureKind.RATE_LIMITED and not error.lost
                if not full or self._room.under_way < 2 or self._over(work) is not None:
                    raise
            await self._room.one_less(lambda: self._over(work) is not None)
        return None

    async def _carry(
        self, group: asyncio.TaskGroup, work: Submission, part: BatchPart, remote: Remote
    ) -> None:
        """A batch, whose room is taken, from its beginning to its last result."""
        try:
            try:
                ended = await self._watcher.watch(remote, work, self._cut_off[work.ticket.key])
            except CallError as error:
                reply = lost(FailureKind.CONNECTION, str(error))
                await self._finish(work, part, lambda: self._parts.end(part, reply, work.put_lot))
                return
            mistaken = ended.doubtful and not await self._wire.claim(ended)
            done = not mistaken and (ended.state is RemoteState.ENDED or bool(ended.results))
            # what it cost is booked before the room that it took is free for the next
            again = await self._reap(work, part, ended) if done else set[int]()
        finally:
            self._room.leave(part.tokens)
        if mistaken:
            await self._mistaken(group, work, part)
        elif done and again:  # what the server refuses is left out now
            await self._place(group, work, RequestFeed(work.shard.requests, rows=again), part.attempt + 1)
        elif done:
            return
        elif ended.state is not RemoteState.FAILED:
            reply = lost(FailureKind.TIMEOUT, self._given_up(ended))
            await self._finish(work, part, lambda: self._parts.end(part, reply, work.put_lot))
        elif ended.queue_full and self._over(work) is None:
            await self._again(group, work, part, ended)
        else:
            words = f"endpoint {self._endpoint.name}: batch {ended.id} was refused ({ended.fault})"
            reply = not_sent(FailureKind.BAD_REQUEST, words)
            await self._finish(work, part, lambda: self._parts.end(part, reply, work.put_lot))

    def _given_up(self, remote: Remote) -> str:
        words = (
            f"endpoint {self._endpoint.name}: batch {remote.id} stays at the status {remote.status or 'unknown'}; it is "
            "waited for no longer, and what it may have cost is booked at the most it can be"
        )
        self._context.say(words)
        return words

    async def _reap(self, work: Submission, part: BatchPart, ended: Remote) -> set[int]:
        """Results to disk, into the books, to whoever collects; then away with them where that is asked. Each file stands
        alone: what one that is gone held is not known, and what another holds is. Rows that are worth sending again."""
        paths: list[Path] = []
        for name in ended.results:
            path = self._path()
            try:
                await self._watcher.fetch(name, path)
                paths.append(path)
            except CallError:
                ended = replace(ended, cut_short=False)  # what has no result may have been in it
        requests, again = work.shard.requests, set[int]()
        await self._finish(
            work, part, lambda: again.update(self._parts.settle(part, paths, ended, work.put_lot, requests))
        )
        for path in paths:
            path.unlink()
        if self._endpoint.delete_remote:
            for file in filter(None, (ended.source, *ended.results)):
                with contextlib.suppress(CallError):
                    await self._wire.delete(file)
        return again

    async def _again(
        self, group: asyncio.TaskGroup, work: Submission, part: BatchPart, failed: Remote
    ) -> None:
        """The provider's queue was full: wait for a batch of ours to end, or send in smaller parts."""
        if self._room.under_way and failed.source is not None:
            await self._room.one_less(lambda: self._over(work) is not None)
            self._room.take(part.tokens)
            await self._send(group, work, part, failed.source)
            return
        if len(part.held) == 1:
            reply = not_sent(
                FailureKind.RATE_LIMITED, f"endpoint {self._endpoint.name}: its queue stays full"
            )
            await self._finish(work, part, lambda: self._parts.end(part, reply, work.put_lot))
            return
        self._parts.tokens_max = max(1, part.tokens // 2)
        await self._place_anew(
            group, work, part, "the provider's queue was full; sent again in smaller batches"
        )

    async def _mistaken(self, group: asyncio.TaskGroup, work: Submission, part: BatchPart) -> None:
        """The batch that could have been the part's is not: another one may be, else it was never made."""
        other = await found_by(self._wire, part.label)
        if other is not None:
            self._room.take(part.tokens)
            group.create_task(self._carry(group, work, part, other))
        else:
            await self._place_anew(group, work, part, "its batch was never made")

    async def _place_anew(
        self, group: asyncio.TaskGroup, work: Submission, part: BatchPart, why: str
    ) -> None:
        rows = set(part.held)
        await self._finish(work, part, lambda: self._parts.release(part, why))
        await self._place(group, work, RequestFeed(work.shard.requests, rows=rows), part.attempt + 1)

    async def _finish(self, work: Submission, part: BatchPart, book: Callable[[], None]) -> None:
        """Do the booking of a part on a thread, and tell who waits for its money."""
        work.in_flight -= len(part.held)
        await asyncio.to_thread(book)
        RETURNS.tell()

    # --- when to stop ---

    def _halt(self, kind: FailureKind) -> None:
        self._halted = self._halted or kind
        RETURNS.tell()

    def _cut_short(self, key: str) -> None:
        self._cut_off[key].set()
        RETURNS.tell()

    def _over(self, work: Submission) -> FailureKind | None:
        """Why nothing more is sent for a shard, or None."""
        if self._halted is None and (self._parts.overrun or self._late()):
            self._halted = FailureKind.BUDGET if self._parts.overrun else FailureKind.DEADLINE
        if self._halted is None and self._cut_off[work.ticket.key].is_set():
            return FailureKind.CANCELLED
        return self._halted

    def _nothing_more(self, work: Submission) -> FailureKind | None:
        """Why no further batch is placed for a shard: `_over`, or it would be back too late. The first is as planned."""
        halted = self._over(work)
        if halted is None and self._placed and self._context.elsewhere:
            return FailureKind.EXPIRED if too_late(self._left(), self._endpoint.turnaround_seconds) else None
        return halted

    def _left(self) -> float:
        """Seconds to the deadline."""
        deadline = self._context.deadline
        return float("inf") if deadline is None else (deadline - self._world.now()).total_seconds()

    def _late(self) -> bool:
        return self._left() <= 0

    def _path(self) -> Path:
        return self._folder / f"{next(self._numbers)}.jsonl"

    async def _close(self) -> None:
        self._halt(FailureKind.CANCELLED)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._wire.close()
