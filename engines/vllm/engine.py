"""Local vLLM workers behind `Engine`: processes that are started when there is work, fed, and stopped.

One thread drives each worker (`supervisor.py`); this is what they share: shards, and what becomes of them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from statistics import median

from thirdshift.engines.core.attempts import unsent
from thirdshift.engines.core.submission import Said
from thirdshift.engines.core.validation import schema_fault
from thirdshift.engines.devices import look_again, machine
from thirdshift.engines.devices.setting import usual_seqs
from thirdshift.engines.errors import BadEndpointError
from thirdshift.engines.metered.billing import WorkerBilling
from thirdshift.engines.metered.idle import IDLE_SECONDS, NextWork, StartupTerms
from thirdshift.engines.metered.queue import QueuedRequest, ShardQueue
from thirdshift.engines.metered.records import WorkerLifetime, WorkerRecords, failure
from thirdshift.engines.metered.throughput import Rates, Speedometer
from thirdshift.engines.vllm.engine_log import EngineFault
from thirdshift.engines.vllm.placing import DevicePlacer
from thirdshift.engines.vllm.preflight import check
from thirdshift.engines.vllm.process import LocalPlace, Place
from thirdshift.engines.vllm.supervisor import WorkerSupervisor
from thirdshift.engines.wires.openai import Bodies, refused_beforehand
from thirdshift.router.interfaces import EngineContext, Progress, Shard, Ticket
from thirdshift.router.values import Endpoint, FailureKind

__all__ = ["VllmEngine", "WorkerLifetime", "check"]

STARTUP_SECONDS = 1800.0
"""Hundreds of gigabytes from a slow disk, then graph capture."""
WORTH_A_WORKER = 64
"""Requests for which another worker is started: fewer are answered before it would be up."""


class VllmEngine:
    """The `Engine` of an endpoint with `workers`. Workers start with the first shard."""

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
        self.records = WorkerRecords(endpoint, engine_context)
        self.billing = WorkerBilling(endpoint, engine_context, self.records)
        self._placer = DevicePlacer(
            endpoint.name, self.spec, machine(), look_again, engine_context.say, engine_context.elsewhere
        )
        self._process_mark = os.urandom(2).hex()
        """Tells this process's workers from those of others."""
        self.bodies = Bodies(endpoint)
        self.closing = False
        self._terms = StartupTerms(startup_seconds, idle_seconds)
        self._lock = threading.RLock()
        self._queues: dict[str, ShardQueue] = {}
        self._supervisors: dict[int, WorkerSupervisor] = {}
        self._done: list[WorkerSupervisor] = []
        """Supervisors whose thread has ended, for what they measured."""
        self._lifetimes: list[WorkerLifetime] = []
        self._planned: int | None = None
        """Workers that the plan chose; None: no plan says, and there are as many as the pending requests are worth."""
        self._halted: FailureKind | None = None
        self._start_failure: str | None = None
        """Why workers do not come up; then nothing is tried again."""
        self.next_work = NextWork()

    # --- the Engine interface ---

    def submit(self, shard: Shard, key: str) -> Ticket:
        with self._lock:
            queue = self._queues.get(key)
            if queue is None:
                queue = self._queues[key] = ShardQueue(shard, key)
                self._reject_invalid(queue)
                self._scale_up(shard.run_id)
            return queue.ticket

    def progress(self, ticket: Ticket) -> Progress:
        with self._lock:
            return self._queues[ticket.key].progress()

    def collect(self, ticket: Ticket) -> Iterator[Said]:
        return self._queues[ticket.key].drain()

    def plan_workers(self, count: int) -> None:
        """Run `count` workers from now on, where there is work for them; at 0 an idle one is stopped at once."""
        with self._lock:
            self._planned = count
            for supervisor in self._supervisors.values():
                supervisor.wake()

    def keep_idle(self, *, kept: bool) -> None:
        """Say whether something may come soon for idle workers; else they are stopped after a short break."""
        self.next_work.tell(expected=kept)

    def stop(self) -> None:
        self.halt(FailureKind.CANCELLED)

    def close(self) -> None:
        """End the workers; what is in flight is given up."""
        self.halt(FailureKind.CANCELLED)
        with self._lock:
            self.closing = True
            supervisors = list(self._supervisors.values())
        for supervisor in supervisors:
            supervisor.wake()
        for supervisor in supervisors:
            supervisor.thread.join()
        with self._lock:
            for queue in self._queues.values():
                if not queue.finished:
                    queue.finish()

    # --- what was measured ---

    def worker_lifetimes(self) -> list[WorkerLifetime]:
        """Every worker process so far; one that is up has no `stopped_at` yet."""
        with self._lock:
            return [replace(lifetime) for lifetime in self._lifetimes]

    def rates(self) -> Rates | None:
        """Return the speed of one worker as measured so far, all taken together; None before the first is up."""
        return self._rates(None)

    def rates_by_hardware(self) -> list[Rates]:
        """Return the speed of one worker, for everything that workers have run on."""
        with self._lock:
            names = {name for supervisor in self._all_supervisors() for name in supervisor.speeds}
        return [rates for name in sorted(names) if (rates := self._rates(name)) is not None]

    def _rates(self, hardware: str | None) -> Rates | None:
        """Return the speed on this hardware; None: on all together."""
        with self._lock:
            supervisors = [supervisor for supervisor in self._all_supervisors() if supervisor.version]
            startups = [
                lifetime.startup_seconds
                for lifetime in self._lifetimes
                if hardware in {None, lifetime.hardware} and lifetime.startup_seconds is not None
            ]
            if not supervisors:
                return None
            speeds = [(name, speed) for each in supervisors for name, speed in each.speeds.items()]
            named = [name for name, _ in speeds] if hardware is None else [hardware]
            speed = Speedometer.together(speed for name, speed in speeds if hardware in {None, name})
        return speed.rates(
            supervisors[0].version,
            self.spec.device,
            ", ".join(dict.fromkeys(named)),
            median(startups) if startups else 0.0,
        )

    def _all_supervisors(self) -> list[WorkerSupervisor]:
        return [*self._done, *self._supervisors.values()]

    # --- for its supervisors ---

    @property
    def usd_per_hour(self) -> Decimal:
        """What an hour of a worker costs from now on."""
        return self.billing.usd_per_hour

    def wants(self, supervisor: WorkerSupervisor) -> bool:
        """Whether a supervisor should have a process. If not it is retired at once: a shard that comes next finds its
        place free.
        """
        with self._lock:
            able = not self.closing and self._start_failure is None
            if able and self._pending() and not self.surplus(supervisor):
                return True
            self._retire(supervisor)
            return False

    def has_work(self) -> bool:
        """Whether anything is still to be asked, for a supervisor that waits for money."""
        with self._lock:
            self._check_deadline()
            return not self.closing and self._pending() > 0

    def find_place(self, supervisor: WorkerSupervisor, worker_id: str) -> Place | None:  # noqa: ARG002 (what a cluster shows)
        """Return where a supervisor's worker can run, waiting where it must; None: it is not wanted any more.

        Raises NoPlace.
        """
        return self._placer.find(supervisor.number, self.has_work)

    def unplanned(self, supervisor: WorkerSupervisor) -> bool:
        """Whether the plan has no use for this worker once it is idle."""
        return self._planned == 0 or self.surplus(supervisor)

    def surplus(self, supervisor: WorkerSupervisor) -> bool:  # noqa: ARG002 (here each keeps what it was given)
        """Whether the others are enough: this worker is given nothing more."""
        return False

    def take(self, room: int) -> list[QueuedRequest]:
        """Hand out requests for a worker: of what is left, its fair share, so that all end together."""
        with self._lock:
            self._check_deadline()
            pending = self._pending()
            room = min(room, -(-pending // max(1, len(self._supervisors))))
            taken: list[QueuedRequest] = []
            for queue in self._queues.values():
                while queue.pending and len(taken) < room:
                    taken.append(queue.pending.popleft())
                    queue.in_flight += 1
            return taken

    def give_back(self, requests: Iterable[QueuedRequest]) -> None:
        """Take requests back, to be asked again before all others; or not at all when nothing more is sent."""
        with self._lock:
            for queued in requests:
                queued.queue.in_flight -= 1
                queued.queue.pending.appendleft(queued)
            if self._halted is not None:
                self._flush(self._halted)

    def deliver(self, done: Iterable[tuple[QueuedRequest, Said]]) -> None:
        """Pass final replies on to their shards."""
        lots: dict[ShardQueue, list[Said]] = {}
        for queued, reply in done:
            lots.setdefault(queued.queue, []).append(reply)
        with self._lock:
            for queue, lot in lots.items():
                queue.in_flight -= len(lot)
                queue.deliver(lot)

    def halt(self, kind: FailureKind) -> None:
        """Send nothing more; `kind` is why."""
        with self._lock:
            if self._halted is None:
                self._halted = kind
            self._flush(self._halted)

    def budget_exhausted(self, supervisor: WorkerSupervisor) -> None:
        """End a worker that the cap has no more time for; where it was the last, nothing more is sent."""
        with self._lock:
            if all(other is supervisor for other in self._supervisors.values()):
                self.halt(FailureKind.BUDGET)

    def failed(self, error: BaseException) -> None:
        """Stop for a full disk, or a bug of ours: it is raised where answers are collected."""
        with self._lock:
            self._halted = self._halted or FailureKind.CANCELLED
            for queue in self._queues.values():
                queue.pending.clear()
                if not queue.finished:
                    queue.finish(error)

    def worker_gone(self, supervisor: WorkerSupervisor, why: str | None) -> None:
        """Retire a supervisor whose thread ends. Where the last worker could not be kept up, what is pending fails."""
        with self._lock:
            self._retire(supervisor)
            if why is not None and not self._supervisors:
                self._start_failure = why
                self._fail_pending()

    def worker_started(self, worker_id: str, pid: int, place: Place) -> WorkerLifetime:
        """Note a worker's start."""
        paid = 0.0 if place.found_at is None else time.monotonic() - place.found_at
        lifetime = WorkerLifetime(
            worker_id,
            self.endpoint.name,
            self.spec.device,
            pid,
            datetime.now(UTC) - timedelta(seconds=paid),
            self.usd_per_hour,
            self.spec.accounting_usd_per_hour,
            node=place.node,
            hardware=place.hardware,
            usd_per_kwh=self.spec.usd_per_kwh,
        )
        with self._lock:
            self._lifetimes.append(lifetime)
        return lifetime

    def worker_failed(self, place: Place, fault: EngineFault) -> None:
        """Take note of an engine that failed and said why: a device that failed is given to nobody any more."""
        if isinstance(place, LocalPlace):
            self._placer.note(place, fault)

    def wanted_by_others(self) -> bool:
        """Whether somebody else waits for what a worker here holds."""
        return self._placer.wanted_by_others()

    def usual_seqs(self) -> int:
        """Return how many requests an engine runs at once, before one has said so."""
        here = machine().of(self.spec.device) if self.spec.cluster is None else ()
        return usual_seqs(self.spec, here[0].memory_mib if here else None)

    def worker_id(self, number: int) -> str:
        """Make an id: `house-0-3fa2#1`, `#2` … when it is started anew; unique within a run, a resumed one too."""
        with self._lock:
            stem = f"{self.endpoint.name}-{number}-{self._process_mark}"
            before = sum(lifetime.worker_id.partition("#")[0] == stem for lifetime in self._lifetimes)
            return f"{stem}#{before + 1}"

    # --- under the lock ---

    def _pending(self) -> int:
        return sum(len(queue.pending) for queue in self._queues.values())

    def _scale_up(self, run_id: str) -> None:
        """Start as many workers as the plan chose, or as the pending requests are worth; at most those the job allows."""
        self._check_deadline()
        if self._halted is not None:
            self._flush(self._halted)
        elif self._start_failure is not None:
            self._fail_pending()
        pending = self._pending()
        worth = (
            -(-pending // WORTH_A_WORKER) if self._planned is None else min(max(self._planned, 1), pending)
        )
        wanted = min(self.spec.workers, worth)
        for number in range(self.spec.workers):
            if len(self._supervisors) >= wanted:
                break
            if number not in self._supervisors:
                supervisor = WorkerSupervisor(self, number, run_id, self._terms)
                self._supervisors[number] = supervisor
                supervisor.thread.start()
        for supervisor in self._supervisors.values():
            supervisor.wake()

    def _retire(self, supervisor: WorkerSupervisor) -> None:
        for number, other in list(self._supervisors.items()):
            if other is supervisor:
                del self._supervisors[number]
                self._done.append(supervisor)

    def _check_deadline(self) -> None:
        deadline = self.engine_context.deadline
        if self._halted is None and deadline is not None and datetime.now(UTC) >= deadline:
            self.halt(FailureKind.DEADLINE)

    def _flush(self, kind: FailureKind) -> None:
        for queue in self._queues.values():
            requests = list(queue.pending)
            queue.pending.clear()
            if requests:
                queue.deliver(unsent(queued.request, kind) for queued in requests)

    def _reject_invalid(self, queue: ShardQueue) -> None:
        """Fail at once the requests that must not be sent as they are."""
        bad: list[tuple[QueuedRequest, str]] = []
        for queued in list(queue.pending):
            why = schema_fault(queued.request.response_schema) or refused_beforehand(queued.request)
            if why is not None:
                queue.pending.remove(queued)
                bad.append((queued, why))
        self._refuse(queue, bad, FailureKind.BAD_REQUEST)

    def _fail_pending(self) -> None:
        """Fail what waits for a worker that does not come up."""
        for queue in self._queues.values():
            requests = [(queued, self._start_failure or "") for queued in queue.pending]
            queue.pending.clear()
            self._refuse(queue, requests, FailureKind.WORKER_DIED)

    def _refuse(
        self, queue: ShardQueue, requests: list[tuple[QueuedRequest, str]], kind: FailureKind
    ) -> None:
        """Fail requests that reached no worker; journalled, since their reason is the result."""
        if requests:
            self.records.unsent([(queued, failure(queued, kind, why)) for queued, why in requests])
            queue.deliver(failure(queued, kind, why) for queued, why in requests)
