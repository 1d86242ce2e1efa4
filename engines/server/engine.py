"""A user's server behind `Engine`: started when the plan wants it, paid by the hour, stopped in all cases.

`up` may stay in the foreground or return when it has ordered what it starts; what tells that the server is there is its
`health`. `down` is run when the run ends, when the server has been idle, and, by a guard at a pipe of ours, when this
process dies, kill -9 included. Its time is leased ahead like a local worker's (`Meter`), and all of it is overhead.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from statistics import median

from thirdshift.engines.core.rate_limits import MAX_WINDOW
from thirdshift.engines.core.submission import Said
from thirdshift.engines.metered.idle import IDLE_SECONDS, NextWork
from thirdshift.engines.metered.meter import Meter
from thirdshift.engines.metered.queue import ShardQueue
from thirdshift.engines.metered.records import WorkerLifetime, WorkerRecords, failure
from thirdshift.engines.metered.tariff import DailyTariff
from thirdshift.engines.metered.throughput import Answered, AnswersWatch, Rates
from thirdshift.engines.server.process import ServerNotUp, ServerProcess
from thirdshift.router.interfaces import Engine, EngineContext, Journal, Progress, Shard, Ticket
from thirdshift.router.values import Endpoint, Failure, FailureKind, Intent, Outcome

STARTUP_SECONDS = 1800.0
"""A cluster's queue, a machine that boots, hundreds of gigabytes from a slow disk."""
TICK_SECONDS = 0.5
LAST_SECOND = 1.0


class CountingJournal:
    """A journal that counts the answers that pass through, and their tokens."""

    def __init__(self, journal: Journal) -> None:
        self._journal, self._lock = journal, threading.Lock()
        self.answered = Answered()

    def sent(self, intents: Iterable[Intent]) -> None:
        self._journal.sent(intents)

    def settled(self, outcomes: Iterable[Outcome]) -> None:
        settled = list(outcomes)
        self._journal.settled(settled)
        usages = [outcome.usage for outcome in settled if outcome.usage is not None]
        read = sum(usage.input_tokens - usage.cached_tokens for usage in usages)
        written = sum(usage.output_tokens for usage in usages)
        with self._lock:
            before = self.answered
            self.answered = Answered(
                before.answers + len(usages), before.read + read, before.written + written
            )


class ServerEngine:
    """An `Engine` around the one that talks to the server, which `make` makes of an engine context."""

    def __init__(
        self,
        endpoint: Endpoint,
        engine_context: EngineContext,
        make: Callable[[EngineContext], Engine],
        *,
        startup_seconds: float = STARTUP_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self.endpoint, self.engine_context = endpoint, engine_context
        self._counting = CountingJournal(engine_context.journal)
        self._inner = make(replace(engine_context, journal=self._counting))
        self._pace = AnswersWatch(endpoint.limits.concurrency or MAX_WINDOW)
        self._startup_seconds, self._idle_seconds = startup_seconds, idle_seconds
        self._usd_per_hour = endpoint.price.usd_per_hour or Decimal(0)
        self._records = WorkerRecords(endpoint, engine_context)
        self._process_mark = os.urandom(2).hex()
        """Tells the starts of the server by this process from those by others."""
        self._changed = threading.Condition()
        self._tickets: dict[str, Ticket] = {}
        """Tickets of the inner engine."""
        self._refused: dict[str, ShardQueue] = {}
        self._collecting: set[str] = set()
        self._lifetimes: list[WorkerLifetime] = []
        self._thread: threading.Thread | None = None
        self._ready = self._stopped = self._closing = self._budget_exhausted = False
        self._start_failure: str | None = None
        self._next_work = NextWork()
        self._fault: BaseException | None = None

    # --- the Engine interface ---

    def keep_idle(self, *, kept: bool) -> None:
        """Say whether something may come soon for an idle server; else it is stopped after a short break."""
        self._next_work.tell(expected=kept)

    def submit(self, shard: Shard, key: str) -> Ticket:
        """Wait until the server is up, then hand the shard on; without a server its requests fail."""
        with self._changed:
            if key in self._tickets or key in self._refused:
                return Ticket(shard.shard_id, key)
            self._collecting.add(key)
            while not self._ready and not self._given_up():
                if self._thread is None:
                    name = f"{self.endpoint.name} server"
                    self._thread = threading.Thread(
                        target=self._run_server, args=(shard.run_id,), name=name, daemon=True
                    )
                    self._thread.start()
                self._changed.wait()
            if self._fault is not None:
                raise self._fault
            if not self._ready:
                return self._refuse(shard, key)
            self._tickets[key] = ticket = self._inner.submit(shard, key)
            return ticket

    def progress(self, ticket: Ticket) -> Progress:
        refused = self._refused.get(ticket.key)
        return self._inner.progress(ticket) if refused is None else refused.progress()

    def collect(self, ticket: Ticket) -> Iterator[Said]:
        refused = self._refused.get(ticket.key)
        try:
            for reply in self._inner.collect(ticket) if refused is None else refused.drain():
                cancelled = isinstance(reply, Failure) and reply.kind is FailureKind.CANCELLED
                yield self._for_money(reply) if cancelled and self._budget_exhausted else reply
        finally:
            with self._changed:
                self._collecting.discard(ticket.key)

    def stop(self) -> None:
        self._inner.stop()
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        """Close connections, then take the server down."""
        self._inner.close()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def worker_lifetimes(self) -> list[WorkerLifetime]:
        """Every start of the server, as a worker's lifetime."""
        return [replace(lifetime) for lifetime in self._lifetimes]

    def rates(self) -> Rates | None:
        """Return the speed measured while shards were under way; None before the server was up."""
        startups = [lifetime.startup_seconds for lifetime in self._lifetimes]
        starts = [seconds for seconds in startups if seconds is not None]
        if not starts:
            return None
        return self._pace.speed.rates("", "server", self.endpoint.api_base or "", median(starts))

    # --- on the server's thread ---

    def _run_server(self, run_id: str) -> None:
        """Start the server, keep it, and take it down however that ends."""
        name = f"{self.endpoint.name}-{self._process_mark}#{len(self._lifetimes) + 1}"
        meter = Meter(
            self._usd_per_hour,
            self.engine_context,
            lambda amount: self._records.overhead(run_id, name, amount),
            tariff=DailyTariff(self.endpoint.price, time.monotonic) if self.endpoint.price.off_peak else None,
        )
        server, lifetime = ServerProcess(self.endpoint, self._startup_seconds), None
        try:
            while not meter.keep_up():
                if not self.engine_context.budget.reserved_usd:
                    self._budget_exhausted = True
                if self._given_up():
                    return
                time.sleep(TICK_SECONDS)
            server.start()
            lifetime = self._worker_started(name, server.pid)
            self._await_health(server, meter, lifetime)
            self._keep(meter, lifetime)
        except ServerNotUp as why:
            self._start_failure = str(why)
        except BaseException as error:  # noqa: BLE001 - a full disk, or a bug of ours: raised where shards are submitted
            self._fault = error
        finally:
            with self._changed:
                self._ready = False
            trouble = server.stop()
            self._end(meter, lifetime, trouble)

    def _worker_started(self, name: str, pid: int) -> WorkerLifetime:
        lifetime = WorkerLifetime(
            name, self.endpoint.name, "server", pid, datetime.now(UTC), self._usd_per_hour
        )
        self._lifetimes.append(lifetime)
        return lifetime

    def _await_health(self, server: ServerProcess, meter: Meter, lifetime: WorkerLifetime) -> None:
        ours = self.endpoint.server is not None and self.endpoint.server.up is not None
        give_up = time.monotonic() + (self._startup_seconds if ours else 0.0)
        while not server.await_health(TICK_SECONDS):
            meter.idle()  # else each lease would reserve the whole start anew
            if self._given_up() or not self._paid(meter):
                return
            if time.monotonic() > give_up:
                raise server.too_late()
        with self._changed:
            lifetime.ready_at, self._ready = datetime.now(UTC), True
            self._changed.notify_all()

    def _keep(self, meter: Meter, lifetime: WorkerLifetime) -> None:
        """Pay until nobody needs it: the run ends, it is idle, or the cap has no more time for it."""
        wanted = time.monotonic()
        self._pace.told(wanted, self._counting.answered, 0, 0)
        while self._ready and self._paid(meter):
            with self._changed:
                self._changed.wait(TICK_SECONDS)
                now = time.monotonic()
                self._measure(now)
                wanted = now if self._collecting else wanted
                start, left = lifetime.startup_seconds, meter.minimum_left
                idle = self._usd_per_hour and self._next_work.is_late(wanted, start, left, self._idle_seconds)
                if self._closing or idle:
                    self._ready = False

    def _measure(self, now: float) -> None:
        """Take in what was answered since the last look."""
        under_way = self._collecting & self._tickets.keys()
        progress = [self._inner.progress(self._tickets[key]) for key in under_way]
        running = sum(one.in_flight for one in progress)
        waiting = sum(one.total - one.done for one in progress) - running
        self._pace.told(now, self._counting.answered, running, waiting)

    def _paid(self, meter: Meter) -> bool:
        if meter.keep_up() or meter.seconds_left > LAST_SECOND:
            return True
        self._budget_exhausted = True
        self._inner.stop()
        return False

    def _end(self, meter: Meter, lifetime: WorkerLifetime | None, trouble: str | None) -> None:
        meter.stop()
        if lifetime is not None:
            lifetime.stopped_at, lifetime.cost_usd = datetime.now(UTC), meter.cost_usd
        if trouble is not None:
            print(  # noqa: T201 - nothing else is left to say it at the end of a run
                f"endpoint {self.endpoint.name}: {trouble}; see whether the server still runs and costs money",
                file=sys.stderr,
            )
        with self._changed:
            self._thread = None
            self._changed.notify_all()

    # --- shards that reach no server ---

    def _given_up(self) -> bool:
        """Whether the server will not come up any more, or is not wanted."""
        ended = self._closing or self._stopped or self._budget_exhausted or self._past_deadline
        return ended or self._start_failure is not None or self._fault is not None

    @property
    def _past_deadline(self) -> bool:
        return self.engine_context.deadline is not None and datetime.now(UTC) >= self.engine_context.deadline

    def _refuse(self, shard: Shard, key: str) -> Ticket:
        queue = self._refused[key] = ShardQueue(shard, key)
        pending = list(queue.pending)
        if self._start_failure is not None:
            replies = [failure(queued, FailureKind.WORKER_DIED, self._start_failure) for queued in pending]
            self._records.unsent(list(zip(pending, replies, strict=True)))
        else:
            late = FailureKind.DEADLINE if self._past_deadline else FailureKind.CANCELLED
            kind = FailureKind.BUDGET if self._budget_exhausted else late
            replies = [
                failure(queued, kind, f"endpoint {self.endpoint.name}: its server is not up")
                for queued in pending
            ]
        queue.deliver(replies)
        return queue.ticket

    def _for_money(self, reply: Said) -> Failure:
        return Failure(
            reply.row,
            reply.request_id,
            FailureKind.BUDGET,
            f"endpoint {self.endpoint.name}: the cap has no more time for its server",
        )
