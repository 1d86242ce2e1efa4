"""Providers in virtual time: engines that answer as the draw says and let no real second pass.

What is emulated is the far side of the engine's interface: when an answer comes, how long it is, whether it is right, what
is found in a cache, when a batch returns, how fast a worker is. What an attempt reserves and costs, the journal, the
budget, the meter of a worker's time and all that is above engines are the build's own.
"""

from __future__ import annotations

import heapq
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any

import numpy as np

from drawn import build
from drawn.clock import CLOCK
from drawn.draw import NOISE, Draw, Night, TrueEndpoint

V = build.values
CHUNK_SECONDS = 15.0
AT_ONCE = 32


class World:
    """The truth of one night, and what happens when."""

    def __init__(self, draw: Draw, night: Night, number: int) -> None:
        self.night, self.rng = night, np.random.default_rng([draw.seed, 50 + number])
        self.truth = {end.name: (place, end) for place, end in enumerate(draw.endpoints)}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self.submitted = threading.Semaphore(0)
        self.played = threading.Event()
        self.engines: list[VirtualEngine] = []
        self.last_answer = 0.0

    def at(self, seconds: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(seconds, CLOCK.now), next(self._numbers), happens))

    def play(self) -> None:
        """Let happen what happens until nothing more is under way."""
        for engine in self.engines:
            engine.wake()
        while self._events:
            CLOCK.now, _, happens = heapq.heappop(self._events)
            happens()
            for engine in self.engines:
                engine.wake()

    def engine_for(self, endpoint: Any, desk: Any) -> VirtualEngine:
        place, true = self.truth[endpoint.name]
        kind = {"realtime": RealtimeEngine, "batch": BatchEngine, "workers": WorkersEngine}[true.kind]
        engine = kind(self, endpoint, desk, place, true)
        self.engines.append(engine)
        return engine

    def send(self, run: Any, shards: Any) -> None:
        """In the place of the build's own: all shards are taken in, played, and land."""
        with run.sending(shards):
            self.played.clear()
            threads = [
                threading.Thread(target=build.dispatcher_of(run).answer, args=(shard.shard_id,), daemon=True)
                for shard in shards
            ]
            for thread in threads:
                thread.start()
                self.submitted.acquire()
            self.play()
            self.played.set()
            for thread, shard in zip(threads, shards, strict=True):
                thread.join()
                run.land(shard, None)


class VirtualEngine:
    """`Engine` of the build. Subclasses say how requests go through."""

    def __init__(self, world: World, endpoint: Any, desk: Any, place: int, true: TrueEndpoint) -> None:
        self.world, self.endpoint, self.desk, self.place, self.true = world, endpoint, desk, place, true
        self.money = build.money_of(desk)
        self.records = build.Records(endpoint)
        self.pending: deque[tuple[Any, Any]] = deque()
        self.replies: dict[str, list[Any]] = {}
        self.halted: Any = None

    # --- the interface ---

    def submit(self, shard: Any, key: str) -> Any:
        self.pending.extend((shard, request) for request in shard.requests)
        self.replies[shard.shard_id] = []
        return build.interfaces.Ticket(shard.shard_id, key)

    def progress(self, ticket: Any) -> Any:
        return build.interfaces.Progress(
            len(self.replies[ticket.shard_id]), len(self.replies[ticket.shard_id])
        )

    def collect(self, ticket: Any) -> Iterator[Any]:
        self.world.submitted.release()
        self.world.played.wait()
        yield from self.replies[ticket.shard_id]

    def stop(self) -> None:
        self.halted = V.FailureKind.CANCELLED

    def close(self) -> None:
        self.stop()

    # --- what they share ---

    def wake(self) -> None:
        """Something has happened; see what can be sent."""

    @property
    def late(self) -> bool:
        return self.desk.deadline is not None and CLOCK.now >= self.desk.deadline.timestamp()

    @property
    def deadline(self) -> float:
        return float("inf") if self.desk.deadline is None else self.desk.deadline.timestamp()

    def fail_pending(self, kind: Any) -> None:
        self.halted = kind
        while self.pending:
            shard, request = self.pending.popleft()
            self.replies[shard.shard_id].append(V.Failure(request.row, request.request_id, kind, "not sent"))

    def tokens(self, request: Any) -> tuple[int, int, bool]:
        """Input, output, whether it is right."""
        night, row = self.world.night, int(request.request_id.rpartition("-")[2])
        return (round(night.input_tokens[row, self.place]), int(night.output_tokens[row, self.place]),
                bool(night.right[row, self.place]))  # fmt: skip

    def intent_of(self, shard: Any, request: Any, reserved: Decimal) -> Any:
        return self.records.intent(shard, request, 1, reserved, self.tokens(request)[0])

    def answer_of(self, request: Any) -> tuple[Any, Any]:
        """(the reply, the answer)"""
        read, written, right = self.tokens(request)
        usage = V.Usage(read, written, cached_tokens=self.cached(read))
        text = "right" if right else "wrong"
        cut = "length" if written >= request.max_tokens else "stop"
        answer = V.Answer(request.row, request.request_id, text, cut)
        return build.Reply(text=text, finish_reason=cut, usage=usage), answer

    def cached(self, read: int) -> int:  # noqa: ARG002 - for those that have a cache
        return 0

    def settle(self, shard: Any, request: Any, intent: Any) -> None:
        reply, answer = self.answer_of(request)
        outcome = self.records.outcome(intent, reply, answer, True)
        self.desk.journal.settled([outcome])
        self.money.settle(intent.reserved_usd, outcome.cost_usd)
        self.replies[shard.shard_id].append(answer)
        self.world.last_answer = max(self.world.last_answer, CLOCK.now)


class RealtimeEngine(VirtualEngine):
    """So many at a time, each for its own time; requests a minute are spread evenly."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.in_flight, self.next_start, self.calls = 0, 0.0, 0

    def wake(self) -> None:
        while self.pending and self.in_flight < self.true.concurrency:
            if self.halted or self.late:
                return self.fail_pending(self.halted or V.FailureKind.DEADLINE)
            rpm = self.endpoint.limits.rpm
            if rpm and CLOCK.now < self.next_start:
                return self.world.at(self.next_start, lambda: None) if self.in_flight == 0 else None
            shard, request = self.pending[0]
            reserved = self.records.worst_case(request)
            if not self.money.reserve(reserved):
                return self.fail_pending(V.FailureKind.BUDGET) if not self.money.reserved_usd else None
            self.pending.popleft()
            if rpm:
                self.next_start = max(self.next_start, CLOCK.now) + 60.0 / rpm
                if self.in_flight + 1 < self.true.concurrency:
                    self.world.at(self.next_start, lambda: None)
            self._start(shard, request, reserved)
        return None

    def _start(self, shard: Any, request: Any, reserved: Decimal) -> None:
        intent = self.intent_of(shard, request, reserved)
        self.desk.journal.sent([intent])
        self.in_flight += 1
        seconds = self.true.first_seconds + self.true.seconds_per_token * self.tokens(request)[1]
        seconds *= float(np.exp(self.world.rng.normal(-(NOISE**2) / 2, NOISE)))

        def done() -> None:
            self.in_flight -= 1
            self.calls += 1
            self.settle(shard, request, intent)

        self.world.at(CLOCK.now + seconds, done)

    def cached(self, read: int) -> int:
        shared = self.world.night.shared_tokens
        if shared < 1024 or not self.calls or self.world.rng.random() >= self.true.hit_rate:
            return 0
        return min(shared // 128 * 128, read)


class BatchEngine(VirtualEngine):
    """Batches as large as may be enqueued; each comes back whole, within the turnaround that is stated."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.enqueued, self.placed = 0, False

    def wake(self) -> None:
        if not self.pending:
            return None
        if self.halted or self.late:
            return self.fail_pending(self.halted or V.FailureKind.DEADLINE)
        if self.placed and build.too_late(self.deadline - CLOCK.now, self.endpoint.turnaround_seconds):
            return self.fail_pending(V.FailureKind.EXPIRED)
        self.placed = True
        most = self.endpoint.limits.enqueued_tokens or float("inf")
        held: list[tuple[Any, Any, Any]] = []
        size = 0
        while self.pending:
            shard, request = self.pending[0]
            more = self.tokens(request)[0]
            if (held or self.enqueued) and self.enqueued + size + more > most:
                break
            reserved = self.records.worst_case(request)
            if not self.money.reserve(reserved):
                break
            self.pending.popleft()
            held.append((shard, request, self.intent_of(shard, request, reserved)))
            size += more
        if not held:
            if not self.money.reserved_usd and not self.enqueued:
                self.fail_pending(V.FailureKind.BUDGET)
            return None
        self.desk.journal.sent([intent for _, _, intent in held])
        self.enqueued += size
        back = CLOCK.now + self.true.turnaround_seconds * float(self.world.rng.uniform(0.6, 1.0))
        if back > self.deadline:
            self.world.at(self.deadline, lambda: self._cancelled(held, size))
        else:
            self.world.at(back, lambda: self._back(held, size))
        return None

    def _back(self, held: list[tuple[Any, Any, Any]], size: int) -> None:
        self.enqueued -= size
        for shard, request, intent in held:
            self.settle(shard, request, intent)

    def _cancelled(self, held: list[tuple[Any, Any, Any]], size: int) -> None:
        self.enqueued -= size
        for shard, request, intent in held:
            failure = V.Failure(
                request.row, request.request_id, V.FailureKind.EXPIRED, "the batch was cancelled"
            )
            reply = build.Reply(kind=V.FailureKind.EXPIRED, message="cancelled", unbilled=True)
            outcome = self.records.outcome(intent, reply, failure, True)
            self.desk.journal.settled([outcome])
            self.money.settle(intent.reserved_usd, outcome.cost_usd)
            self.replies[shard.shard_id].append(failure)


class Worker:
    """One that is up, with the build's own meter."""

    def __init__(self, engine: WorkersEngine, run_id: str, number: int) -> None:
        end = engine.endpoint
        self.engine, self.run_id, self.busy, self.idle_since = engine, run_id, True, 0.0
        self.taken: list[tuple[Any, Any]] = []
        self.lifetime = build.Lifetime(
            f"{end.name}-{number}", end.name, "cpu", os.getpid(), datetime.fromtimestamp(CLOCK.now, UTC),
            end.price.usd_per_hour or Decimal(0),
        )  # fmt: skip
        self.meter = build.Meter(
            end.price.usd_per_hour or Decimal(0), engine.desk, self._overhead,
            minimum_seconds=60 * end.workers.minimum_minutes, clock=lambda: CLOCK.now,
        )  # fmt: skip

    def _overhead(self, reserved_usd: Decimal) -> Any:
        return self.engine.meter_intent(self.run_id, reserved_usd, self.lifetime.worker_id)

    @property
    def minimum_left(self) -> float:
        """Seconds that are paid anyway."""
        return getattr(self.meter, "minimum_left", 0.0)

    def stop(self) -> None:
        self.meter.stop()
        self.lifetime.stopped_at = datetime.fromtimestamp(CLOCK.now, UTC)
        self.lifetime.cost_usd = self.meter.cost_usd


class WorkersEngine(VirtualEngine):
    """Workers that start, answer in stretches, and are paid by the build's meter."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.workers: list[Worker] = []
        self.all: list[Worker] = []
        self.planned: int | None = None
        self.kept, self.told_at = True, 0.0
        self.worked = self.read = self.written = 0.0

    def plan_workers(self, count: int) -> None:
        self.planned = count
        if count == 0:
            for worker in [worker for worker in self.workers if not worker.busy and worker.minimum_left <= 0]:
                self._end(worker)

    def keep_idle(self, *, kept: bool) -> None:
        self._retire_idle()
        if kept != self.kept:
            self.kept, self.told_at = kept, CLOCK.now

    def close(self) -> None:
        self._retire_idle()
        for worker in list(self.workers):
            self._end(worker)
        super().close()

    def worker_lifetimes(self) -> list[Any]:
        self._retire_idle()  # a real one is stopped when its time is over, whether or not somebody asks
        return [worker.lifetime for worker in self.all]

    lives = worker_lifetimes

    def rates(self) -> Any:
        if not self.all:
            return None
        true = self.true
        return build.Rates(
            true.prefill, true.decode, True, self.worked, int(self.read), int(self.written), "0.32",
            "cpu", build.hardware(self.endpoint.workers), true.startup_seconds,
        )  # fmt: skip

    def wake(self) -> None:
        if not self.pending:
            return None
        if self.halted or self.late:
            return self.fail_pending(self.halted or V.FailureKind.DEADLINE)
        self._retire_idle()
        worth = -(-len(self.pending) // 64) if self.planned is None else max(self.planned, 1)
        wanted = min(self.endpoint.workers.workers, worth, len(self.pending) + len(self.workers))
        while len(self.workers) < wanted and not self.halted and self._begin():
            pass
        for worker in list(self.workers):
            if not worker.busy and self.pending:
                self._stretch(worker)
        return None

    def _retire_idle(self) -> None:
        """Those that were idle for longer than a worker is kept were stopped back then."""
        for worker in [worker for worker in self.workers if not worker.busy]:
            kept = build.idle_seconds(self.true.startup_seconds, worker.minimum_left, expected=self.kept)
            since = worker.idle_since if self.kept else max(worker.idle_since, self.told_at)
            if CLOCK.now - since > kept:
                now, CLOCK.now = CLOCK.now, since + kept
                self._end(worker)
                CLOCK.now = now

    def _begin(self) -> bool:
        """Start a worker. Returns False where the cap has no room for its time."""
        worker = Worker(self, self.pending[0][0].run_id, len(self.all))
        if not worker.meter.keep_up():
            if not self.workers:
                self.fail_pending(V.FailureKind.BUDGET)
            return False
        self.workers.append(worker)
        self.all.append(worker)

        def ready() -> None:
            worker.lifetime.ready_at = datetime.fromtimestamp(CLOCK.now, UTC)
            worker.meter.idle()
            self._free(worker)

        self._through(worker, CLOCK.now + self.true.startup_seconds, ready)
        return True

    def _through(self, worker: Worker, until: float, then: Callable[[], None]) -> None:
        """Keep the meter up until then, a lease at a time."""
        if not worker.taken:
            worker.meter.idle()
        if not worker.meter.keep_up() and worker.meter.seconds_left < 1.0:
            self.pending.extendleft(worker.taken)
            self._end(worker)
            if not self.workers:
                self.fail_pending(V.FailureKind.BUDGET)
            return
        step = max(min(worker.meter.seconds_left - 3.0, until - CLOCK.now), 0.5)
        if until <= CLOCK.now + step:
            self.world.at(until, then)
        else:
            self.world.at(CLOCK.now + step, lambda: self._through(worker, until, then))

    def _free(self, worker: Worker) -> None:
        worker.busy, worker.idle_since, worker.taken = False, CLOCK.now, []

    def _stretch(self, worker: Worker) -> None:
        fair = -(-len(self.pending) // max(len(self.workers), 1))
        taken: list[tuple[Any, Any, Any]] = []
        seconds = 0.0
        while self.pending and len(taken) < min(AT_ONCE, fair) and seconds < CHUNK_SECONDS:
            shard, request = self.pending.popleft()
            read, written, _ = self.tokens(request)
            seconds += read / self.true.prefill + written / self.true.decode
            taken.append((shard, request, self._intent(shard.run_id, Decimal(0), shard, request)))
        self.desk.journal.sent([intent for _, _, intent in taken])
        worker.busy, worker.taken = True, [(shard, request) for shard, request, _ in taken]

        def done() -> None:
            weights = [sum(self.tokens(request)[:2]) for _, request, _ in taken]
            for (shard, request, intent), cost in zip(taken, worker.meter.charge(weights), strict=True):
                reply, answer = self.answer_of(request)
                self.desk.journal.settled([V.Outcome(
                    intent.entry_id, V.LedgerStatus.SETTLED, cost, datetime.fromtimestamp(CLOCK.now, UTC),
                    reply.usage, self.endpoint.model, reply=answer,
                )])  # fmt: skip
                self.replies[shard.shard_id].append(answer)
                self.read, self.written = (
                    self.read + reply.usage.input_tokens,
                    self.written + reply.usage.output_tokens,
                )
            self.worked += seconds
            self.world.last_answer = max(self.world.last_answer, CLOCK.now)
            self._free(worker)

        self._through(worker, CLOCK.now + seconds, done)

    def _end(self, worker: Worker) -> None:
        self.workers.remove(worker)
        worker.stop()

    def meter_intent(self, run_id: str, reserved: Decimal, worker_id: str) -> Any:
        return self._intent(run_id, reserved, None, None, worker_id)

    def _intent(self, run_id: str, reserved: Decimal, shard: Any, request: Any, worker_id: str = "") -> Any:
        end = self.endpoint
        return V.Intent(
            entry_id=os.urandom(16).hex(),
            run_id=run_id,
            shard_id=None if shard is None else shard.shard_id,
            row=None if request is None else request.row,
            request_id=None if request is None else request.request_id,
            endpoint=end.name,
            model=end.model,
            provider=end.provider,
            mode=end.mode,
            purpose=V.Purpose.OVERHEAD if shard is None else shard.purpose,
            attempt=1,
            reserved_usd=reserved,
            started_at=datetime.fromtimestamp(CLOCK.now, UTC),
            price_id=build.price_id(end, end.price.base),
            region=end.facts.region,
            provider_ref=worker_id or None,
        )
