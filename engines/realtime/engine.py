"""Shards in real time: each request sent when limits and money allow, in order; answers as they come."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from threading import Lock

from thirdshift.engines.core.attempts import Admission, Attempts
from thirdshift.engines.core.failures import BACKOFF_SECONDS
from thirdshift.engines.core.records import AttemptRecords
from thirdshift.engines.core.submission import Said, Submission
from thirdshift.engines.core.transport import Transport
from thirdshift.engines.errors import ClosedError
from thirdshift.engines.realtime.http import HttpTransport
from thirdshift.engines.wires.openai import Bodies
from thirdshift.router.interfaces import EngineContext, Progress, RequestSource, Shard, Ticket
from thirdshift.router.values import Endpoint, FailureKind, Mode, Request

TIMEOUT_SECONDS = 600.0
"""From sending to the last byte: slow reasoning takes minutes, a hung connection takes for ever."""
FLEX_TIMEOUT_SECONDS = 900.0
"""The flex tier answers when it has room; OpenAI advises a quarter of an hour."""
PATIENCE_SECONDS = 300.0
"""An endpoint at which nobody has listened for so long is given up."""
OPEN_MAX = 2048
"""Requests of one engine that are in flight or wait to be sent again: what is held in memory."""
READ_AT_ONCE = 64
"""Requests read from disk per hop to a reading thread."""


@dataclass(slots=True)
class _Start:
    """An admitted request, about to be entered in the journal and sent."""

    group: asyncio.TaskGroup
    work: Submission
    request: Request
    admission: Admission


def patience_with(endpoint: Endpoint) -> float:
    """Seconds that one attempt may take."""
    return FLEX_TIMEOUT_SECONDS if endpoint.mode is Mode.FLEX else TIMEOUT_SECONDS


class RealtimeEngine:
    """`interfaces.Engine` over a transport; without one, OpenAI's wire over HTTP.

    `timeout_seconds` bounds one attempt (None: as its tier wants it), `patience_seconds` how long an endpoint
    may be unreachable, `backoff_first_seconds` is the first wait after a failure; `seed` makes the jitter of waits
    repeatable.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        engine_context: EngineContext,
        *,
        transport: Transport | None = None,
        timeout_seconds: float | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        backoff_first_seconds: float = BACKOFF_SECONDS,
        seed: int | None = None,
    ) -> None:
        bodies, world = Bodies(endpoint), engine_context.world
        self._world = world
        self._transport = transport or HttpTransport(
            endpoint, bodies, timeout_seconds or patience_with(endpoint), world
        )
        self._attempts = Attempts(
            endpoint,
            engine_context,
            self._transport,
            AttemptRecords(endpoint, bodies.extra_bytes, engine_context.keep, world),
            patience_seconds=patience_seconds,
            backoff_first_seconds=backoff_first_seconds,
            rng=random.Random(world.random_bytes(8) if seed is None else seed),  # noqa: S311 - jitter, not secrets
        )
        self._deadline = engine_context.deadline
        self._lock = Lock()
        self._works: dict[str, Submission] = {}
        self._open = asyncio.Semaphore(OPEN_MAX)
        self._starting: list[_Start] = []
        self._shards: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False

    def submit(self, shard: Shard, key: str) -> Ticket:
        with self._lock:
            known = self._works.get(key)
            if known is None:
                known = self._works[key] = Submission(shard, key)
                self._world.loop().call_soon_threadsafe(self._begin, known)
            return known.ticket

    @property
    def out_until(self) -> float | None:
        """POSIX time until which the endpoint has asked to be left alone; a shard that comes later is sent."""
        return self._attempts.out_until

    def progress(self, ticket: Ticket) -> Progress:
        return self._works[ticket.key].progress()

    def collect(self, ticket: Ticket) -> Iterator[Said]:
        return self._works[ticket.key].drain()

    def stop(self) -> None:
        self._world.loop().call_soon_threadsafe(self._attempts.halt, FailureKind.CANCELLED)

    def close(self) -> None:
        """Stops, gives up what is in flight (it is booked as unsettled), closes connections."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._world.run(self._close())

    # --- on the event loop ---

    def _begin(self, work: Submission) -> None:
        if self._deadline is not None and self._alarm is None:
            self._set_alarm(self._deadline)
        task = asyncio.create_task(self._serve(work))
        self._shards.add(task)
        task.add_done_callback(self._shards.discard)

    def _ring(self) -> None:
        """At the deadline, wake whoever waits; before it (the clock was set back), look again later."""
        self._alarm = None
        if self._attempts.halted is None and self._deadline is not None:
            self._set_alarm(self._deadline)

    def _set_alarm(self, deadline: datetime) -> None:
        """Ring at the deadline, or at most a minute before it for another look."""
        wait = max(0.0, min(deadline.timestamp() - self._world.time(), 60.0))
        self._alarm = asyncio.get_running_loop().call_later(wait, self._ring)

    async def _serve(self, work: Submission) -> None:
        """A shard from its first request to its last answer."""
        fault: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                async for request in _read(work.shard.requests):
                    await self._open.acquire()
                    admitted = await self._attempts.admit(work.shard, request, work.shard.first_attempt)
                    if isinstance(admitted, FailureKind):
                        self._open.release()
                        work.put(self._attempts.unsent(request, admitted))
                    else:
                        self._launch_soon(_Start(group, work, request, admitted))
                self._launch()
        except BaseExceptionGroup as faults:
            fault = faults.exceptions[0]
        except asyncio.CancelledError:
            fault = ClosedError(f"endpoint {work.shard.endpoint} was closed before its shard was done")
        except BaseException as error:  # noqa: BLE001 - raised where answers are collected
            fault = error
        try:
            self._attempts.flush()  # before anyone seals the shard's journal
        except Exception as error:  # noqa: BLE001
            fault = fault or error
        work.finish(fault)

    def _launch_soon(self, begun: _Start) -> None:
        if not self._starting:
            asyncio.get_running_loop().call_soon(self._launch)
        self._starting.append(begun)

    def _launch(self) -> None:
        """Enter all that was admitted in this turn of the loop, with one write, then send it."""
        starting, self._starting = self._starting, []
        if not starting:
            return
        try:
            self._attempts.enter([begun.admission for begun in starting])
        except Exception as error:  # noqa: BLE001 - ends each shard that is concerned
            for group in {begun.group for begun in starting}:
                group.create_task(_raise(error))
            return
        for begun in starting:
            begun.work.in_flight += 1
            begun.group.create_task(self._answer(begun.work, begun.request, begun.admission))

    async def _answer(self, work: Submission, request: Request, admission: Admission) -> None:
        try:
            work.put(await self._attempts.run(work.shard, request, admission))
        finally:
            work.in_flight -= 1
            self._open.release()

    async def _close(self) -> None:
        self._attempts.halt(FailureKind.CANCELLED)
        if self._alarm is not None:
            self._alarm.cancel()
        for task in list(self._shards):
            task.cancel()
        await asyncio.gather(*self._shards, return_exceptions=True)
        try:
            self._attempts.flush()
        finally:
            await self._transport.close()


async def _raise(error: BaseException) -> None:
    raise error


async def _read(source: RequestSource) -> AsyncIterator[Request]:
    """The requests of a source, read on another thread a few at a time."""
    iterator = iter(source)
    while lot := await asyncio.to_thread(lambda: list(islice(iterator, READ_AT_ONCE))):
        for request in lot:
            yield request
