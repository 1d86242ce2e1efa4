"""Local vLLM workers behind `values.Engine`: processes that we start when there is work, feed, and stop.

One thread drives each worker (`vllm_slot`); this is what they share: shards, and what becomes of them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from statistics import median

from thirdshift.engines.core.attempts import unsent
from thirdshift.engines.core.submission import Said
from thirdshift.engines.core.validation import schema_fault
from thirdshift.engines.devices import hardware, machine
from thirdshift.engines.errors import BadEndpointError
from thirdshift.engines.metered.queue import QueuedRequest, ShardQueue
from thirdshift.engines.metered.records import WorkerLifetime, WorkerRecords, failure
from thirdshift.engines.metered.throughput import Rates, Speedometer
from thirdshift.engines.vllm.preflight import check
from thirdshift.engines.vllm.process import place
from thirdshift.engines.vllm.supervisor import StartupTerms, WorkerSupervisor
from thirdshift.engines.wires.openai import Bodies, refused_beforehand
from thirdshift.router.interfaces import EngineContext, Progress, Shard, Ticket
from thirdshift.router.values import Endpoint, FailureKind

__all__ = ["VllmEngine", "WorkerLifetime", "check"]

STARTUP_SECONDS = 1800.0
"""Hundreds of gigabytes from a slow disk, then graph capture."""
IDLE_SECONDS = 300.0
"""In the order of a large model's start, which the next shard would have to pay for."""
WORTH_A_WORKER = 64
"""Requests for which another worker is started: fewer are answered before it would be up."""


class VllmEngine:
    """`values.Engine` for an endpoint with `workers`. Workers start with the first shard."""

    def __init__(
        self,
        endpoint: Endpoint,
        engine_context: EngineContext,
        *,
        startup_seconds: float = STARTUP_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        if endpoint.workers is None:
            raise BadEndpointError(f"endpoint {endpoint.name} has no workers; `engine: vllm` gives it some")
        self.endpoint, self.engine_context, self.spec = endpoint, engine_context, endpoint.workers
        self.usd_per_hour = endpoint.price.usd_per_hour or Decimal(0)
        self.books = WorkerRecords(endpoint, engine_context)
        self._mark = os.urandom(2).hex()
        """Marks this process's workers."""
        self.bodies = Bodies(endpoint)
        self.closing = False
        self._terms = StartupTerms(startup_seconds, idle_seconds)
        self._lock = threading.RLock()
        self._works: dict[str, ShardQueue] = {}
        self._slots: dict[int, WorkerSupervisor] = {}
        self._done: list[WorkerSupervisor] = []
        """Slots whose thread has ended, for what they measured."""
        self._lives: list[WorkerLifetime] = []
        self._halted: FailureKind | None = None
        self._dead: str | None = None
        """Why workers do not come up; then nothing is tried again."""

    # --- values.Engine ---

    def submit(self, shard: Shard, key: str) -> Ticket:
        with self._lock:
            known = self._works.get(key)
            if known is None:
                known = self._works[key] = ShardQueue(shard, key)
                self._weed(known)
                self._staff(shard.run_id)
            return known.ticket

    def progress(self, ticket: Ticket) -> Progress:
        with self._lock:
            return self._works[ticket.key].progress()

    def collect(self, ticket: Ticket) -> Iterator[Said]:
        return self._works[ticket.key].drain()

    def stop(self) -> None:
        self.halt(FailureKind.CANCELLED)

    def close(self) -> None:
        """Ends the workers; what is in flight is given up."""
        self.halt(FailureKind.CANCELLED)
        with self._lock:
            self.closing = True
            slots = list(self._slots.values())
        for slot in slots:
            slot.wake()
        for slot in slots:
            slot.thread.join()
        with self._lock:
            for work in self._works.values():
                if not work.finished:
                    work.finish()

    # --- what it tells ---

    def worker_lifetimes(self) -> list[WorkerLifetime]:
        """Every worker process so far; one that is up has no `stopped_at` yet."""
        with self._lock:
            return [replace(life) for life in self._lives]

    def rates(self) -> Rates | None:
        """Return the speed of one worker as measured so far, all taken together; None before the first is up."""
        with self._lock:
            slots = [slot for slot in (*self._done, *self._slots.values()) if slot.version]
            starts = [
                (life.ready_at - life.started_at).total_seconds() for life in self._lives if life.ready_at
            ]
            if not slots:
                return None
            speed = Speedometer.together(slot.speed for slot in slots)
        return speed.rates(
            slots[0].version, self.spec.device, hardware(self.spec), median(starts) if starts else 0.0
        )

    # --- for its slots ---

    def wants(self, slot: WorkerSupervisor) -> bool:
        """Whether a slot should have a process. If not it is off the books at once: a shard that comes next
        finds its place free.
        """
        with self._lock:
            if not self.closing and self._dead is None and self._pending():
                return True
            self._retire(slot)
            return False

    def has_work(self) -> bool:
        """Whether anything is still to be asked, for a slot that waits for money."""
        with self._lock:
            self._heed_deadline()
            return not self.closing and self._pending() > 0

    def take(self, room: int) -> list[QueuedRequest]:
        """Requests for a worker: of what is left, its fair share, so that all end together."""
        with self._lock:
            self._heed_deadline()
            left = self._pending()
            room = min(room, -(-left // max(1, len(self._slots))))
            taken: list[QueuedRequest] = []
            for work in self._works.values():
                while work.pending and len(taken) < room:
                    taken.append(work.pending.popleft())
                    work.in_flight += 1
            return taken

    def give_back(self, jobs: Iterable[QueuedRequest]) -> None:
        """To be asked again, first of all; or not at all when nothing more is sent."""
        with self._lock:
            for job in jobs:
                job.work.in_flight -= 1
                job.work.pending.appendleft(job)
            if self._halted is not None:
                self._flush(self._halted)

    def deliver(self, done: Iterable[tuple[QueuedRequest, Said]]) -> None:
        lots: dict[ShardQueue, list[Said]] = {}
        for job, said in done:
            lots.setdefault(job.work, []).append(said)
        with self._lock:
            for work, lot in lots.items():
                work.in_flight -= len(lot)
                work.deliver(lot)

    def halt(self, kind: FailureKind) -> None:
        """Send nothing more; `kind` is why."""
        with self._lock:
            if self._halted is None:
                self._halted = kind
            self._flush(self._halted)

    def broke(self, slot: WorkerSupervisor) -> None:
        """The cap has no more time for this worker; the last one's end is the pool's."""
        with self._lock:
            if all(other is slot for other in self._slots.values()):
                self.halt(FailureKind.BUDGET)

    def failed(self, fault: BaseException) -> None:
        """A full disk, or a bug of ours: raised where answers are collected."""
        with self._lock:
            self._halted = self._halted or FailureKind.CANCELLED
            for work in self._works.values():
                work.pending.clear()
                if not work.finished:
                    work.finish(fault)

    def left(self, slot: WorkerSupervisor, why: str | None) -> None:
        """A slot's thread ends. When the last worker could not be kept up, what waits has no one to ask."""
        with self._lock:
            self._retire(slot)
            if why is not None and not self._slots:
                self._dead = why
                self._bury()

    def born(self, worker_id: str, pid: int) -> WorkerLifetime:
        life = WorkerLifetime(
            worker_id,
            self.endpoint.name,
            self.spec.device,
            pid,
            datetime.now(UTC),
            self.usd_per_hour,
            self.spec.accounting_usd_per_hour,
        )
        with self._lock:
            self._lives.append(life)
        return life

    def worker_id(self, number: int) -> str:
        """`house-0-3fa2#1`, `#2` … when it is started anew: unique within a run, a resumed one too."""
        with self._lock:
            stem = f"{self.endpoint.name}-{number}-{self._mark}"
            before = sum(life.worker_id.partition("#")[0] == stem for life in self._lives)
            return f"{stem}#{before + 1}"

    # --- under the lock ---

    def _pending(self) -> int:
        return sum(len(work.pending) for work in self._works.values())

    def _staff(self, run_id: str) -> None:
        """As many workers as the work is worth, at most those the job allows."""
        self._heed_deadline()
        if self._halted is not None:
            self._flush(self._halted)
        elif self._dead is not None:
            self._bury()
        wanted = min(self.spec.workers, -(-self._pending() // WORTH_A_WORKER))
        for number in range(self.spec.workers):
            if len(self._slots) >= wanted:
                break
            if number not in self._slots:
                slot = WorkerSupervisor(
                    self, number, place(self.spec, number, machine()), run_id, self._terms
                )
                self._slots[number] = slot
                slot.thread.start()
        for slot in self._slots.values():
            slot.wake()

    def _retire(self, slot: WorkerSupervisor) -> None:
        for number, other in list(self._slots.items()):
            if other is slot:
                del self._slots[number]
                self._done.append(slot)

    def _heed_deadline(self) -> None:
        deadline = self.engine_context.deadline
        if self._halted is None and deadline is not None and datetime.now(UTC) >= deadline:
            self.halt(FailureKind.DEADLINE)

    def _flush(self, kind: FailureKind) -> None:
        for work in self._works.values():
            jobs = list(work.pending)
            work.pending.clear()
            if jobs:
                work.deliver(unsent(job.request, kind) for job in jobs)

    def _weed(self, work: ShardQueue) -> None:
        """Requests that must not be sent as they are fail at once."""
        bad: list[tuple[QueuedRequest, str]] = []
        for job in list(work.pending):
            why = schema_fault(job.request.response_schema) or refused_beforehand(job.request)
            if why is not None:
                work.pending.remove(job)
                bad.append((job, why))
        self._refuse(work, bad, FailureKind.BAD_REQUEST)

    def _bury(self) -> None:
        for work in self._works.values():
            jobs = [(job, self._dead or "") for job in work.pending]
            work.pending.clear()
            self._refuse(work, jobs, FailureKind.WORKER_DIED)

    def _refuse(self, work: ShardQueue, jobs: list[tuple[QueuedRequest, str]], kind: FailureKind) -> None:
        """Failures of requests that reached no worker: journalled, since their reason is the result."""
        if jobs:
            self.books.unsent([(job, failure(job, kind, why)) for job, why in jobs])
            work.deliver(failure(job, kind, why) for job, why in jobs)
