"""Shards in real time: each request sent when limits and money allow, in order; answers as they come."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
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
READ_AT_ONCE = 256
"""Requests read from disk per hop to a reading thread."""


@dataclass(slots=True)
class _Start:
    """An admitted request, about to be entered in the journal and sent."""

    senders: _Senders
    request: Request
    admission: Admission


class _Senders:
    """A shard's tasks, as many as are in flight at once; each sends one request after the other, since a new task for each
    takes a thirtieth of its time."""

    def __init__(
        self, group: asyncio.TaskGroup, answer: Callable[[Request, Admission], Awaitable[None]]
    ) -> None:
        self.group, self._answer = group, answer
        self._idle: list[asyncio.Future[_Start | None]] = []
        self._over = False

    def send(self, start: _Start) -> None:
        """Have a task that waits for one send a request, or a new task."""
        if self._idle:
            self._idle.pop().set_result(start)
        else:
            self.group.create_task(self._work(start))

    def dismiss(self) -> None:
        """End each task when it has nothing to send any more: no request follows."""
        self._over = True
        for waiting in self._idle:
            waiting.set_result(None)

    async def _work(self, start: _Start | None) -> None:
        while start is not None:
            await self._answer(start.request, start.admission)
            if self._over:
                return
            waiting = asyncio.get_running_loop().create_future()
            self._idle.append(waiting)
            start = await waiting


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
                senders = _Senders(group, partial(self._answer, work))
                async for request in _read(work.shard.requests):
                    await self._open.acquire()
                    admitted = await self._attempts.admit(work.shard, request, work.shard.first_attempt)
                    if isinstance(admitted, FailureKind):
                        self._open.release()
                        work.put(self._attempts.unsent(request, admitted))
                    else:
                        self._launch_soon(_Start(senders, request, admitted))
                self._launch()
                senders.dismiss()
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
            for senders in {begun.senders for begun in starting}:
                senders.group.create_task(_raise(error))
            return
        for begun in starting:
            begun.senders.send(begun)

    async def _answer(self, work: Submission, request: Request, admission: Admission) -> None:
        work.in_flight += 1
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
