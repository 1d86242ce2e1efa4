"""vLLM workers on a Ray cluster behind `Engine`: only where a worker runs differs from those of this machine.

Journal, budget, meter and ledger stay in this process; requests travel to seats, and answers back, in blocks by Ray's
object store. A seat is paid from the moment it has a place. One that the cluster has no room for is waited for, unpaid,
while the others work; requests that the seats there are cannot answer before the deadline are given back to the plan.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from thirdshift.engines.core.submission import Said
from thirdshift.engines.devices import VARIABLES, width
from thirdshift.engines.errors import BadEndpointError
from thirdshift.engines.metered.queue import QueuedRequest
from thirdshift.engines.metered.records import failure
from thirdshift.engines.ray.cluster import Cluster, ClusterSeat, ClusterUnreachable, SeatOrder
from thirdshift.engines.ray.survey import cpus_for, devices_found, hardware_found, missing
from thirdshift.engines.vllm.deaths import NoPlace, WorkerLost
from thirdshift.engines.vllm.engine import VllmEngine
from thirdshift.engines.vllm.engine_log import EngineLog
from thirdshift.engines.vllm.process import WorkerProcess, cpu_environment
from thirdshift.engines.vllm.reasoners import REASONERS
from thirdshift.engines.vllm.supervisor import (
    TICK_SECONDS,
    WorkerSupervisor,
)
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.values import JSON, ClusterSpec, Endpoint, FailureKind, WorkerSpec

SEAT_SECONDS = 300.0
"""An autoscaler's machine is there by then, or it is not to be had tonight."""
NO_SEAT_SECONDS = 24 * 3600.0
"""A cluster without any seat is waited for so long where nobody else may answer: machines may be asked for by hand."""
AWAY_SECONDS = 600.0
"""A cluster that cannot be reached is tried again for so long."""
TRY_SECONDS = 5.0
ENOUGH_SECONDS = 5.0
"""Work it takes before the seats' speed says what they can do before the deadline."""
LEAVES = 0.9
"""Seats keep so much of what they can answer before the deadline: the last wave ends late."""


@dataclass(frozen=True, slots=True)
class SeatPlace:
    """A place on a node of the cluster, held by a seat."""

    seat: ClusterSeat
    spec: WorkerSpec
    hardware: str
    cores: tuple[int, ...] = ()

    @property
    def node(self) -> str:
        return self.seat.node

    @property
    def rented(self) -> tuple[str, ...]:
        return (self.node,)

    @property
    def found_at(self) -> float | None:
        return self.seat.found_at

    def start(self, model: str, options: Mapping[str, JSON], log: EngineLog) -> WorkerProcess:
        self.seat.log = log
        found = self.seat.found or {}
        environment: Mapping[str, str] = {}
        if self.spec.device == "cpu":
            environment = cpu_environment(self.spec, self.cores)
        elif self.spec.device == "cuda":
            environment = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # which is how Ray numbers them
        hello: dict[str, JSON] = {
            "model": model,
            "options": dict(options),
            "cores": list(self.cores),
            "device": self.spec.device,
            "reasoners": REASONERS,
        }
        counted = self.spec.usd_per_kwh is not None and found["visible"].get(VARIABLES["cuda"])
        cards = [card.uuid for card in devices_found(self.spec, found)] if counted else []
        self.seat.begin(str(found["python"]), hello, environment, cards)
        return self.seat

    def joules(self) -> float | None:
        """Return what its devices have drawn since the worker was started, as its seat told last."""
        return self.seat.joules

    def release(self) -> None:
        self.seat.release()


class RayEngine(VllmEngine):
    """The `Engine` of an endpoint whose workers are seats on a Ray cluster."""

    def __init__(
        self,
        endpoint: Endpoint,
        engine_context: EngineContext,
        *,
        seat_seconds: float = SEAT_SECONDS,
        no_seat_seconds: float = NO_SEAT_SECONDS,
        away_seconds: float = AWAY_SECONDS,
        **terms: float,
    ) -> None:
        super().__init__(endpoint, engine_context, **terms)
        if self.spec.cluster is None:
            raise BadEndpointError(f"endpoint {endpoint.name} names no cluster; `on: ray` needs one")
        self._address: ClusterSpec = self.spec.cluster
        self._seat_seconds, self._away_seconds = seat_seconds, away_seconds
        self._no_seat_seconds = no_seat_seconds
        self._connecting = threading.Lock()
        self._cluster: Cluster | None = None
        self._said: set[str] = set()
        self._cores_taken: dict[tuple[str, int], ClusterSeat] = {}
        """Node and place among its seats, for workers on processors, which Ray does not number."""
        self._answered = 0
        self._handed_over: set[int] = set()
        """Rows that were given back to the plan once: whoever gets them again keeps them."""

    def find_place(self, supervisor: WorkerSupervisor, worker_id: str) -> SeatPlace | None:
        """Ask the cluster for a seat and wait until it has a place; None: it is not wanted any more. Raises NoPlace."""
        while self._wanted(supervisor):
            cluster = self._connected(supervisor)
            if cluster is None:
                return None
            seat = None
            try:
                seat = cluster.ask(self._order(supervisor, worker_id, cluster))
                if self._wait(seat, supervisor):
                    return self._place(seat)
            except WorkerLost as lost:  # never had a place; asked for again
                self._say(f"endpoint {self.endpoint.name}: a seat was lost before it had a place: {lost}")
                time.sleep(TICK_SECONDS)
            except BaseException:
                if seat is not None:
                    seat.release()
                raise
            if seat is not None:
                seat.release()
        return None

    def surplus(self, supervisor: WorkerSupervisor) -> bool:
        """Whether the plan has fewer seats than there are before this one: it is given back."""
        with self._lock:
            before = sum(number < supervisor.number for number in self._supervisors)
            return self._planned is not None and before >= max(1, self._planned)

    def take(self, room: int) -> list[QueuedRequest]:
        """Hand out requests for a seat; none where the cluster gives so few seats that others must answer them."""
        self._hand_over()
        return super().take(room)

    def deliver(self, done: Iterable[tuple[QueuedRequest, Said]]) -> None:
        lot = list(done)
        self._answered += len(lot)
        super().deliver(lot)

    def close(self) -> None:
        """End the workers and the connection."""
        super().close()
        with self._connecting:
            if self._cluster is not None:
                self._cluster.close()
                self._cluster = None

    # --- places ---

    def _wanted(self, supervisor: WorkerSupervisor) -> bool:
        return self.has_work() and not self.surplus(supervisor)

    def _connected(self, supervisor: WorkerSupervisor) -> Cluster | None:
        """Return the connection, made anew where it was lost; None: nothing is wanted any more. Raises NoPlace."""
        give_up = time.monotonic() + self._away_seconds
        with self._connecting:
            while self._cluster is None or self._cluster.gone is not None:
                if self._cluster is not None:
                    self._cluster.close()
                    self._cluster = None
                try:
                    self._cluster = Cluster(self._address)
                except ClusterUnreachable as away:
                    why = f"endpoint {self.endpoint.name}: {away}"
                    if time.monotonic() > give_up:
                        raise self._nowhere(why) from away
                    self._say(f"{why}; it is tried again for {self._away_seconds:.0f} s")
                    time.sleep(TRY_SECONDS)
                    if not self._wanted(supervisor):
                        return None
            return self._cluster

    def _wait(self, seat: ClusterSeat, supervisor: WorkerSupervisor) -> bool:
        """Wait for the seat's place. Raises NoPlace where none is to be had, and WorkerLost."""
        asked = time.monotonic()
        while not seat.wait_placed(TICK_SECONDS):
            if not self._wanted(supervisor):
                return False
            self._hand_over()
            waited = time.monotonic() - asked
            if waited > self._seat_seconds:
                self._too_long(waited)
        return True

    def _too_long(self, waited: float) -> None:
        """Say that the cluster has no room. Raises NoPlace where no seat is up and others may answer, or for a day."""
        with self._lock:
            up = sum(supervisor.up for supervisor in self._supervisors.values())
            asked = len(self._supervisors)
        have = f"{up} of {asked} seats after {self._seat_seconds:.0f} s"
        why = f"endpoint {self.endpoint.name}: the Ray cluster has given {have} ({self._size()} each)"
        if not up and self.engine_context.elsewhere:
            raise NoPlace(f"{why}; `thirdshift doctor` shows what it has")
        if not up and waited > self._no_seat_seconds:
            raise self._nowhere(f"{why}, and none in {waited / 3600:.0f} hours; `resume` goes on")
        self._say(f"{why}; the run goes on with these, waiting for more costs nothing")

    def _nowhere(self, why: str) -> NoPlace:
        """What is pending goes elsewhere; where there is no elsewhere it stays for `resume`."""
        if not self.engine_context.elsewhere:
            self._say(why)
            self.halt(FailureKind.CANCELLED)
        return NoPlace(why)

    def _place(self, seat: ClusterSeat) -> SeatPlace:
        """Look at where a seat was placed. Raises NoPlace where no worker can run there."""
        found = seat.found or {}
        lacks = missing(self.endpoint.model, self.spec, found)
        if lacks:
            raise NoPlace(f"endpoint {self.endpoint.name}: {lacks[0]}")
        if self.spec.device != "cpu":
            return SeatPlace(seat, self.spec, hardware_found(self.spec, found))
        cores = self._own_cores(seat, found["cores"])
        return SeatPlace(seat, self.spec, f"{len(cores)} {'core' if len(cores) == 1 else 'cores'}", cores)

    def _own_cores(self, seat: ClusterSeat, cores: list[int]) -> tuple[int, ...]:
        """Take cores of the node that no other seat of ours has."""
        with self._lock:
            live = {key: held for key, held in self._cores_taken.items() if not held.released}
            place = next(n for n in range(len(live) + 1) if (seat.node_id, n) not in live)
            self._cores_taken = {**live, (seat.node_id, place): seat}
        count = max(1, int(self._cpus))
        first = place * count % max(1, len(cores))
        return tuple(cores[first : first + count])

    def _order(self, supervisor: WorkerSupervisor, worker_id: str, cluster: Cluster) -> SeatOrder:
        cpu = self.spec.device == "cpu"
        self._cpus = cpus_for(self.spec, cluster.nodes) if cpu else 0.0
        devices = 0 if cpu else width(self.spec.options)
        order = SeatOrder(
            f"{supervisor.run_id}/{worker_id}", self.spec.device, devices, self._cpus, self.endpoint.model
        )
        if not self.spec.node_price:
            return order
        machine, place = divmod(supervisor.number, self.spec.together)
        seats = min(self.spec.together, self.spec.workers - machine * self.spec.together)
        return replace(order, machine=machine, seats=seats, place=place)

    def _size(self) -> str:
        if self.spec.device == "cpu":
            return f"{self._cpus:g} CPUs"
        return f"{width(self.spec.options)} {'NPU' if self.spec.device == 'npu' else 'GPU'}s"

    # --- fewer seats than planned ---

    def _hand_over(self) -> None:
        """Give requests back to the plan that the seats there are cannot answer before the deadline."""
        deadline = self.engine_context.deadline
        if deadline is None or not self.engine_context.elsewhere:
            return
        with self._lock:
            up = sum(supervisor.up for supervisor in self._supervisors.values())
            speeds = [speed for each in self._all_supervisors() for speed in each.speeds.values()]
            worked = sum(speed.seconds for speed in speeds)
            if worked < ENOUGH_SECONDS or up >= min(self.spec.workers, self._planned or self.spec.workers):
                return
            left = (deadline - datetime.now(UTC)).total_seconds()
            can = int(LEAVES * up * self._answered / worked * max(0.0, left))
            in_flight = sum(queue.in_flight for queue in self._queues.values())
            moved = self._give_up(self._pending() + in_flight - can)
        if moved:
            self._say(
                f"endpoint {self.endpoint.name}: with {up} seats {moved:,} requests would be late; others answer them"
            )

    def _give_up(self, count: int) -> int:
        """Take up to `count` requests off the queues' ends, each once in the life of the run."""
        moved = 0
        for queue in self._queues.values():
            lot = []
            while queue.pending and moved < count and queue.pending[-1].request.row not in self._handed_over:
                queued = queue.pending.pop()
                self._handed_over.add(queued.request.row)
                lot.append(
                    failure(
                        queued, FailureKind.EXPIRED, "the cluster gives too few seats to answer it in time"
                    )
                )
                moved += 1
            if lot:
                queue.deliver(lot)
        return moved

    def _say(self, words: str) -> None:
        """Say something once."""
        if words not in self._said:
            self._said.add(words)
            self.engine_context.say(words)
