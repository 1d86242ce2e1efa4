"""How fast and how near the optimum a plan for a million requests is, and what simpler ways to choose would
cost.

    python benchmarks/plan.py                       1,000,000 requests x 20 endpoints x 50 tasks
    python benchmarks/plan.py --rows 10000000       the same from memory maps on disk

Requests are made up: log-normal tokens, item-response quality with each task's own taste. Floor, capacities,
two pools of workers, a vendor share. It must take at most 15 s of one core and 2 GiB, and be proven within a
thousandth of the optimum; at ten million rows time is only told, and what stays in memory must be no more
than the columns kept.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.planning import Option, Problem, Terms, Workers
from thirdshift.router.planning.coefficients import chunks, pairs
from thirdshift.router.planning.solve import cheapest

WIDTH, TASKS, NIGHT = 20, 50, 8 * 3600.0
POOLS = (6, 9)
KEPT_BYTES = 28
"""Per row: task, weight and input tokens 4 bytes each, as given; group 4, edge 4 and its order 8 at most for
a moment, choice and runner-up 2 each (their copies while they are exchanged are over by then)."""
FIXED_BYTES = 400e6
"""The interpreter, NumPy, SciPy and HiGHS with its program, whatever the number of rows."""


def made_up(rows: int, folder: Path, seed: int = 7) -> Problem:
    """Written to memory maps chunk by chunk, so that making it needs no memory either."""
    rng = np.random.default_rng(seed)
    ability = np.linspace(-1.0, 2.5, WIDTH)
    price = 0.05 * np.exp(1.3 * ability) * rng.uniform(0.7, 1.4, WIDTH)
    price[list(POOLS)] = 0.0
    taste, level = rng.normal(0, 0.3, (TASKS, WIDTH)), rng.normal(0, 0.7, TASKS)
    maps = {name: _map(folder / name, rows) for name in ("cost", "quality", "output")}
    task = rng.integers(0, TASKS, rows).astype(np.int32)
    inputs = np.exp(rng.normal(6, 0.8, rows)).astype(np.float32)
    for part in chunks(rows):
        size = part.stop - part.start
        difficulty = rng.normal(0, 1.2, size) + level[task[part]]
        outputs = np.exp(rng.normal(5, 0.6, (size, 1)) + rng.normal(0, 0.2, (1, WIDTH)))
        maps["output"][part] = outputs
        maps["cost"][part] = (inputs[part, None] + 4 * outputs) * price * 1e-6
        maps["quality"][part] = 1 / (1 + np.exp(difficulty[:, None] - ability - taste[task[part]]))
    options = tuple(_option(e, rows) for e in range(WIDTH))
    names = tuple(f"task-{t:02d}" for t in range(TASKS))
    weight = np.ones(rows, dtype=np.int32)
    terms = Terms(floor=0.8, max_vendor_share=0.3, seconds=NIGHT)
    return Problem(
        options, names, task, weight, maps["cost"], maps["quality"], inputs, maps["output"], terms=terms
    )


def _map(path: Path, rows: int) -> NDArray[np.float32]:
    return np.memmap(path, dtype=np.float32, mode="w+", shape=(rows, WIDTH))


def _option(e: int, rows: int) -> Option:
    """Every third is limited in requests, every fourth in tokens; two are workers."""
    name = f"endpoint-{e:02d}"
    if e in POOLS:
        speed = rows / 1e6
        workers = Workers(8, 2.49 * max(1.0, speed), 20_000 * speed, 4_000 * speed, 300, 1_800)
        return Option(name, name, f"vendor-{e % 5}", workers=workers)
    return Option(
        name, name, f"vendor-{e % 5}",
        requests_per_second=rows / 12 / NIGHT if e % 3 == 0 else None,
        tokens_per_second=60 * rows / NIGHT if e % 4 == 0 else None,
    )  # fmt: skip


# --- simpler ways to choose


def sample(problem: Problem, rows: int = 100_000) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cost, busy hours of workers included, and quality of evenly spaced rows."""
    p = pairs(problem, np.unique(np.linspace(0, problem.n - 1, min(rows, problem.n)).astype(np.int64)))
    return p.cost, p.worth / p.weight[:, None]


def greedy(cost: NDArray[np.float64], quality: NDArray[np.float64], goal: float) -> float:
    """Mean cost of: for each request the cheapest that clears a threshold, else the best; the threshold that
    reaches `goal`."""
    rows = np.arange(len(cost))
    low, high = 0.0, 1.0
    for _ in range(40):
        threshold = (low + high) / 2
        cleared = quality >= threshold
        choice = np.where(
            cleared.any(axis=1), np.where(cleared, cost, np.inf).argmin(axis=1), quality.argmax(axis=1)
        )
        if quality[rows, choice].mean() >= goal:
            high = threshold
        else:
            low = threshold
    return float(cost[rows, choice].mean())


def best_mix(cost: NDArray[np.float64], quality: NDArray[np.float64], goal: float) -> float:
    """Mean cost of the cheapest random mix of two endpoints (or one) with mean quality `goal`."""
    points = sorted(zip(quality.mean(axis=0), cost.mean(axis=0), strict=True))
    best = math.inf
    for q_low, c_low in points:
        for q_high, c_high in points:
            if q_low <= goal <= q_high:
                share = (goal - q_low) / (q_high - q_low) if q_high > q_low else 1.0
                best = min(best, c_low + share * (c_high - c_low))
    return float(best)


# --- measuring


class Watch(threading.Thread):
    """The largest anonymous memory seen: mapped files are the kernel's to drop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.02):
            for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
                if line.startswith("RssAnon"):
                    self.peak_bytes = max(self.peak_bytes, int(line.split()[1]) * 1024)

    def stop(self) -> int:
        self._done.set()
        self.join()
        return self.peak_bytes


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        problem = made_up(rows, Path(folder))
        watch = Watch()
        watch.start()
        cpu, wall = time.process_time(), time.perf_counter()
        plan = cheapest(problem)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        anonymous = watch.stop()
        if plan is None:
            print("no plan found")
            return 1
        cost, quality = sample(problem)
        free = cheapest(problem.under(Terms(floor=plan.quality)))
    figures = {
        "rows": rows, "endpoints": WIDTH, "tasks": TASKS, "cost_usd": round(plan.cost_usd, 4), "gap":
        plan.gap, "quality": round(plan.quality, 6), "workers": dict(plan.workers), "cpu_seconds": round(cpu,
        2), "wall_seconds": round(wall, 2), "anonymous_mib": round(anonymous / 2**20), "peak_rss_mib":
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "without_limits_usd": None if free is None
        else round(free.cost_usd, 4), "greedy_usd": round(greedy(cost, quality, plan.quality) * rows, 4),
        "best_mix_usd": round(best_mix(cost, quality, plan.quality) * rows, 4),
    }  # fmt: skip
    for name in ("greedy", "best_mix"):
        figures[f"{name}_ratio"] = round(figures[f"{name}_usd"] / (free or plan).cost_usd, 3)
    print(
        f"plan: ${plan.cost_usd:.2f} at {plan.quality:.4f}, proven within {plan.gap:.3%}; {cpu:.1f} s of CPU"
    )
    print("at the same predicted quality, with no limit but the floor, for each dollar of our plan:")
    print(
        f"  greedy ${figures['greedy_ratio']:.3f}   best mix of two endpoints ${figures['best_mix_ratio']:.3f}"
    )
    memory = 2 * 2**30 if rows <= 1_000_000 else KEPT_BYTES * rows + FIXED_BYTES
    met = plan.gap <= 1e-3 and anonymous <= memory and (cpu <= 15 or rows > 1_000_000)
    print(json.dumps(figures | {"met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
