"""A real Ray on this machine for tests, in a process of its own: nodes are raylets, which may be killed one by one."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil

from tests.support.patience import PATIENCE_SECONDS

PROGRAM = """
import json, logging, sys
logging.disable(logging.CRITICAL)
import os
from ray.cluster_utils import Cluster
nodes = json.loads(sys.argv[1])
memory = 100_000_000
os.mkdir(os.environ["RAY_TMPDIR"] + "/ray")
cluster = Cluster()

def add(resources):
    others = {name: amount for name, amount in resources.items() if name not in ("CPU", "GPU")}
    counts = {"num_cpus": resources.get("CPU", 0), "num_gpus": resources.get("GPU", 0)}
    node = cluster.add_node(**counts, resources=others, object_store_memory=memory)
    return {"pid": node.all_processes["raylet"][0].process.pid, "id": node.node_id, "node": node}

made = [add(resources) for resources in nodes]
head = made[0].pop("node").all_processes["gcs_server"][0].process.pid
pids, ids = [one["pid"] for one in made], [one["id"] for one in made]
print(json.dumps({"address": cluster.address, "raylets": pids, "head": head, "ids": ids}), flush=True)
for line in sys.stdin:
    print(json.dumps({"pid": add(json.loads(line))["pid"]}), flush=True)
cluster.shutdown()
"""


@dataclass(frozen=True, slots=True)
class RayCluster:
    """A Ray that is up."""

    address: str
    raylets: tuple[int, ...]
    """Process ids, the head's node first."""
    ids: tuple[str, ...]
    """Ray's names of the nodes."""
    head: int
    """The process id of what knows the cluster."""
    keeper: subprocess.Popen[bytes] | None = None
    """The process that holds it."""

    def add_node(self, resources: dict[str, float]) -> int:
        """Add a node and return its raylet's process id."""
        assert self.keeper is not None
        assert self.keeper.stdin is not None
        assert self.keeper.stdout is not None
        self.keeper.stdin.write(json.dumps(resources).encode() + b"\n")
        self.keeper.stdin.flush()
        told = next(json.loads(line) for line in self.keeper.stdout if line.startswith(b"{"))
        return int(told["pid"])

    def actors(self) -> list[psutil.Process]:
        """Actors of ours on this cluster's nodes. Another run of the tests has a cluster of its own."""
        assert self.keeper is not None
        below = psutil.Process(self.keeper.pid).children(recursive=True)
        return [one for one in below if _is_actor(one)]


@contextmanager
def ray_cluster(*nodes: dict[str, float]) -> Iterator[RayCluster]:
    """Start a cluster of nodes with these resources; the first has the head. Nothing is left of it afterwards."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    before = {name: os.environ.get(name) for name in token}
    os.environ.update(token)
    # sockets' names have a limit, so no folder of pytest's
    with tempfile.TemporaryDirectory(prefix="ts-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            (sys.executable, "-W", "ignore", "-c", PROGRAM, json.dumps(nodes)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "RAY_TMPDIR": folder},
        )
        below: list[psutil.Process] = []
        try:
            assert process.stdout is not None
            told = next(json.loads(line) for line in process.stdout if line.startswith(b"{"))
            raylets, ids = tuple(told["raylets"]), tuple(told["ids"])
            yield RayCluster(told["address"], raylets, ids, told["head"], process)
        finally:
            below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=20.0)  # the end of its stdin
            process.kill()
            process.wait()
            for one in below:
                if one.is_running():
                    one.kill()
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def actors() -> list[psutil.Process]:
    """Actors of ours that are alive on this machine."""
    return [one for one in psutil.process_iter() if _is_actor(one)]


def _is_actor(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and "ray::Seat" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def until(true: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """Wait until it is true and return what it is."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return value


def ended(thread: threading.Thread) -> None:
    """Wait until the thread has ended, not for ever: with no node left, a night waits for one."""
    until(lambda: not thread.is_alive())


def gone(pids: Sequence[int]) -> bool:
    """Whether none of these processes runs any more."""
    running = [pid for pid in pids if psutil.pid_exists(pid)]
    return all(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE for pid in running)
