"""What batches cost when they come late, expire, are left by a dead process, or are larger than one batch may be.

    python benchmarks/batches.py [--requests 120000] [--only late expired crash large]

Against the emulated provider, whose books say what was billed:

- late: 1,000 rows, the batch 90 % done and stuck as the deadline nears. It is cut short and the rest is sent in real
  time: every row is answered, and no more than 1,000 answers are billed besides what is done after the cancel;
- expired: the batch expires halfway. Only the unfinished are sent again;
- crash: the process is killed as soon as the provider has its batch, on OpenAI's wire and on Anthropic's, there without
  what it would have written down next. The next process finds that batch: there is one, each request is billed once;
- large: 120,000 requests of 3 KB on both wires are split by the provider's limits, in a memory that does not hold them.

The first two are `thirdshift run` itself. The last line is JSON; exit 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from thirdshift.engines.batch.engine import BatchEngine
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.emulator import BatchHabits, EmulatedModel, Emulator, KnownRow
from thirdshift.router.interfaces import EngineContext, Shard
from thirdshift.router.values import Answer, Endpoint, Mode, Price, PriceSchedule, Purpose, Request
from thirdshift.warehouse.journal.journal import FileJournal
from thirdshift.warehouse.store.ask import ask

ROWS = 1000
DEADLINE_SECONDS = 75
"""The deadline of the late run: half of it is the batch's before it may be cut short."""
PRICE = Price(Decimal(1), Decimal(4))
MODEL = EmulatedModel("m", PRICE, ability=9.0, batch_price=PRICE)
WIRES = {"openai": "/batches", "anthropic": "/messages/batches"}
PROMPT_BYTES = 3000
BYTES_EACH = 1000
"""Bytes of our memory per request under way: what is kept of it while its batch runs is a third of its prompt."""
BYTES_BESIDES = 100_000_000


# --- nights ----------------------------------------------------------------------------------------------------------


def night(habits: BatchHabits, **keys: Any) -> dict[str, Any]:
    """A night of a batch tier and the same model in real time; what came of it."""
    rows = [
        {"request_id": f"r{n}", "prompt": f"What is {n} plus {n}?", "reference": str(2 * n)}
        for n in range(ROWS)
    ]
    known = [KnownRow(prompt=row["prompt"], reference=row["reference"]) for row in rows]
    with tempfile.TemporaryDirectory() as name, Emulator([MODEL], items=known, batches=habits) as emulator:
        folder = Path(name)
        pq.write_table(pa.Table.from_pylist(rows), folder / "requests.parquet")
        reached = {"model": "openai/m", "api_base": emulator.api_base}
        tier = {"name": "night", "mode": "batch", "turnaround": "1s", "price": {"input": 0.5, "output": 2}}
        day = {"name": "day", "price": {"input": 1, "output": 4}}
        job = {
            "name": "late",
            "input": "requests.parquet",
            "warehouse": "warehouse.duckdb",
            "request": {"max_tokens": 32},
            "endpoints": [reached | tier, reached | day],
            **keys,
        }
        (folder / "job.yaml").write_text(yaml.safe_dump(job))
        program = Path(sys.executable).parent / "thirdshift"
        done = subprocess.run(
            [program, "run", folder / "job.yaml", "--run-id", "one"],
            capture_output=True,
            text=True,
            check=False,
        )
        sql = "select count(*) as results, count(error) as errors from results"
        row = ask(folder / "warehouse.duckdb", sql).to_pylist()[0]
        billed = Counter(entry["mode"] for entry in emulator.books())
    return {"exit": done.returncode, **row, "billed": dict(billed)}


def late() -> tuple[dict[str, Any], bool]:
    habits = BatchHabits(turnaround_seconds=3, stuck_at=0.9, cancel_seconds=1)
    figures = night(habits, deadline=f"{DEADLINE_SECONDS}s", on_deadline="realtime")
    met = figures["results"] == ROWS and not figures["errors"] and sum(figures["billed"].values()) <= ROWS
    return figures, met and figures["billed"].get("batch") == 9 * ROWS // 10


def expired() -> tuple[dict[str, Any], bool]:
    figures = night(BatchHabits(turnaround_seconds=3, stuck_at=0.5, expires_seconds=4))
    met = figures["results"] == ROWS and not figures["errors"]
    return figures, met and figures["billed"] == {"batch": ROWS // 2, "realtime": ROWS // 2}


# --- shards ----------------------------------------------------------------------------------------------------------


class Requests:
    """Requests that exist only while they are looked at."""

    def __init__(self, count: int, size: int) -> None:
        self._count, self._size = count, size

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Request]:
        for n in range(self._count):
            content = {"role": "user", "content": f"{n} " + "x" * self._size}
            yield Request(n, f"r{n}", "h", "t", (content,), 16)


@contextmanager
def shard(
    wire: str, api_base: str, folder: Path, requests: Requests, key: str = "run/s"
) -> Iterator[Iterator[Any]]:
    """What a batch engine on that wire says to the requests, one by one; all its records are in `folder`."""
    endpoint = Endpoint("night", f"{wire}/m", PriceSchedule(PRICE), Mode.BATCH, api_base=api_base)
    endpoint = replace(endpoint, emulated=True)
    with FileJournal(folder) as journal:
        engine = BatchEngine(endpoint, EngineContext(journal, RunBudget(None), keep=folder))
        ticket = engine.submit(Shard("run", "s", "night", Purpose.MAIN, requests), key)
        try:
            yield engine.collect(ticket)
        finally:
            engine.close()


def answers(wire: str, api_base: str, folder: Path, count: int, key: str = "run/s") -> int:
    with shard(wire, api_base, folder, Requests(count, 20), key) as replies:
        return sum(isinstance(reply, Answer) for reply in replies)


def listed(emulator: Emulator, wire: str) -> int:
    """How many batches the provider has."""
    with build_opener(ProxyHandler({})).open(f"{emulator.api_base}{WIRES[wire]}?limit=100") as response:
        return len(json.load(response)["data"])


def crash() -> tuple[dict[str, Any], bool]:
    figures: dict[str, Any] = {}
    for wire in WIRES:
        with tempfile.TemporaryDirectory() as name, _provider(turnaround_seconds=3) as emulator:
            folder = Path(name)
            process = multiprocessing.get_context("spawn").Process(
                target=answers, args=(wire, emulator.api_base, folder, ROWS)
            )
            process.start()
            while not listed(emulator, wire):
                time.sleep(0.002)
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            for written in folder.glob("batches/*.name"):
                written.unlink()
            answered = answers(wire, emulator.api_base, folder, ROWS)
            billed = len(emulator.books())
            figures[wire] = {"batches": listed(emulator, wire), "answers": answered, "billed": billed}
    return figures, all(
        reply == {"batches": 1, "answers": ROWS, "billed": ROWS} for reply in figures.values()
    )


def large(count: int) -> tuple[dict[str, Any], bool]:
    figures: dict[str, Any] = {}
    met = True
    process = psutil.Process()
    for wire in WIRES:
        with tempfile.TemporaryDirectory() as name, _provider() as emulator:
            answers(wire, emulator.api_base, Path(name) / "warm", 100, "run/warm")
            before, began = process.memory_info().rss, time.perf_counter()
            cpu = sum(process.cpu_times()[:2])
            most = answered = 0
            with _watched(process) as rss:
                with shard(wire, emulator.api_base, Path(name), Requests(count, PROMPT_BYTES)) as replies:
                    answered = sum(isinstance(reply, Answer) for reply in replies)
                most = max(rss)
            batches = listed(emulator, wire) - 1
            figures[wire] = {
                "answers": answered,
                "billed": len(emulator.books()) - 100,
                "batches": batches,
                "rss_grew_mb": round((most - before) / 1e6),
                "seconds": round(time.perf_counter() - began),
                "cpu_seconds": round(sum(process.cpu_times()[:2]) - cpu),
            }
            met &= answered == figures[wire]["billed"] == count and batches == _batches(wire, count)
            met &= most - before < BYTES_EACH * count + BYTES_BESIDES
    return figures, met


def _batches(wire: str, count: int) -> int:
    """As few as the limits allow; a line is its prompt and at most 200 bytes."""
    requests, size = {"openai": (50_000, 199e6), "anthropic": (100_000, 255e6)}[wire]
    return max(math.ceil(count / requests), math.ceil(count * (PROMPT_BYTES + 200) / size))


@contextmanager
def _watched(process: psutil.Process) -> Iterator[list[int]]:
    """The memory of this process, looked at five times a second."""
    seen, over = [process.memory_info().rss], threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            seen.append(process.memory_info().rss)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@contextmanager
def _provider(turnaround_seconds: float = 0.5) -> Iterator[Emulator]:
    habits = BatchHabits(turnaround_seconds=turnaround_seconds, max_requests=100_000, max_bytes=300_000_000)
    with Emulator([MODEL], batches=habits) as emulator:
        yield emulator


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=120_000)
    parser.add_argument("--only", nargs="+", default=["late", "expired", "crash", "large"])
    args = parser.parse_args(words)
    shows = {"late": late, "expired": expired, "crash": crash, "large": lambda: large(args.requests)}
    figures: dict[str, Any] = {"benchmark": "batches"}
    met = True
    for name in args.only:
        figures[name], held = shows[name]()
        print(f"{name}: {figures[name]}" + ("" if held else "  NOT AS STATED"), flush=True)
        met &= held
    print(json.dumps({**figures, "load": round(os.getloadavg()[0], 1), "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
