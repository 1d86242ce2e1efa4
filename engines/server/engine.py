"""A server of the user's behind `values.Engine`: started when the plan wants it, paid by the hour, stopped in all cases.

`up` may stay in the foreground or return when it has ordered what it starts; what tells that the server is there is its
`health`. `down` is run when the night ends, when the server has been idle, and, by a guard at a pipe of ours, when this
process dies, kill -9 included. Its time is leased ahead like a local worker's (`vllm_meter`), and all of it is overhead.
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

from thirdshift.engines.core.submission import Said
from thirdshift.engines.metered.meter import Meter
from thirdshift.engines.metered.queue import ShardQueue
from thirdshift.engines.metered.records import WorkerLifetime, WorkerRecords, failure
from thirdshift.engines.metered.throughput import Rates, Speedometer
from thirdshift.engines.server.process import ServerNotUp, ServerProcess
from thirdshift.router.interfaces import Engine, EngineContext, Journal, Progress, Shard, Ticket
from thirdshift.router.values import Endpoint, Failure, FailureKind, Intent, Outcome

STARTUP_SECONDS = 1800.0
"""A cluster's queue, a machine that boots, hundreds of gigabytes from a slow disk."""
IDLE_SECONDS = 300.0
"""As for local workers: of the order of a start, which the next shard would have to pay for."""
TICK_SECONDS = 0.5
LAST_SECOND = 1.0


class CountingJournal:
    """A journal that counts the tokens in what passes through."""

    def __init__(self, journal: Journal) -> None:
        self._journal, self._lock = journal, threading.Lock()
        self.read = self.written = 0

    def sent(self, intents: Iterable[Intent]) -> None:
        self._journal.sent(intents)

    def settled(self, outcomes: Iterable[Outcome]) -> None:
        several = list(outcomes)
        self._journal.settled(several)
        used = [one.usage for one in several if one.usage is not None]
        with self._lock:
            self.read += sum(one.input_tokens - one.cached_tokens for one in used)
            self.written += sum(one.output_tokens for one in used)


class ServerEngine:
    """`values.Engine` around the engine that speaks to the server, which `make` makes of a desk."""

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
        self._speaking = make(replace(engine_context, journal=self._counting))
        self._speed = Speedometer()
        self._startup_seconds, self._idle_seconds = startup_seconds, idle_seconds
        self._usd_per_hour = endpoint.price.usd_per_hour or Decimal(0)
        self._books = WorkerRecords(endpoint, engine_context)
        self._mark = os.urandom(2).hex()
        """Marks this process's lives of the server."""
        self._changed = threading.Condition()
        self._tickets: dict[str, Ticket] = {}
        """Those that the speaking engine has."""
        self._refused: dict[str, ShardQueue] = {}
        self._collecting: set[str] = set()
        self._lives: list[WorkerLifetime] = []
        self._thread: threading.Thread | None = None
        self._ready = self._stopped = self._closing = self._broke = False
        self._dead: str | None = None
        self._fault: BaseException | None = None

    # --- values.Engine ---

    def submit(self, shard: Shard, key: str) -> Ticket:
        """Waits until the server is up."""
        with self._changed:
            if key in self._tickets or key in self._refused:
                return Ticket(shard.shard_id, key)
            self._collecting.add(key)
            while not self._ready and not self._over():
                if self._thread is None:
                    name = f"{self.endpoint.name} server"
                    self._thread = threading.Thread(
                        target=self._live, args=(shard.run_id,), name=name, daemon=True
                    )
                    self._thread.start()
                self._changed.wait()
            if self._fault is not None:
                raise self._fault
            if not self._ready:
                return self._refuse(shard, key)
            self._tickets[key] = ticket = self._speaking.submit(shard, key)
            return ticket

    def progress(self, ticket: Ticket) -> Progress:
        refused = self._refused.get(ticket.key)
        return self._speaking.progress(ticket) if refused is None else refused.progress()

    def collect(self, ticket: Ticket) -> Iterator[Said]:
        refused = self._refused.get(ticket.key)
        try:
            for said in self._speaking.collect(ticket) if refused is None else refused.drain():
                cancelled = isinstance(said, Failure) and said.kind is FailureKind.CANCELLED
                yield self._for_money(said) if cancelled and self._broke else said
        finally:
            with self._changed:
                self._collecting.discard(ticket.key)

    def stop(self) -> None:
        self._speaking.stop()
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        """Closes connections, then takes the server down."""
        self._speaking.close()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def worker_lifetimes(self) -> list[WorkerLifetime]:
        """Every time the server was up, as a worker's life."""
        return [replace(life) for life in self._lives]

    def rates(self) -> Rates | None:
        """As measured so far, over the time in which shards were under way; None before the server was up."""
        starts = [(life.ready_at - life.started_at).total_seconds() for life in self._lives if life.ready_at]
        if not starts:
            return None
        return self._speed.rates("", "server", self.endpoint.api_base or "", median(starts))

    # --- on the server's thread ---

    def _live(self, run_id: str) -> None:
        """One life of the server, however it ends."""
        name = f"{self.endpoint.name}-{self._mark}#{len(self._lives) + 1}"
        meter = Meter(
            self._usd_per_hour, self.engine_context, lambda amount: self._books.overhead(run_id, name, amount)
        )
        server, life = ServerProcess(self.endpoint, self._startup_seconds), None
        try:
            while not meter.keep_up():
                if not self.engine_context.budget.reserved_usd:
                    self._broke = True
                if self._over():
                    return
                time.sleep(TICK_SECONDS)
            server.start()
            life = self._born(name, server.pid)
            self._await_health(server, meter, life)
            self._keep(meter)
        except ServerNotUp as why:
            self._dead = str(why)
        except BaseException as fault:  # noqa: BLE001 - a full disk, or a bug of ours: raised where shards are submitted
            self._fault = fault
        finally:
            with self._changed:
                self._ready = False
            trouble = server.stop()
            self._end(meter, life, trouble)

    def _born(self, name: str, pid: int) -> WorkerLifetime:
        life = WorkerLifetime(name, self.endpoint.name, "server", pid, datetime.now(UTC), self._usd_per_hour)
        self._lives.append(life)
        return life

    def _await_health(self, server: ServerProcess, meter: Meter, life: WorkerLifetime) -> None:
        ours = self.endpoint.server is not None and self.endpoint.server.up is not None
        give_up = time.monotonic() + (self._startup_seconds if ours else 0.0)
        while not server.await_health(TICK_SECONDS):
            if self._over() or not self._paid(meter):
                return
            if time.monotonic() > give_up:
                raise server.too_late()
        with self._changed:
            life.ready_at, self._ready = datetime.now(UTC), True
            self._changed.notify_all()

    def _keep(self, meter: Meter) -> None:
        """Pay until nobody needs it: the night ends, it is idle, or the cap has no more time for it."""
        wanted, counted = time.monotonic(), (self._counting.read, self._counting.written)
        while self._ready and self._paid(meter):
            began = time.monotonic()
            with self._changed:
                self._changed.wait(TICK_SECONDS)
                now, before = time.monotonic(), counted
                counted = self._counting.read, self._counting.written
                if self._collecting or counted != before:
                    self._speed.add(now - began, counted[0] - before[0], counted[1] - before[1])
                wanted = now if self._collecting else wanted
                idle = self._usd_per_hour and now - wanted > self._idle_seconds
                if self._closing or idle:
                    self._ready = False

    def _paid(self, meter: Meter) -> bool:
        if meter.keep_up() or meter.seconds_left > LAST_SECOND:
            return True
        self._broke = True
        self._speaking.stop()
        return False

    def _end(self, meter: Meter, life: WorkerLifetime | None, trouble: str | None) -> None:
        meter.stop()
        if life is not None:
            life.stopped_at, life.cost_usd = datetime.now(UTC), meter.cost_usd
        if trouble is not None:
            print(  # noqa: T201 - nothing else is left to tell it at the end of a night
                f"endpoint {self.endpoint.name}: {trouble}; see whether the server still runs and costs money",
                file=sys.stderr,
            )
        with self._changed:
            self._thread = None
            self._changed.notify_all()

    # --- shards that reach no server ---

    def _over(self) -> bool:
        """Whether waiting for the server is in vain."""
        ended = self._closing or self._stopped or self._broke or self._late
        return ended or self._dead is not None or self._fault is not None

    @property
    def _late(self) -> bool:
        return self.engine_context.deadline is not None and datetime.now(UTC) >= self.engine_context.deadline

    def _refuse(self, shard: Shard, key: str) -> Ticket:
        work = self._refused[key] = ShardQueue(shard, key)
        jobs = list(work.pending)
        if self._dead is not None:
            said = [failure(job, FailureKind.WORKER_DIED, self._dead) for job in jobs]
            self._books.unsent(list(zip(jobs, said, strict=True)))
        else:
            late = FailureKind.DEADLINE if self._late else FailureKind.CANCELLED
            kind = FailureKind.BUDGET if self._broke else late
            said = [
                failure(job, kind, f"endpoint {self.endpoint.name}: its server is not up") for job in jobs
            ]
        work.deliver(said)
        return work.ticket

    def _for_money(self, said: Said) -> Failure:
        return Failure(
            said.row,
            said.request_id,
            FailureKind.BUDGET,
            f"endpoint {self.endpoint.name}: the cap has no more time for its server",
        )
