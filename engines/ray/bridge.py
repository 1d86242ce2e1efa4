"""The bridge: the process that speaks with Ray for us. A program, run as `python -m thirdshift.engines.ray.bridge ADDRESS`.

Ray ends the process that it runs in when the cluster's head stays away, writes to its standard output and handles its
signals; so it runs in this one, and a run outlives it. Frames (`frames.py`) come on stdin and go to what was stdout:

    ← {"op": "connected", "ray", "nodes"} or {"op": "failed", "why"}
    → {"op": "look", "python", "model", "probe"}                  what every node has
    ← {"op": "looked", "nodes": [{"id", …, "found" or "why"}]}
    → {"op": "ask", "seat", "name", "devices", …}                 a seat is wanted
    ← {"op": "placed", "seat", "node_id", "found"}                it has a place from now on
    → {"op": "start", "seat", "python", "hello", "environment", "cards"}
    ← {"op": "started", "seat", "pid"}
    → {"op": "lines", "seat"} + lines                             for the worker
    ← {"op": "said", "seat", "log", "status", "joules"} + lines   by the worker; with a status it has ended
    ← {"op": "leaving", "seat"}                                   its node is about to go
    ← {"op": "lost", "seat", "why"}
    → {"op": "release", "seat"}

At the end of stdin it ends, and Ray ends its actors.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import TaskUnschedulableError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from thirdshift.engines.devices import energy
from thirdshift.engines.ray import seat
from thirdshift.engines.ray.frames import FrameWriter, Header, frames
from thirdshift.engines.ray.head import LISTENS, head_here
from thirdshift.engines.vllm import keys

PROGRAM = Path(__file__).parents[1] / "vllm" / "worker.py"
NAMESPACE = "thirdshift"
POLL_SECONDS = 5.0
SILENCE_SECONDS = 60.0
"""A seat that nobody has polled for so long ends: it is cut off, and its devices cost money."""
NOTICE_SECONDS = 2.0
"""How often it is asked which nodes are about to go."""
LOOK_SECONDS = 60.0
END_SECONDS = 5.0
NOT_LET_IN = "Failed to connect to Ray cluster"
"""What Ray says of a head that somebody else's token was shown to (2.60.0); where nobody listens it was not asked."""
GROUPS = {"lines": 1, "poll": 1}
"""Each in the order of its calls, and none waits for the other."""


class Machines:
    """Placement groups that have several seats on one node, as long as one of these is there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: dict[int, tuple[Any, set[int]]] = {}
        """By the machine's number: its group, and its seats."""

    def join(self, machine: int, seat: int, bundle: dict[str, float], seats: int) -> Any:
        """Return the group of a machine, made for its first seat."""
        with self._lock:
            if machine not in self._groups:
                group = placement_group([bundle] * seats, strategy="STRICT_PACK")
                self._groups[machine] = group, set()
            self._groups[machine][1].add(seat)
            return self._groups[machine][0]

    def leave(self, machine: int | None, seat: int) -> None:
        """Give a seat's place back; the machine's with the last."""
        with self._lock:
            if machine is None or machine not in self._groups:
                return
            group, seats = self._groups[machine]
            seats.discard(seat)
            if not seats:
                del self._groups[machine]
                with suppress(Exception):
                    remove_placement_group(group)


class SeatCalls:
    """One actor and the thread that polls it."""

    def __init__(self, order: Header, back: FrameWriter, machines: Machines) -> None:
        self._order, self._back, self._number = order, back, order["seat"]
        self._machines = machines
        self._group: Any = None
        self._actor: Any = None
        self.node_id = ""
        self.told_leaving = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def begin(self) -> None:
        """Ask for the actor, on a thread that waits for its place."""
        self._actor = self._created()
        self._thread.start()

    def start(self, order: Header) -> None:
        """Have the worker started, on a thread that tells its process id."""
        threading.Thread(target=self._start, args=(order,), daemon=True).start()

    def send(self, block: bytes) -> None:
        self._actor.send.options(concurrency_group="lines").remote(block)

    def release(self) -> None:
        """End the worker and the actor, whether or not it ever had a place."""
        if self.node_id:
            with suppress(Exception):
                ray.get(self._actor.end.remote(), timeout=END_SECONDS)
        with suppress(Exception):
            ray.kill(self._actor, no_restart=True)
        if self._group is not None:
            with suppress(Exception):
                remove_placement_group(self._group)
        self._machines.leave(self._order["machine"], self._number)

    def _created(self) -> Any:
        order = self._order
        devices = {"GPU": order["devices"]} if order["device"] == "cuda" else {}
        others = {"NPU": order["devices"]} if order["device"] == "npu" else {}
        options: dict[str, Any] = {
            "name": order["name"],
            "num_cpus": order["cpus"],
            "num_gpus": devices.get("GPU", 0),
            "resources": others,
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        if order["runtime_env"]:
            options["runtime_env"] = order["runtime_env"]
        bundle = {"CPU": order["cpus"], **devices, **others}
        if order["machine"] is not None:
            machine = self._machines.join(order["machine"], self._number, bundle, order["seats"])
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(machine, order["place"])
        elif order["devices"] > 1:
            self._group = placement_group([bundle], strategy="STRICT_PACK")
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(self._group)
        remote: Any = ray.remote  # whose types know no groups
        actor = remote(concurrency_groups=GROUPS)(seat.Seat).options(**options)
        return actor.remote(PROGRAM.read_text(encoding="utf-8"), SILENCE_SECONDS)

    def _start(self, order: Header) -> None:
        given = order["python"], order["hello"], order["environment"], order["cards"]
        try:
            pid = ray.get(self._actor.start.remote(*given))
            self._back.write({"op": "started", "seat": self._number, "pid": pid})
        except Exception as error:  # noqa: BLE001 - whatever keeps it from starting
            with suppress(OSError, ValueError):
                self._back.write({"op": "lost", "seat": self._number, "why": in_short(error)})

    def _run(self) -> None:
        order, say = self._order, self._back.write
        try:
            self.node_id = ray.get(self._actor.__ray_call__.remote(_node_id))
            placed_at = time.time()
            found = ray.get(self._actor.look.remote(order["look_for"], order["model"], order["probe"]))
            say(
                {
                    "op": "placed",
                    "seat": self._number,
                    "node_id": self.node_id,
                    "found": found,
                    "at": placed_at,
                }
            )
            status = None
            while status is None:
                poll = self._actor.poll.options(concurrency_group="poll")
                data, log, status, drawn = ray.get(poll.remote(POLL_SECONDS))
                if data or log or status is not None:
                    header = {"op": "said", "seat": self._number, "log": log, "status": status}
                    say({**header, "joules": drawn}, data)
        except Exception as error:  # noqa: BLE001 - whatever ends a seat, it is lost
            with suppress(OSError, ValueError):
                say({"op": "lost", "seat": self._number, "why": in_short(error)})


def _node_id(_: Any) -> str:
    return str(ray.get_runtime_context().get_node_id())


def in_short(error: BaseException) -> str:
    """The sentences of an error of Ray's, whose messages are pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    return " ".join(lines[:2])[:400] or type(error).__name__


class Bridge:
    """Does what the frames ask, on the cluster that this process is connected to."""

    def __init__(self, back: FrameWriter) -> None:
        self._back = back
        self._seats: dict[int, SeatCalls] = {}
        self._machines = Machines()
        threading.Thread(target=self._watch_notices, daemon=True).start()

    def do(self, header: Header, payload: bytes) -> None:
        """Carry out one frame. What goes wrong with a seat is told as its loss."""
        if header["op"] == "look":
            threading.Thread(target=self._look, args=(header,), daemon=True).start()
            return
        number = header["seat"]
        try:
            if header["op"] == "ask":
                self._seats[number] = SeatCalls(header, self._back, self._machines)
                self._seats[number].begin()
            elif header["op"] == "start":
                self._seats[number].start(header)
            elif header["op"] == "lines":
                self._seats[number].send(payload)
            else:
                threading.Thread(target=self._seats.pop(number).release, daemon=True).start()
        except Exception as error:  # noqa: BLE001 - of one seat only
            self._back.write({"op": "lost", "seat": number, "why": in_short(error)})

    def release_all(self) -> None:
        """End all seats, side by side."""
        threads = [threading.Thread(target=calls.release, daemon=True) for calls in self._seats.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(END_SECONDS)

    def _look(self, header: Header) -> None:
        """Look at every node that is alive, side by side."""
        given = header["python"], header["model"], header["probe"]
        task = ray.remote(num_cpus=0, max_retries=0)(seat.look)
        asked = [
            (
                node,
                task.options(
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node["id"], soft=False)
                ).remote(*given),
            )
            for node in nodes()
        ]
        until = time.monotonic() + LOOK_SECONDS
        told = []
        for node, reference in asked:
            try:
                found = ray.get(reference, timeout=max(0.0, until - time.monotonic()))
                told.append({**node, "found": found})
            except TaskUnschedulableError:  # it has gone since: a spot machine, one that is scaled away
                continue
            except Exception as error:  # noqa: BLE001 - of one node only
                told.append({**node, "why": in_short(error)})
        alive = {node["id"] for node in nodes()}
        told = [node for node in told if node["id"] in alive]
        self._back.write({"op": "looked", "nodes": told})

    def _watch_notices(self) -> None:
        """Tell of nodes that Ray drains: a spot machine whose end was announced, one that is scaled away."""
        from ray._private.state import state  # Ray's own libraries ask here too; there is no public place

        while True:
            time.sleep(NOTICE_SECONDS)
            draining: set[str] = set()
            with suppress(Exception):  # where a version of Ray does not tell, there is no notice
                draining = set(state.get_draining_nodes())
            for number, calls in list(self._seats.items()):
                if calls.node_id in draining and not calls.told_leaving:
                    calls.told_leaving = True
                    self._back.write({"op": "leaving", "seat": number})


def nodes() -> list[dict[str, Any]]:
    """The cluster's nodes that are alive."""
    known: Any = ray  # untyped
    return [
        {"id": node["NodeID"], "name": node["NodeManagerHostname"], "address": node["NodeManagerAddress"],
         "resources": node["Resources"]}
        for node in known.nodes()
        if node["Alive"]
    ]  # fmt: skip


def located(address: str) -> str:
    """Return where the head is; of `auto`, where Ray finds one on this machine. Raises ConnectionError."""
    if address != "auto":
        return address
    try:
        from ray._private.services import get_ray_address_from_environment  # there is no public place
    except ImportError:  # then Ray looks for itself
        return address
    return head_here(lambda: str(get_ray_address_from_environment(address, None)))


def main() -> int:
    """Connect, serve until the end of stdin, and let go of everything."""
    back = FrameWriter(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)  # whatever Ray prints goes to the log
    pickle: Any = cloudpickle  # untyped
    for travels in (seat, energy, keys):
        pickle.register_pickle_by_value(travels)
    try:
        ray.init(
            address=located(sys.argv[1]), namespace=NAMESPACE, log_to_driver=False, configure_logging=False
        )
    except BaseException as error:  # noqa: BLE001 - told, whatever it is
        why = in_short(error)
        back.write({"op": "failed", "why": f"{why}; {LISTENS}" if why.startswith(NOT_LET_IN) else why})
        return 1
    back.write({"op": "connected", "ray": ray.__version__, "nodes": nodes()})
    bridge = Bridge(back)
    with suppress(OSError, ValueError):  # nobody reads any more
        for header, payload in frames(sys.stdin.buffer):
            bridge.do(header, payload)
    threading.Timer(2 * END_SECONDS, os._exit, (1,)).start()  # Ray's own shutdown can hang
    bridge.release_all()
    ray.shutdown()
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)
