"""A Ray cluster as this process sees it: a bridge (`bridge.py`) beside us, and seats that behave like worker processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from queue import Empty, SimpleQueue
from typing import Any

from thirdshift.engines.core.json import dumps
from thirdshift.engines.errors import MissingExtraError
from thirdshift.engines.ray.frames import FrameWriter, Header, frames
from thirdshift.engines.ray.head import knock
from thirdshift.engines.vllm.deaths import WorkerLost
from thirdshift.engines.vllm.engine_log import EngineLog
from thirdshift.engines.vllm.packages import PROGRAM
from thirdshift.engines.vllm.process import QUIET, ProcessEnded, ending, messages_in
from thirdshift.router.values import JSON, ClusterSpec

CONNECT_SECONDS = 60.0
"""Ray waits for a head that does not answer; what it says by then is what it will say."""
START_SECONDS = 60.0
END_SECONDS = 15.0
OUR_SETTINGS = {"RAY_gcs_rpc_server_reconnect_timeout_s": "600", "RAY_DEDUP_LOGS": "0"}
"""Ray ends a process that has not found the head for a minute; seats at work do not need it."""


class ClusterUnreachable(Exception):
    """The cluster does not answer, or not to us; the message says which and why."""


class BridgeEnded(ClusterUnreachable):
    """The process that speaks with Ray has ended by itself; another one may do better."""


@dataclass(frozen=True, slots=True)
class SeatOrder:
    """What a seat is asked with."""

    name: str
    """As Ray's dashboard shows it."""
    device: str
    devices: int
    """How many of them one worker takes."""
    cpus: float
    model: str
    machine: int | None = None
    """Seats of one number get one node together; None: any will do."""
    seats: int = 1
    """So many of it."""
    place: int = 0
    """Which of them this is."""


@dataclass(eq=False)
class ClusterSeat:
    """A worker's place on the cluster, and, once it is started, the worker. Looks like `process.Process`."""

    cluster: Cluster
    number: int
    pid: int = 0
    found: dict[str, Any] | None = None
    """What the node has, once the seat has a place there."""
    found_at: float = 0.0
    """When it was placed, on the monotonic clock."""
    node_id: str = ""
    lost: str | None = None
    """Why the seat is gone."""
    released: bool = False
    """Given back."""
    joules: float | None = None
    """What its cards have drawn since the worker was started, as far as the seat has told; None: they do not tell."""
    status: int | None = None
    """The exit status of a worker that has ended."""
    changed: threading.Condition = field(default_factory=threading.Condition)
    log: EngineLog = field(default_factory=EngineLog)
    received: SimpleQueue[list[dict[str, Any]] | None] = field(default_factory=SimpleQueue)

    # --- its place ---

    def wait_placed(self, seconds: float) -> bool:
        """Return whether it has a place, waiting at most so long. Raises WorkerLost."""
        with self.changed:
            self.changed.wait_for(lambda: self.found is not None or self.lost is not None, seconds)
        if self.lost is not None:
            raise WorkerLost(self.lost)
        return self.found is not None

    def begin(
        self, python: str, hello: Mapping[str, JSON], environment: Mapping[str, str], cards: Sequence[str]
    ) -> None:
        """Start the worker. One that cannot be started is told by `receive`. `cards`: those whose energy is told of."""
        order = {"op": "start", "seat": self.number, "python": python, "hello": dict(hello), "cards": cards}
        self.joules = 0.0 if cards else None
        with suppress(WorkerLost):
            self.cluster.say({**order, "environment": {**QUIET, **environment}})
        with self.changed:
            self.changed.wait_for(lambda: bool(self.pid) or self.lost is not None, START_SECONDS)

    def release(self) -> None:
        """Give the place back, or the request for one."""
        self.released = True
        self.cluster.forget(self)

    # --- the worker ---

    def send(self, messages: Iterable[Mapping[str, JSON]]) -> None:
        """Send messages in one block. Raises ProcessEnded."""
        if self.lost is not None:
            raise WorkerLost(self.lost)
        self.cluster.say(
            {"op": "lines", "seat": self.number}, b"".join(dumps(one) + b"\n" for one in messages)
        )

    def receive(self, seconds: float) -> list[dict[str, Any]]:
        """Return the messages that have come, waiting at most so long. Raises ProcessEnded when none will come any more."""
        lots = []
        with suppress(Empty):
            lots.append(self.received.get(timeout=seconds))
            while lots[-1] is not None:
                lots.append(self.received.get_nowait())
        messages = [message for lot in lots if lot is not None for message in lot]
        if lots and lots[-1] is None:
            self.received.put(None)
            if not messages:
                raise ProcessEnded if self.lost is None else WorkerLost(self.lost)
        return messages

    def wake_reader(self) -> None:
        """Let `receive` return at once."""
        self.received.put([])

    def end(self, seconds: float = 0.0) -> str:
        """Ask the worker to stop, wait so long, then give its place back. Returns how it ended."""
        if seconds and self.lost is None:
            with suppress(ProcessEnded):
                self.send(({"op": "stop"},))
                with self.changed:
                    self.changed.wait_for(lambda: self.status is not None or self.lost is not None, seconds)
        self.release()
        if self.lost is not None:
            return f"was lost on {self.node} ({self.lost})"
        return "was ended" if self.status is None else ending(self.status)

    @property
    def node(self) -> str:
        """The name of the machine that it is on."""
        return "no node yet" if self.found is None else str(self.found["node"])

    # --- from the bridge ---

    def take(self, header: Header, payload: bytes) -> None:
        """Take in what the bridge says of it."""
        op = header["op"]
        with self.changed:
            if op == "placed":
                self.found, self.node_id = header["found"], header["node_id"]
                self.found_at = time.monotonic() - max(0.0, time.time() - header["at"])
            elif op == "started":
                self.pid = header["pid"]
            elif op == "lost":
                self.lost = self.lost or header["why"]
                self.received.put(None)
            elif op == "leaving":
                self.received.put([{"op": "leaving"}])
            elif op == "said":
                self.joules = header["joules"]
                for line in header["log"]:
                    self.log.add(line)
                if payload:
                    self.received.put(list(messages_in(payload.splitlines(), self.log)))
                if header["status"] is not None:
                    self.status = header["status"]
                    self.received.put(None)
            self.changed.notify_all()


def _check_head(address: str) -> None:
    """Raise ClusterUnreachable where nobody listens."""
    try:
        knock(address)
    except OSError as error:
        why = error.strerror or error
        raise ClusterUnreachable(
            f"the Ray cluster at {address} cannot be reached ({why}); is its head up?"
        ) from None


class Cluster:
    """A connection to a Ray cluster. Safe from any thread; close it."""

    def __init__(self, spec: ClusterSpec) -> None:
        """Connect. Raises ClusterUnreachable, and MissingExtraError where Ray is not installed."""
        if find_spec("ray") is None:
            raise MissingExtraError(
                "`on: ray` needs the package ray, which is not installed; pip install 'thirdshift[ray]'"
            )
        _check_head(spec.address)
        self.spec = spec
        self._lock = threading.Lock()
        self._seats: dict[int, ClusterSeat] = {}
        self._asked = 0
        self._log = EngineLog()
        self._replies: SimpleQueue[Header | None] = SimpleQueue()
        self.gone: str | None = None
        """Why the connection has ended."""
        self._process = subprocess.Popen(
            (sys.executable, "-m", "thirdshift.engines.ray.bridge", spec.address),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**OUR_SETTINGS, **os.environ},
            start_new_session=True,  # a Ctrl-C is for us to answer
        )
        if self._process.stdin is None:
            raise RuntimeError("a process without pipes")
        self._to = FrameWriter(self._process.stdin)
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._read, self._read_log)]
        for thread in self._threads:
            thread.start()
        told = self._reply(CONNECT_SECONDS)
        if told is None:  # no other bridge would hear more
            self.close()
            why = f"nothing was heard of it for {CONNECT_SECONDS:.0f} s"
            raise ClusterUnreachable(f"the Ray cluster at {spec.address} cannot be used: {why}")
        if told["op"] == "failed":
            self.close()
            raise self._unreachable(f"the Ray cluster at {spec.address} cannot be used: {told['why']}")
        self.version: str = told["ray"]
        self.nodes: list[dict[str, Any]] = told["nodes"]

    def look(self, model: str, seconds: float = CONNECT_SECONDS) -> list[dict[str, Any]]:
        """Return the nodes that are alive, each with what a worker would find there. Raises ClusterUnreachable."""
        try:
            self.say({"op": "look", "python": self.spec.python, "model": model, "probe": PROGRAM})
        except WorkerLost as lost:
            raise BridgeEnded(str(lost)) from None
        told = self._reply(seconds + 5.0)
        if told is None or "nodes" not in told:
            why = self.gone or f"it has not answered for {seconds:.0f} s"
            raise self._unreachable(f"the Ray cluster at {self.spec.address} cannot be looked at: {why}")
        found: list[dict[str, Any]] = told["nodes"]
        return found

    def ask(self, order: SeatOrder) -> ClusterSeat:
        """Ask for a seat; `ClusterSeat.wait_placed` tells when there is a place for it. Raises WorkerLost."""
        with self._lock:
            self._asked += 1
            seat = self._seats[self._asked] = ClusterSeat(self, self._asked)
        self.say(
            {
                "op": "ask",
                "seat": seat.number,
                "name": order.name,
                "device": order.device,
                "devices": order.devices,
                "cpus": order.cpus,
                "machine": order.machine,
                "seats": order.seats,
                "place": order.place,
                "runtime_env": dict(self.spec.runtime_env),
                "look_for": self.spec.python,
                "model": order.model,
                "probe": PROGRAM,
            }
        )
        return seat

    def say(self, header: Header, payload: bytes = b"") -> None:
        """Send a frame. Raises WorkerLost where the connection has ended."""
        try:
            self._to.write(header, payload)
        except (OSError, ValueError):
            raise WorkerLost(self.gone or "the connection to the cluster has ended") from None

    def forget(self, seat: ClusterSeat) -> None:
        """Give a seat back."""
        with self._lock:
            known = self._seats.pop(seat.number, None)
        if known is not None:
            with suppress(WorkerLost):
                self.say({"op": "release", "seat": seat.number})

    def close(self) -> None:
        """End the connection; Ray ends what it held."""
        with suppress(OSError, ValueError):
            self._to.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join(END_SECONDS)

    def _unreachable(self, why: str) -> ClusterUnreachable:
        """Make the error: of the bridge where it was killed, of the cluster else."""
        if self.gone is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
        return BridgeEnded(why) if (self._process.poll() or 0) < 0 else ClusterUnreachable(why)

    # --- threads ---

    def _reply(self, seconds: float) -> Header | None:
        with suppress(Empty):
            return self._replies.get(timeout=seconds)
        return None

    def _read(self) -> None:
        pipe = self._process.stdout
        if pipe is None:
            return
        with pipe:
            for header, payload in frames(pipe):
                if "seat" not in header:
                    self._replies.put(header)
                    continue
                with self._lock:
                    seat = self._seats.get(header["seat"])
                if seat is not None:
                    seat.take(header, payload)
        self.gone = f"the connection to the cluster has ended: {self._log.last_lines(2)}"
        self._replies.put({"op": "failed", "why": self.gone})
        with self._lock:
            seats = list(self._seats.values())
        for seat in seats:
            seat.take({"op": "lost", "why": self.gone}, b"")

    def _read_log(self) -> None:
        pipe = self._process.stderr
        if pipe is None:
            return
        with pipe:
            for line in pipe:
                self._log.add(line.decode(errors="replace"))
