"""One engine with Ray and without: the same shards by two drivers, one after the other, in one run."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_name("driver.py")
RATIO, MEMORY, SCATTER = 0.97, 0.10, 0.10
"""Of the speed without Ray at least; more memory at most; how far the runs without Ray may differ from each other."""


class Driver:
    """A driver in a process of its own; `beside`: pids of what else works for it, with all below them."""

    def __init__(self, hello: dict[str, Any], beside: Callable[[], list[int]]) -> None:
        self._beside = beside
        self._process = subprocess.Popen(
            (sys.executable, str(DRIVER), json.dumps(hello)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.peak_mib = 0.0

    def run(self, shard: dict[str, Any]) -> dict[str, float]:
        """Have one shard answered; processor seconds are those of all processes that had a part in it."""
        to, back = self._process.stdin, self._process.stdout
        if to is None or back is None:
            raise RuntimeError("a process without pipes")
        before = self._cpu()
        print(json.dumps(shard), file=to, flush=True)
        told: dict[str, float] = json.loads(back.readline())
        if told["answered"] != shard["requests"]:
            raise RuntimeError(f"{told['answered']} answers to {shard['requests']} requests")
        self.peak_mib = told["peak_mib"]
        return told | {"tree_seconds": self._cpu() - before}

    def bridge_mib(self) -> float:
        """Memory of the process that speaks with Ray; 0 without."""
        sizes = [
            child.memory_info().rss
            for child in psutil.Process(self._process.pid).children()
            if "thirdshift.engines.ray.bridge" in child.cmdline()
        ]
        return sum(sizes) / 2**20

    def close(self) -> None:
        self._process.communicate()

    def _cpu(self) -> float:
        return sum(cpu_seconds(pid) for pid in (self._process.pid, *self._beside()))


def cpu_seconds(pid: int) -> float:
    """Return the processor seconds of a process and all below it, so far."""
    top = psutil.Process(pid)
    return sum(sum(process.cpu_times()[:2]) for process in (top, *top.children(recursive=True)))


def compare(hello: dict[str, Any], *, pairs: int, requests: int, max_tokens: int) -> dict[str, Any]:
    """Return the figures of runs on Ray, each between two without."""
    sys.path.append(str(ROOT))
    from tests.support.ray_cluster import ray_cluster

    seeds = iter(range(1000, 9000))

    def fresh() -> dict[str, Any]:
        return {"requests": requests, "seed": next(seeds), "max_tokens": max_tokens}

    cores = len(os.sched_getaffinity(0))
    with ray_cluster({"CPU": cores, "GPU": hello["gpus"]}) as cluster:
        keeper = [] if cluster.keeper is None else [cluster.keeper.pid]
        local, ray = Driver(hello, list), Driver(hello | {"address": cluster.address}, lambda: keeper)
        try:
            for driver in (local, ray):
                driver.run(fresh())  # what is compiled or allocated once
            found = [_pair(local, ray, fresh) for _ in range(pairs)]
            bridge = ray.bridge_mib()
        finally:
            for driver in (local, ray):
                driver.close()
    figures: dict[str, Any] = {
        name: round(statistics.median(pair[name] for pair in found), 4) for name in found[0]
    }
    figures["ratios"] = [round(pair["ratio"], 3) for pair in found]
    figures["memory_ratio"] = round(ray.peak_mib / local.peak_mib, 4)
    figures |= {"driver_mib": round(ray.peak_mib), "driver_mib_without": round(local.peak_mib)}
    return figures | {"bridge_mib": round(bridge)}


def _pair(local: Driver, ray: Driver, fresh: Callable[[], dict[str, Any]]) -> dict[str, float]:
    before, with_ray, after = local.run(fresh()), ray.run(fresh()), local.run(fresh())
    speeds = [run["tokens"] / run["seconds"] for run in (before, with_ray, after)]
    thrifts = [run["tokens"] / run["tree_seconds"] for run in (before, with_ray, after)]
    pair = {
        "ratio": speeds[1] * (1 / speeds[0] + 1 / speeds[2]) / 2,
        "cpu_ratio": thrifts[1] * (1 / thrifts[0] + 1 / thrifts[2]) / 2,
        "peer_scatter": max(speeds[0] / speeds[2], speeds[2] / speeds[0]) - 1,
        "driver_cpu_ratio": 2 * with_ray["cpu_seconds"] / (before["cpu_seconds"] + after["cpu_seconds"]),
        "tokens_per_second": speeds[1],
    }
    print(
        f"without {speeds[0]:,.0f} tokens/s, on Ray {speeds[1]:,.0f}, without {speeds[2]:,.0f}; "
        f"per CPU second {pair['cpu_ratio']:.3f}; load {os.getloadavg()[0]:.1f}",
        file=sys.stderr,
    )
    return pair


def verdict(figures: dict[str, Any]) -> str:
    """Empty: met. Otherwise why not."""
    if figures["peer_scatter"] > SCATTER:
        return f"runs without Ray differ by {figures['peer_scatter']:.0%}: this machine is too busy to judge"
    if figures["ratio"] < RATIO:
        return f"{figures['ratio']:.3f} of the tokens per second without Ray"
    if figures["memory_ratio"] > 1 + MEMORY:
        return f"the driver takes {figures['memory_ratio']:.2f} times the memory without Ray"
    return ""
