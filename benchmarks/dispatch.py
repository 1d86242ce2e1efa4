"""Requests per second to a server without latency: our engine with everything on, bare aiohttp, litellm.

    python benchmarks/dispatch.py [--rounds 3] [--requests 4000] [--in-flight 100] [--beside FOLDER [--starts 24]]

The server runs in a process of its own. The three take turns, round after round, so that whatever else the
machine does meets all alike; the median of the rounds counts. "Everything on" is: limiter, budget under a
cap, the night's own journal, cost by usage. Requests per second of the clock and of this process's processor time are
told; the latter decide: where others want the cores too (`load`), the clock says more of them than of us. The last
line is JSON; exit 1 where ours is below 0.7 of bare aiohttp, or eight times litellm's acompletion.

`--beside FOLDER`: this engine and the one of another build (a git worktree) alone take turns, each in a process of its own
that calls its own build's `ours`. Two processes of one build differ by some per cent for as long as they live (where
their objects lie in memory), so each build is started `--starts` times; a pair of processes counts once, by the median
over its rounds of the two times' ratio. Exit 1 where this build takes over 3 % more processor time in the pairs' median.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
from aiohttp import web

from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.realtime.engine import RealtimeEngine
from thirdshift.engines.realtime.litellm import load_litellm
from thirdshift.router.interfaces import EngineContext, Shard
from thirdshift.router.values import Answer, Endpoint, Limits, Price, PriceSchedule, Purpose, Request
from thirdshift.warehouse.journal.journal import FileJournal

SHARE_OF_BARE = 0.7
TIMES_LITELLM = 8.0
SLOWER_MOST = 0.03
LITELLM_SHARE = 10
"""litellm gets so many times fewer requests: it is that much slower, and turns should be of like length."""

REPLY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "The answer is 42. " * 4},
            }
        ],
        "usage": {"prompt_tokens": 60, "completion_tokens": 20, "total_tokens": 80},
    }
).encode()
PROMPT = "How many apples are left when seven of forty-nine are eaten? Think, then answer. " * 3


def serve(pipe: Connection, reply: bytes = REPLY, came: Callable[[], None] = lambda: None) -> None:
    """Answer every chat completion with the same bytes, until the process is ended; `came` is called at each."""
    logging.disable()

    async def chat(request: web.Request) -> web.Response:
        await request.read()
        came()
        return web.Response(body=reply, content_type="application/json")

    async def forever() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        pipe.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(forever())


def messages(row: int) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"{row}: {PROMPT}"}]


async def bare(base: str, count: int, in_flight: int) -> None:
    """What aiohttp alone does: JSON out, JSON in, nothing kept."""
    rows = iter(range(count))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def worker() -> None:
            for row in rows:
                body = {"model": "m", "messages": messages(row), "max_tokens": 100}
                async with session.post(f"{base}/chat/completions", json=body) as response:
                    reply = await response.json()
                    reply["choices"][0]["message"]["content"]  # what a caller would read

        await asyncio.gather(*(worker() for _ in range(in_flight)))


async def through_litellm(base: str, count: int, in_flight: int) -> None:
    litellm = load_litellm()
    rows = iter(range(count))

    async def worker() -> None:
        for row in rows:
            reply = await litellm.acompletion(
                model="hosted_vllm/m", messages=messages(row), max_tokens=100, api_base=base, num_retries=0
            )
            reply.choices[0].message.content  # noqa: B018 - what a caller would read

    await asyncio.gather(*(worker() for _ in range(in_flight)))


def ours(base: str, count: int, in_flight: int) -> None:
    """A shard through the engine: every answer collected, every attempt in the journal, the money settled."""
    price = PriceSchedule(Price(Decimal("0.14"), Decimal("0.28")))
    limits = Limits(rpm=10_000_000, tpm=10_000_000_000, concurrency=in_flight)
    endpoint = Endpoint("near", "openai/m", price, api_base=base, limits=limits)
    budget = RunBudget(Decimal(1000))
    work = [Request(row, f"r{row}", f"h{row}", "t", tuple(messages(row)), 100) for row in range(count)]
    with tempfile.TemporaryDirectory() as folder, FileJournal(Path(folder)) as journal:
        engine = RealtimeEngine(endpoint, EngineContext(journal, budget))
        ticket = engine.submit(Shard("run", "shard", "near", Purpose.MAIN, work), "key")
        answers = sum(isinstance(reply, Answer) for reply in engine.collect(ticket))
        engine.close()
    if answers != count or budget.reserved_usd:
        raise SystemExit(f"{answers} answers to {count} requests, {budget.reserved_usd} USD still reserved")


@dataclass(slots=True)
class Rates:
    """Requests per second, round by round."""

    clock: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    @contextmanager
    def of(self, count: int) -> Iterator[None]:
        clock, processor = time.perf_counter(), time.process_time()
        yield
        self.clock.append(count / (time.perf_counter() - clock))
        self.processor.append(count / (time.process_time() - processor))


TURNS = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("dispatch", "benchmarks/dispatch.py")
dispatch = importlib.util.module_from_spec(spec)
sys.modules["dispatch"] = dispatch
spec.loader.exec_module(dispatch)
for line in sys.stdin:
    base, count, in_flight = line.split()
    start = time.process_time()
    dispatch.ours(base, int(count), int(in_flight))
    print(time.process_time() - start, flush=True)
"""
"""A build's own engine, a turn for each line on standard input; the turn's processor seconds are printed."""


class Build:
    """The engine of one build, in a process that lives as long as this does."""

    def __init__(self, folder: Path) -> None:
        source = folder / "src"
        if not source.is_dir():  # as older builds have it
            source = folder
        environment = os.environ | {"PYTHONPATH": str(source.resolve())}
        self._process = subprocess.Popen(
            [sys.executable, "-c", TURNS],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def turn(self, base: str, count: int, in_flight: int) -> float:
        """Processor seconds of so many requests."""
        inbox, outbox = self._process.stdin, self._process.stdout
        if inbox is None or outbox is None:
            raise SystemExit("the other build's process has no pipes")
        print(base, count, in_flight, file=inbox, flush=True)
        return float(outbox.readline())

    def close(self) -> None:
        self._process.communicate()


def pair(base: str, other: Path, args: argparse.Namespace) -> list[tuple[float, float]]:
    """Processor seconds of this build and of the other, round by round, both started anew; who begins takes turns."""
    builds = {"this": Build(Path(__file__).resolve().parents[1]), "other": Build(other)}
    for build in builds.values():
        build.turn(base, args.requests, args.in_flight)
    rounds = []
    for number in range(args.rounds):
        order = ("this", "other") if number % 2 == 0 else ("other", "this")
        seconds = {name: builds[name].turn(base, args.requests, args.in_flight) for name in order}
        rounds.append((seconds["this"], seconds["other"]))
    for build in builds.values():
        build.close()
    return rounds


def beside(base: str, other: Path, args: argparse.Namespace) -> int:
    """Compare this build and another by so many pairs of processes."""
    ratios = []
    for start in range(args.starts):
        rounds = pair(base, other, args)
        ratios.append(statistics.median(this / that for this, that in rounds))
        this, that = (1e6 * statistics.median(taken) / args.requests for taken in zip(*rounds, strict=True))
        print(
            f"start {start}: this {this:.0f} µs a request, other {that:.0f} µs, {ratios[-1]:.3f}", flush=True
        )
    ratio = statistics.median(ratios)
    met = ratio <= 1.0 + SLOWER_MOST
    spread = {"least": round(min(ratios), 4), "most": round(max(ratios), 4)}
    figures = {"of_other": round(ratio, 4), **spread, "starts": args.starts, "rounds": args.rounds}
    load = round(os.getloadavg()[0], 1)
    print(
        json.dumps({"benchmark": "dispatch", **figures, "requests": args.requests, "load": load, "met": met})
    )
    return 0 if met else 1


def measure(base: str, args: argparse.Namespace) -> dict[str, Rates]:
    count, in_flight = args.requests, args.in_flight
    few = max(count // LITELLM_SHARE, in_flight)
    rates = {name: Rates() for name in ("ours", "bare", "litellm")}
    ours(base, in_flight, in_flight)
    asyncio.run(bare(base, in_flight, in_flight))
    asyncio.run(through_litellm(base, in_flight, in_flight))
    for _ in range(args.rounds):
        with rates["bare"].of(count):
            asyncio.run(bare(base, count, in_flight))
        with rates["ours"].of(count):
            ours(base, count, in_flight)
        with rates["litellm"].of(few):
            asyncio.run(through_litellm(base, few, in_flight))
    return rates


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--beside", type=Path, metavar="FOLDER")
    parser.add_argument("--starts", type=int, default=24)
    args = parser.parse_args()
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    base = f"http://127.0.0.1:{here.recv()}/v1"
    try:
        if args.beside is not None:
            return beside(base, args.beside, args)
        rates = measure(base, args)
    finally:
        server.terminate()
        server.join()
    figures: dict[str, float] = {"in_flight": args.in_flight, "load": round(os.getloadavg()[0], 1)}
    for of in ("clock", "processor"):
        median = {name: statistics.median(getattr(rate, of)) for name, rate in rates.items()}
        for name, rate in rates.items():
            rounds = ", ".join(f"{value:.0f}" for value in getattr(rate, of))
            print(f"{of:9} {name:8} {median[name]:7.0f} requests/s   rounds: {rounds}")
            figures[f"{name}_per_{of}_second"] = round(median[name])
        figures[f"of_bare_by_{of}"] = round(median["ours"] / median["bare"], 3)
        figures[f"of_litellm_by_{of}"] = round(median["ours"] / median["litellm"], 1)
    met = (
        figures["of_bare_by_processor"] >= SHARE_OF_BARE
        and figures["of_litellm_by_processor"] >= TIMES_LITELLM
    )
    print(json.dumps({"benchmark": "dispatch", **figures, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
