"""A driver by itself: one engine with one worker, here or on a Ray cluster, that answers shards and says what it took.

    driver.py HELLO       (JSON: model, device, python, options, and for a cluster its address)

Each line on stdin asks for a shard: {"requests", "seed", "max_tokens"}. Each line on stdout is the answer: tokens, seconds,
processor seconds of this process, the most memory it has ever had in MiB, the pid of the worker. It is a process of its own
so that two of them can be compared: with Ray and without.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.ray.engine import RayEngine
from thirdshift.engines.vllm.engine import VllmEngine
from thirdshift.flows.cli.demo.exercises import items
from thirdshift.router.interfaces import EngineContext, Shard
from thirdshift.router.values import (
    ClusterSpec,
    Endpoint,
    Outcome,
    Price,
    PriceSchedule,
    Purpose,
    Request,
    WorkerSpec,
)
from thirdshift.warehouse.journal.journal import FileJournal


class Counted(FileJournal):
    """The real journal, and the tokens of its outcomes."""

    tokens = 0

    def settled(self, outcomes: Iterable[Outcome]) -> None:
        several = list(outcomes)
        super().settled(several)
        self.tokens += sum(
            one.usage.input_tokens + one.usage.output_tokens for one in several if one.usage is not None
        )


def engine(hello: dict[str, Any], journal: FileJournal) -> VllmEngine:
    """Make the engine that HELLO asks for."""
    cluster = ClusterSpec(hello["address"], python=hello["python"]) if hello.get("address") else None
    # up to the end: an idle engine would be stopped while the other driver works
    rented = {"minimum_minutes": 600.0}
    spec = WorkerSpec(hello["device"], 1, hello["python"], hello["options"], cluster=cluster, **rented)
    price = PriceSchedule(Price(Decimal(0), Decimal(0)), usd_per_hour=Decimal(1))
    endpoint = Endpoint("house", hello["model"], price, workers=spec)
    context = EngineContext(journal, RunBudget(None), say=lambda words: print(words, file=sys.stderr))
    return (VllmEngine if cluster is None else RayEngine)(endpoint, context)


def requests(asked: dict[str, Any]) -> list[Request]:
    return [
        Request(n, f"r{n}", "", "bench", ({"role": "user", "content": item.prompt},), asked["max_tokens"],
                sampling={"ignore_eos": True})
        for n, item in enumerate(items(asked["requests"], seed=asked["seed"]))
    ]  # fmt: skip


def main() -> None:
    """Answer shards until the end of stdin."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Counted(Path(folder))
        pool = engine(json.loads(sys.argv[1]), journal)
        for number, line in enumerate(sys.stdin):
            shard = Shard("bench", f"{number:05d}", "house", Purpose.MAIN, requests(json.loads(line)))
            tokens, cpu, began = journal.tokens, time.process_time(), time.monotonic()
            answered = sum(1 for _ in pool.collect(pool.submit(shard, shard.shard_id)))
            told = {
                "answered": answered,
                "tokens": journal.tokens - tokens,
                "seconds": time.monotonic() - began,
                "cpu_seconds": time.process_time() - cpu,
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "pid": pool.worker_lifetimes()[-1].pid,
            }
            print(json.dumps(told), flush=True)
        pool.close()
        journal.close()


if __name__ == "__main__":
    main()
