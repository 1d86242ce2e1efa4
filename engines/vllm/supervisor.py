"""The supervisor of one worker: a thread that starts its process, keeps it fed, and starts another when it dies."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from thirdshift.engines.core.failures import CUT_EMPTY_FACTOR, NEXT_STEP
from thirdshift.engines.core.submission import Said
from thirdshift.engines.metered.billing import WorkerBilling
from thirdshift.engines.metered.idle import NextWork, StartupTerms
from thirdshift.engines.metered.node import WorkerMeter
from thirdshift.engines.metered.queue import QueuedRequest
from thirdshift.engines.metered.records import WorkerLifetime, WorkerRecords, asks_again, failure
from thirdshift.engines.metered.throughput import PaceWatch, Speedometer
from thirdshift.engines.vllm.deaths import BudgetExhausted, NeverReady, NoPlace, WorkerDied, WorkerLost, death
from thirdshift.engines.vllm.engine_log import EngineFault, EngineLog, FaultKind
from thirdshift.engines.vllm.process import Place, ProcessEnded, WorkerProcess
from thirdshift.engines.vllm.sizing import Sizing, options_for
from thirdshift.engines.wires.openai import Bodies
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.values import Endpoint, Failure, FailureKind, WorkerSpec

RESTARTS = 4
"""A worker that dies so often without an answer in between is given up."""
STARTS = 2
"""A worker that never came up is given up after so many: a second start may find the memory free, or needs less of it."""
WAVES = 2
"""Requests sent to a worker, in multiples of those that vLLM runs at once: one lot at work, one waiting."""
TICK_SECONDS = 0.5
SILENCE_SECONDS = 900.0
"""A worker sends a sign of life every few seconds, between the steps of its engine; no step takes so long."""
WANTED_SECONDS = 5.0
"""An idle worker gives its devices to another model that waits for them after so long: its next shard is a moment away, or
the others' turn has come."""
JOULES_PER_KWH = 3.6e6
END_SECONDS = 10.0
BLOCK_ENDS_SECONDS = END_SECONDS + 5.0
"""A worker that has nothing to do ends so long before another started hour is paid for: ending takes time too."""
LAST_SECOND = 1.0
"""Time that is paid for and left unused, so that the ending itself is paid too."""


class WorkerPool(Protocol):
    """What a worker's supervisor asks of the pool that it belongs to. Safe from any thread."""

    endpoint: Endpoint
    engine_context: EngineContext
    spec: WorkerSpec
    records: WorkerRecords
    billing: WorkerBilling
    bodies: Bodies
    closing: bool
    next_work: NextWork

    def find_place(self, supervisor: WorkerSupervisor, worker_id: str) -> Place | None: ...
    def unplanned(self, supervisor: WorkerSupervisor) -> bool: ...
    @property
    def usd_per_hour(self) -> Decimal: ...
    def surplus(self, supervisor: WorkerSupervisor) -> bool: ...
    def wants(self, supervisor: WorkerSupervisor) -> bool: ...
    def has_work(self) -> bool: ...
    def take(self, room: int) -> list[QueuedRequest]: ...
    def give_back(self, requests: Iterable[QueuedRequest]) -> None: ...
    def deliver(self, done: Iterable[tuple[QueuedRequest, Said]]) -> None: ...
    def budget_exhausted(self, supervisor: WorkerSupervisor) -> None: ...
    def failed(self, error: BaseException) -> None: ...
    def worker_gone(self, supervisor: WorkerSupervisor, why: str | None) -> None: ...
    def worker_started(self, worker_id: str, pid: int, place: Place) -> WorkerLifetime: ...
    def worker_failed(self, place: Place, fault: EngineFault) -> None: ...
    def usual_seqs(self) -> int: ...
    def wanted_by_others(self) -> bool: ...
    def worker_id(self, number: int) -> str: ...


class WorkerSupervisor:
    """Starts and feeds one worker; everything but `wake`, `up` and `speeds` belongs to its own thread."""

    def __init__(self, pool: WorkerPool, number: int, run_id: str, terms: StartupTerms) -> None:
        self._pool, self.number = pool, number
        self.run_id, self._terms = run_id, terms
        self._process: WorkerProcess | None = None
        self._in_flight: dict[int, QueuedRequest] = {}
        self._next_id = 0
        self._worker_id = ""
        """Id of the process that is up."""
        self._window = 0
        self._running = 0
        """Requests that the engine runs at once; 0: it has not said so yet."""
        self._sizing = Sizing()
        """What the next process is asked to hold otherwise than the job says."""
        self._fault: EngineFault | None = None
        """What the worker itself said of its end."""
        self._deaths = 0
        """In a row, without an answer in between."""
        self._marked = 0.0
        """Where the stretch began that the next rate is measured over."""
        self.speeds: dict[str, Speedometer] = {}
        """By what the processes ran on."""
        self._speed = Speedometer()
        """What the process that is up is measured with."""
        self._pace: PaceWatch | None = None
        """Takes the engine's counters in; None: answers tell of tokens."""
        self._leaving = False
        """What the process runs on is about to go: it is given nothing more."""
        self.version = ""
        self.thread = threading.Thread(target=self._run, name=f"{pool.endpoint.name} {number}", daemon=True)

    def wake(self) -> None:
        """Let the thread look at once whether there is something to do."""
        process = self._process
        if process is not None:
            process.wake_reader()

    @property
    def up(self) -> bool:
        """Whether a process is there, starting or at work."""
        return self._process is not None

    # --- processes ---

    def _run(self) -> None:
        why: str | None = None
        try:
            while self._pool.wants(self):
                try:
                    self._run_process()
                except NoPlace as nowhere:
                    why = str(nowhere)
                    break
                except WorkerDied as died:
                    self._deaths += 1
                    if not self._starts_again(died):
                        why = str(died)
                        break
        except BudgetExhausted:
            self._pool.budget_exhausted(self)
        except BaseException as error:  # noqa: BLE001 - raised where answers are collected
            self._pool.failed(error)
        finally:
            self._pool.worker_gone(self, why)

    def _run_process(self) -> None:
        """Run one process from its start to its end, the meter with it. Raises NoPlace, WorkerDied and BudgetExhausted."""
        pool = self._pool
        worker_id = self._worker_id = pool.worker_id(self.number)
        place = pool.find_place(self, worker_id)
        if place is None:
            return
        meter = pool.billing.meter(  # time is paid from here on, where a place was waited for too
            self.run_id, worker_id, node=place.node, rented=place.rented, began=place.found_at
        )
        if not meter.keep_up():
            meter.stop()
            place.release()
            self._await_money(meter.least_usd)
            return
        options, log = (
            options_for(pool.endpoint, pool.spec, self._sizing, text_only=pool.engine_context.text_only),
            EngineLog(self._log_path(worker_id)),
        )
        process = self._process = place.start(pool.endpoint.model, options, log)
        lifetime = pool.worker_started(worker_id, process.pid, place)
        drawn = place.joules() if pool.spec.usd_per_kwh is not None else None
        self._speed = self.speeds.setdefault(place.hardware, Speedometer())
        self._leaving, self._fault, self._pace = False, None, None
        patience = 0.0
        try:
            self._await_ready(process, meter, lifetime, log)
            self._serve(process, meter, lifetime)
            patience = END_SECONDS
        except ProcessEnded as ended:
            how = process.end()
            self._learn(place, log)
            raise death(self._name, how, log, was_ready=lifetime.ready_at is not None) from ended
        finally:
            self._process = None
            process.end(0.0 if self._in_flight or pool.closing else patience)
            log.close()
            meter.stop()
            self._close_books(lifetime, meter, place, drawn)
            self._lose_jobs()

    @staticmethod
    def _close_books(lifetime: WorkerLifetime, meter: WorkerMeter, place: Place, drawn: float | None) -> None:
        """Note what a worker has cost that has ended. `drawn`: joules of its devices when it began."""
        now, left = datetime.now(UTC), meter.minimum_left
        lifetime.stopped_at, lifetime.cost_usd = now, meter.cost_usd
        if left > 0:
            lifetime.paid_until = now + timedelta(seconds=left)
        after = None if drawn is None else place.joules()
        if drawn is not None and after is not None:
            lifetime.energy_kwh = max(0.0, after - drawn) / JOULES_PER_KWH

    def _starts_again(self, died: WorkerDied) -> bool:
        """Whether another process is started after this death. What one ran on being gone says nothing of the next."""
        came_up = bool(self.version) or isinstance(died.__cause__, WorkerLost)
        return self._deaths <= RESTARTS and not died.final and (came_up or self._deaths < STARTS)

    def _learn(self, place: Place, log: EngineLog) -> None:
        """Take from what an engine said when it failed what the next one needs."""
        fault = log.fault() or self._fault
        if fault is not None:
            self._sizing = self._sizing.smaller(fault, self._running or self._pool.usual_seqs())
            self._pool.worker_failed(place, fault)

    def _log_path(self, worker_id: str) -> Path | None:
        folder = self._pool.engine_context.keep
        return None if folder is None else folder / "workers" / f"{worker_id.replace('#', '.')}.log"

    def _await_money(self, amount: Decimal) -> None:
        """Wait until the cap has room for a worker's first lease, or nothing is left to do. Raises BudgetExhausted."""
        budget = self._pool.engine_context.budget
        while not budget.reserve(amount):
            if not budget.reserved_usd:
                raise BudgetExhausted
            if not self._pool.has_work():
                return
            time.sleep(TICK_SECONDS)
        budget.settle(amount, Decimal(0))

    def _await_ready(
        self, process: WorkerProcess, meter: WorkerMeter, lifetime: WorkerLifetime, log: EngineLog
    ) -> None:
        give_up = time.monotonic() + self._terms.startup_seconds
        while lifetime.ready_at is None:
            if self._pool.closing:
                return
            meter.idle()  # else each lease would reserve the whole start anew
            self._pay(meter)
            for message in process.receive(TICK_SECONDS):
                self._note_fault(message)
                if message["op"] == "ready":
                    lifetime.ready_at = datetime.now(UTC)
                    self._ready(message)
            if lifetime.ready_at is None and time.monotonic() > give_up:
                raise NeverReady(
                    f"endpoint {self._name}: its worker was not ready after {self._terms.startup_seconds:.0f} s; "
                    f"give it longer, or see what it says: {log.told()}"
                )
        meter.idle()

    def _ready(self, message: Mapping[str, Any]) -> None:
        self.version = message["vllm"]
        self._window = WAVES * message["max_num_seqs"]
        self._running = message["max_num_seqs"]
        self._pace = PaceWatch(self._speed, self._running) if message.get("paced") else None
        self._longest: int = message["max_model_len"]

    def _serve(self, process: WorkerProcess, meter: WorkerMeter, lifetime: WorkerLifetime) -> None:
        """Keep the engine fed until there is nothing more to do for it."""
        last_heard = idle = time.monotonic()
        while not self._pool.closing:
            if not self._in_flight and meter.block_ends_in < BLOCK_ENDS_SECONDS and not self._pool.has_work():
                return  # another hour would begin
            self._pay(meter)
            self._feed(process, meter)
            messages = process.receive(TICK_SECONDS)
            now = time.monotonic()
            if messages or not self._in_flight:
                last_heard = now
            if now - last_heard > SILENCE_SECONDS:
                raise WorkerDied(
                    f"endpoint {self._name}: its worker has said nothing for {SILENCE_SECONDS:.0f} s"
                )
            self._take_in(messages, meter)
            lifetime.cost_usd = meter.cost_usd
            if self._in_flight:
                idle = now
            elif self._leaving or (now - idle > WANTED_SECONDS and self._pool.wanted_by_others()):
                return
            elif not self._pool.usd_per_hour and self._pool.spec.cluster is None:
                continue
            elif self._useless(idle, meter, lifetime):
                return

    def _useless(self, idle_since: float, meter: WorkerMeter, lifetime: WorkerLifetime) -> bool:
        """Whether an idle worker is to be stopped: not while its time is paid anyway, a repair may want it."""
        left, most = meter.minimum_left, self._terms.idle_seconds
        late = self._pool.next_work.is_late(idle_since, lifetime.startup_seconds, left, most)
        return late or (left <= 0 and self._pool.unplanned(self))

    def _pay(self, meter: WorkerMeter) -> None:
        if not meter.keep_up() and meter.seconds_left < LAST_SECOND:
            meter.idle()
            raise BudgetExhausted

    # --- requests ---

    def _feed(self, process: WorkerProcess, meter: WorkerMeter) -> None:
        """Send more requests once a quarter of those in flight is answered."""
        room = self._window - len(self._in_flight)
        if room * 4 < self._window or self._leaving or self._pool.surplus(self):
            return
        requests = self._pool.take(room)
        if not requests:
            return
        if not self._in_flight:
            meter.idle()
            self._marked = time.monotonic()
        self._pool.records.sent(requests, self._worker_id)
        lines: list[dict[str, Any]] = []
        for queued in requests:
            self._next_id += 1
            self._in_flight[self._next_id] = queued
            lines.append({"op": "ask", "id": self._next_id, **self._pool.bodies.body(queued.request)})
        process.send([*lines, {"op": "go"}])

    def _take_in(self, messages: Sequence[Mapping[str, Any]], meter: WorkerMeter) -> None:
        answers = [message for message in messages if message["op"] == "answer"]
        if answers:
            self._answered(answers, meter)
        for message in messages:
            if message["op"] == "refused":
                self._refused(message)
            elif message["op"] == "pace" and self._pace is not None:
                self._pace.told(message)
        for message in messages:
            self._note_fault(message)
            self._leaving |= message["op"] == "leaving"

    def _answered(self, answers: Sequence[Mapping[str, Any]], meter: WorkerMeter) -> None:
        now = time.monotonic()
        read = sum(answer["input_tokens"] - answer["cached_tokens"] for answer in answers)
        written = sum(answer["output_tokens"] for answer in answers)
        if self._pace is None:
            self._speed.add(now - self._marked, read, written)
        self._marked, self._deaths = now, 0
        requests = [self._in_flight.pop(answer["id"]) for answer in answers]
        # a written token weighs as ten read ones: about what APIs charge for the two
        costs = meter.charge(
            [
                answer["output_tokens"] + (answer["input_tokens"] - answer["cached_tokens"]) / 10 + 1
                for answer in answers
            ]
        )
        done = []
        for queued, reply in zip(
            requests, self._pool.records.answered(requests, answers, costs), strict=True
        ):
            if asks_again(queued, reply):
                self._ask_again(queued)
            else:
                done.append((queued, reply))
        self._pool.deliver(done)

    def _ask_again(self, queued: QueuedRequest) -> None:
        larger = min(queued.request.max_tokens * CUT_EMPTY_FACTOR, self._longest)
        queued.request = replace(queued.request, max_tokens=larger)
        queued.cuts += 1
        queued.attempt += 1
        self._pool.give_back([queued])

    def _refused(self, message: Mapping[str, Any]) -> None:
        queued = self._in_flight.pop(message["id"])
        reply = failure(queued, FailureKind(message["kind"]), f"endpoint {self._name}: {message['message']}")
        self._pool.records.failed([(queued, reply)], final=True)
        self._pool.deliver([(queued, reply)])

    def _note_fault(self, message: Mapping[str, Any]) -> None:
        if message["op"] == "fault" and message["kind"] == "out_of_memory":
            self._fault = EngineFault(FaultKind.OUT_OF_MEMORY, message["message"])

    def _lose_jobs(self) -> None:
        """Ask again the requests that were with a process when it ended, unless they seem to be what ends it."""
        requests, self._in_flight = list(self._in_flight.values()), {}
        if not requests:
            return
        if self._pool.closing:
            self._pool.records.failed([(queued, None) for queued in requests], final=False)
            return
        again: list[tuple[QueuedRequest, Failure]] = []
        over: list[tuple[QueuedRequest, Failure]] = []
        for queued in requests:
            queued.deaths += 1
            reply = failure(
                queued,
                FailureKind.WORKER_DIED,
                f"endpoint {self._name}: its worker ended while it answered this request",
            )
            used_up = queued.deaths >= NEXT_STEP[FailureKind.WORKER_DIED].attempts
            (over if used_up else again).append((queued, reply))
        self._pool.records.failed(again, final=False)
        self._pool.records.failed(over, final=True)
        for queued, _ in again:
            queued.attempt += 1
        self._pool.give_back([queued for queued, _ in again])
        self._pool.deliver(over)

    # --- messages ---

    @property
    def _name(self) -> str:
        return self._pool.endpoint.name
