"""One worker's place in a pool: a thread that starts its process, keeps it fed, and starts another when it dies."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol

from thirdshift.engines.core.failures import CUT_EMPTY_FACTOR, NEXT_STEP
from thirdshift.engines.core.submission import Said
from thirdshift.engines.metered.meter import Meter
from thirdshift.engines.metered.queue import QueuedRequest
from thirdshift.engines.metered.records import WorkerLifetime, WorkerRecords, asks_again, failure
from thirdshift.engines.metered.throughput import Speedometer
from thirdshift.engines.vllm.process import Gone, Place, Process, ending, options_for
from thirdshift.engines.wires.openai import Bodies
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.values import Endpoint, Failure, FailureKind, WorkerSpec

RESTARTS = 4
"""A worker that dies so often without an answer in between is given up."""
WAVES = 2
"""Requests sent to a worker, in multiples of those that vLLM runs at once: one lot at work, one waiting."""
TICK_SECONDS = 0.5
SILENCE_SECONDS = 900.0
"""A worker tells every few seconds that it lives, between the steps of its engine; no step takes so long."""
END_SECONDS = 10.0
LAST_SECOND = 1.0
"""Time that is paid for and left unused, so that the ending itself is paid too."""


class BudgetExhausted(Exception):
    """The cap leaves no more time."""


class WorkerDied(Exception):
    """A worker ended by itself, or had to be ended; the message says how and what its log says."""


@dataclass(frozen=True, slots=True)
class StartupTerms:
    startup_seconds: float
    idle_seconds: float
    """An idle worker is stopped after so long, where time costs money."""


class WorkerPool(Protocol):
    """What a worker's supervisor asks of the pool that it belongs to. Safe from any thread."""

    endpoint: Endpoint
    engine_context: EngineContext
    spec: WorkerSpec
    usd_per_hour: Decimal
    books: WorkerRecords
    bodies: Bodies
    closing: bool

    def wants(self, slot: WorkerSupervisor) -> bool: ...
    def has_work(self) -> bool: ...
    def take(self, room: int) -> list[QueuedRequest]: ...
    def give_back(self, jobs: Iterable[QueuedRequest]) -> None: ...
    def deliver(self, done: Iterable[tuple[QueuedRequest, Said]]) -> None: ...
    def broke(self, slot: WorkerSupervisor) -> None: ...
    def failed(self, fault: BaseException) -> None: ...
    def left(self, slot: WorkerSupervisor, why: str | None) -> None: ...
    def born(self, worker_id: str, pid: int) -> WorkerLifetime: ...
    def worker_id(self, number: int) -> str: ...


class WorkerSupervisor:
    """Everything but `wake`, `life` and `speed` belongs to its own thread."""

    def __init__(self, pool: WorkerPool, number: int, where: Place, run_id: str, terms: StartupTerms) -> None:
        self._pool, self._number, self._where = pool, number, where
        self._run_id, self._terms = run_id, terms
        self._process: Process | None = None
        self._jobs: dict[int, QueuedRequest] = {}
        self._next_id = 0
        self._worker_id = ""
        """Id of the process that is up."""
        self._window = 0
        self._max_num_seqs: int | None = None
        """None: as the job's options say, or vLLM itself."""
        self._deaths = 0
        """In a row, without an answer in between."""
        self._marked = 0.0
        """Where the stretch began that the next rate is measured over."""
        self.speed = Speedometer()
        self.version = ""
        self.thread = threading.Thread(target=self._run, name=f"{pool.endpoint.name} {number}", daemon=True)

    def wake(self) -> None:
        process = self._process
        if process is not None:
            process.nudge()

    # --- lives ---

    def _run(self) -> None:
        why: str | None = None
        try:
            while self._pool.wants(self):
                try:
                    self._live()
                except WorkerDied as death:
                    self._deaths += 1
                    if not self.version or self._deaths > RESTARTS:
                        why = str(death)  # one that never came up will not come up the next time either
                        break
        except BudgetExhausted:
            self._pool.broke(self)
        except BaseException as fault:  # noqa: BLE001 - raised where answers are collected
            self._pool.failed(fault)
        finally:
            self._pool.left(self, why)

    def _live(self) -> None:
        """One process from its start to its end. Raises Dead and Broke; the meter has run to the end."""
        pool = self._pool
        worker_id = self._worker_id = pool.worker_id(self._number)
        meter = Meter(
            pool.usd_per_hour,
            pool.engine_context,
            lambda amount: pool.books.overhead(self._run_id, worker_id, amount),
            minimum_seconds=60.0 * pool.spec.minimum_minutes,
        )
        while not meter.keep_up():
            if not pool.engine_context.budget.reserved_usd:
                raise BudgetExhausted
            if not pool.has_work():
                return
            time.sleep(TICK_SECONDS)
        options = options_for(pool.endpoint, pool.spec, self._max_num_seqs)
        process = self._process = Process(pool.spec.python, pool.endpoint.model, options, self._where)
        life = pool.born(worker_id, process.pid)
        patience = 0.0
        try:
            self._await_ready(process, meter, life)
            self._serve(process, meter, life)
            patience = END_SECONDS
        except Gone:
            raise WorkerDied(self._obituary(process, process.end())) from None
        finally:
            self._process = None
            process.end(0.0 if self._jobs or pool.closing else patience)
            meter.stop()
            life.stopped_at, life.cost_usd = datetime.now(UTC), meter.cost_usd
            self._lose_jobs()

    def _await_ready(self, process: Process, meter: Meter, life: WorkerLifetime) -> None:
        give_up = time.monotonic() + self._terms.startup_seconds
        while life.ready_at is None:
            if self._pool.closing:
                return
            self._pay(meter)
            for message in process.hear(TICK_SECONDS):
                self._heed(message)
                if message["op"] == "ready":
                    life.ready_at = datetime.now(UTC)
                    self._ready(message)
            if life.ready_at is None and time.monotonic() > give_up:
                said = process.last_words()
                raise WorkerDied(
                    f"endpoint {self._name}: its worker was not ready after {self._terms.startup_seconds:.0f} s; "
                    f"give it longer, or see the last lines of its log: {said}"
                )
        meter.idle()

    def _ready(self, message: Mapping[str, Any]) -> None:
        self.version = message["vllm"]
        self._window = WAVES * message["max_num_seqs"]
        self._max_num_seqs = message["max_num_seqs"]
        self._longest: int = message["max_model_len"]

    def _serve(self, process: Process, meter: Meter, life: WorkerLifetime) -> None:
        """Keep the engine fed until there is nothing more to do for it."""
        heard = idle = time.monotonic()
        while not self._pool.closing:
            self._pay(meter)
            self._feed(process, meter)
            messages = process.hear(TICK_SECONDS)
            now = time.monotonic()
            if messages or not self._jobs:
                heard = now
            if now - heard > SILENCE_SECONDS:
                raise WorkerDied(
                    f"endpoint {self._name}: its worker has said nothing for {SILENCE_SECONDS:.0f} s"
                )
            self._take_in(messages, meter)
            life.cost_usd = meter.cost_usd
            if self._jobs or not self._pool.usd_per_hour:
                idle = now
            elif now - idle > self._terms.idle_seconds:
                return

    def _pay(self, meter: Meter) -> None:
        if not meter.keep_up() and meter.seconds_left < LAST_SECOND:
            meter.idle()
            raise BudgetExhausted

    # --- requests ---

    def _feed(self, process: Process, meter: Meter) -> None:
        """Fill the wave up again when a quarter of it is through."""
        room = self._window - len(self._jobs)
        if room * 4 < self._window:
            return
        jobs = self._pool.take(room)
        if not jobs:
            return
        if not self._jobs:
            meter.idle()
            self._marked = time.monotonic()
        self._pool.books.sent(jobs, self._worker_id)
        lines: list[dict[str, Any]] = []
        for job in jobs:
            self._next_id += 1
            self._jobs[self._next_id] = job
            lines.append({"op": "ask", "id": self._next_id, **self._pool.bodies.body(job.request)})
        process.say([*lines, {"op": "go"}])

    def _take_in(self, messages: Sequence[Mapping[str, Any]], meter: Meter) -> None:
        told = [one for one in messages if one["op"] == "answer"]
        if told:
            self._answered(told, meter)
        for message in messages:
            if message["op"] == "refused":
                self._refused(message)
        for message in messages:
            self._heed(message)

    def _answered(self, told: Sequence[Mapping[str, Any]], meter: Meter) -> None:
        now = time.monotonic()
        read = sum(one["input_tokens"] - one["cached_tokens"] for one in told)
        written = sum(one["output_tokens"] for one in told)
        self.speed.add(now - self._marked, read, written)
        self._marked, self._deaths = now, 0
        jobs = [self._jobs.pop(one["id"]) for one in told]
        # a written token weighs as ten read ones: about what APIs charge for the two
        costs = meter.charge(
            [one["output_tokens"] + (one["input_tokens"] - one["cached_tokens"]) / 10 + 1 for one in told]
        )
        done = []
        for job, said in zip(jobs, self._pool.books.answered(jobs, told, costs), strict=True):
            if asks_again(job, said):
                self._again(job)
            else:
                done.append((job, said))
        self._pool.deliver(done)

    def _again(self, job: QueuedRequest) -> None:
        larger = min(job.request.max_tokens * CUT_EMPTY_FACTOR, self._longest)
        job.request = replace(job.request, max_tokens=larger)
        job.cuts += 1
        job.attempt += 1
        self._pool.give_back([job])

    def _refused(self, message: Mapping[str, Any]) -> None:
        job = self._jobs.pop(message["id"])
        said = failure(job, FailureKind(message["kind"]), f"endpoint {self._name}: {message['message']}")
        self._pool.books.failed([(job, said)], final=True)
        self._pool.deliver([(job, said)])

    def _heed(self, message: Mapping[str, Any]) -> None:
        """After out-of-memory the next process runs half as many requests at once."""
        if message["op"] == "fault" and message["kind"] == "out_of_memory" and self._max_num_seqs:
            self._max_num_seqs = max(1, self._max_num_seqs // 2)

    def _lose_jobs(self) -> None:
        """Requests that a process took with it are asked again, unless they seem to be what kills it."""
        jobs, self._jobs = list(self._jobs.values()), {}
        if not jobs:
            return
        if self._pool.closing:
            self._pool.books.failed([(job, None) for job in jobs], final=False)
            return
        again: list[tuple[QueuedRequest, Failure]] = []
        over: list[tuple[QueuedRequest, Failure]] = []
        for job in jobs:
            job.deaths += 1
            said = failure(
                job,
                FailureKind.WORKER_DIED,
                f"endpoint {self._name}: its worker ended while it answered this request",
            )
            used_up = job.deaths >= NEXT_STEP[FailureKind.WORKER_DIED].attempts
            (over if used_up else again).append((job, said))
        self._pool.books.failed(again, final=False)
        self._pool.books.failed(over, final=True)
        for job, _ in again:
            job.attempt += 1
        self._pool.give_back([job for job, _ in again])
        self._pool.deliver(over)

    # --- words ---

    @property
    def _name(self) -> str:
        return self._pool.endpoint.name

    def _obituary(self, process: Process, status: int) -> str:
        when = "at work" if self.version else "while it started"
        return (
            f"endpoint {self._name}: its worker {ending(status)} {when}; `thirdshift doctor` checks its interpreter; "
            f"the last lines of its log: {process.last_words()}"
        )
