"""Requests per second of one core that the emulated provider answers: it is the other side of other benchmarks.

    python benchmarks/emulator.py [--requests 20000]

Real requests over loopback, 100 in flight, no latency; the server's own processor time is what counts, so that a
busy machine gives the same figure. Ends with one JSON line; exit 1 below 2,000.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from decimal import Decimal

import aiohttp
import psutil

from thirdshift.engines.emulator import EmulatedModel, Emulator, KnownRow
from thirdshift.flows.cli.demo.exercises import items
from thirdshift.router.values import Price

STATED = 2000
IN_FLIGHT = 100


async def ask_all(url: str, prompts: Iterator[str]) -> None:
    """Every prompt once, `IN_FLIGHT` at a time."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def work() -> None:
            for prompt in prompts:
                body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "max_tokens": 64}
                async with session.post(url, json=body) as response:
                    await response.read()

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=20_000)
    count = parser.parse_args().requests
    known = [KnownRow(item.prompt, item.reference, item.difficulty) for item in items(count)]
    model = EmulatedModel("m", Price(Decimal("0.1"), Decimal("0.4")), ability=0.5, slope=8)
    began = time.perf_counter()
    with Emulator([model], items=known) as emulator:
        ready = time.perf_counter() - began
        server = psutil.Process(emulator.pid)
        before, began = server.cpu_times(), time.perf_counter()
        asyncio.run(ask_all(f"{emulator.api_base}/chat/completions", (str(row.prompt) for row in known)))
        after, wall = server.cpu_times(), time.perf_counter() - began
        billed = emulator.totals()["m"]["billed"]
    cpu = after.user + after.system - before.user - before.system
    figures = {
        "requests": count,
        "billed": billed,
        "ready_seconds": round(ready, 2),
        "per_second_of_wall": round(count / wall),
        "per_second_of_core": round(count / cpu),
        "stated": STATED,
    }
    print(json.dumps(figures))
    return 0 if billed == count and count / cpu >= STATED else 1


if __name__ == "__main__":
    sys.exit(main())
