"""Our workers against bare vLLM: tokens per second of a shard, and what the order of requests does for the cache.

    nice -n 15 .venv/bin/python benchmarks/local.py [--pairs 5] [--requests 400]

Three engines are up, with one environment and one set of options, and only one of them works at a time: ours,
`vllm.LLM.generate` over prompts that its own chat template rendered, and vLLM's `run_batch` over a file. A pair is one
run of ours between two of the bare engine, each on prompts never seen before. What the two bare runs differ by is what
the machine does to any measurement: where that is more than a tenth at the median, the benchmark refuses to judge (exit
1). Start-up is shown apart and is in no ratio. CPU seconds are the engine's whole process tree, for ours with our own
process: they tell what was done where other programs take the cores.

Then 2,000 requests, each with one of 100 beginnings of 500 tokens, against a cache that holds a third of them: tokens
found in the cache in random order through ours, and through the bare engine in sorted and in random order.

With `--on ray` something else is compared: the same engine on a Ray cluster that is started here, by a driver of its own,
each run between two without Ray by another driver. Exit 1 where the median is below 0.97 of the speed without, or the
driver takes over 10 % more memory; the bridge, the process that speaks with Ray for the driver, is shown apart.

Ends with one line of JSON; exit 1 where the median ratio to the bare engine is below 0.95, or the hits are more than 5 %
off those of the sorted order.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import psutil
from drivers import comparison

from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.devices import look_again, machine
from thirdshift.engines.vllm.engine import VllmEngine
from thirdshift.engines.vllm.placing import DevicePlacer
from thirdshift.engines.vllm.process import QUIET
from thirdshift.engines.vllm.sizing import Sizing, options_for
from thirdshift.flows.cli.demo.exercises import items
from thirdshift.router.interfaces import EngineContext, Shard
from thirdshift.router.values import Endpoint, Outcome, Price, PriceSchedule, Purpose, Request, WorkerSpec
from thirdshift.warehouse.journal.journal import FileJournal

ROOT = Path(__file__).resolve().parents[1]

RATIO, CACHE, SCATTER = 0.95, 0.05, 0.10
PREFIXES, PREFIX_TOKENS, PREFIX_MAX_TOKENS = 100, 500, 4
OPTIONS = '{"num_gpu_blocks_override": 256}'
"""A cache of 32,768 tokens on a CPU, whose blocks are 128: the 100 prefixes do not fit in it together."""

START = """
import json, os, sys, time
back = os.fdopen(os.dup(1), "w"); os.dup2(2, 1)
def say(**told): print(json.dumps(told), file=back, flush=True)
hello = json.loads(sys.stdin.readline())
"""
BARE = (
    START
    + """
from vllm import LLM, SamplingParams
llm = LLM(model=hello["model"], **hello["options"])
say()
render = llm.get_tokenizer().apply_chat_template
for line in sys.stdin:
    asked = json.loads(line)
    began = time.monotonic()
    prompts = [render(one, add_generation_prompt=True, tokenize=False) for one in asked["messages"]]
    params = SamplingParams(temperature=0, max_tokens=asked["max_tokens"], ignore_eos=True)
    told = llm.generate(prompts, params, use_tqdm=False)
    took = time.monotonic() - began
    say(tokens=sum(len(one.prompt_token_ids) + len(one.outputs[0].token_ids) for one in told),
        seconds=took, cached=sum(one.num_cached_tokens or 0 for one in told))
"""
)
BATCH = (
    START
    + """
import asyncio
from vllm.entrypoints.launchers import run_batch
from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
from vllm.usage.usage_lib import UsageContext

def body(messages, most):
    return {"model": hello["model"], "messages": messages, "max_tokens": most, "temperature": 0, "ignore_eos": True}

async def main():
    sys.argv = ["run_batch", "-i", hello["in"], "-o", hello["out"], "--model", hello["model"]]
    for name, value in hello["options"].items():
        flag = "--" + name.replace("_", "-")
        sys.argv += [flag] if value is True else [flag, value if isinstance(value, str) else json.dumps(value)]
    given = run_batch.parse_args()
    async with build_async_engine_client(given, usage_context=UsageContext.OPENAI_BATCH_RUNNER) as client:
        say()
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            with open(hello["in"], "w") as file:
                for number, messages in enumerate(asked["messages"]):
                    one = {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions",
                           "body": body(messages, asked["max_tokens"])}
                    print(json.dumps(one), file=file)
            began = time.monotonic()
            await run_batch.run_batch(client, given)
            took = time.monotonic() - began
            with open(hello["out"]) as file:
                used = [json.loads(line)["response"]["body"]["usage"]["total_tokens"] for line in file]
            say(tokens=sum(used), seconds=took, cached=0)

if __name__ == "__main__":
    asyncio.run(main())
"""
)


@dataclass(frozen=True)
class Ran:
    tokens: int
    seconds: float
    cpu_seconds: float
    cached: int

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds

    @property
    def thrift(self) -> float:
        """Tokens per second of CPU."""
        return self.tokens / max(self.cpu_seconds, 1e-3)


class Engine(Protocol):
    startup_seconds: float

    def run(self, requests: list[Request]) -> Ran: ...
    def close(self) -> None: ...


def cpu_seconds(pid: int) -> float:
    """Return the processor seconds of a process and all below it, so far."""
    top = psutil.Process(pid)
    return sum(sum(process.cpu_times()[:2]) for process in (top, *top.children(recursive=True)))


class Counted(FileJournal):
    """The real journal, and what its outcomes add up to."""

    tokens = cached = 0

    def settled(self, outcomes: Iterable[Outcome]) -> None:
        several = list(outcomes)
        super().settled(several)
        for settlement in several:
            if settlement.usage is not None:
                self.tokens += settlement.usage.input_tokens + settlement.usage.output_tokens
                self.cached += settlement.usage.cached_tokens


class Ours:
    def __init__(self, end: Endpoint, folder: Path) -> None:
        self.journal = Counted(folder)
        self.pool = VllmEngine(end, EngineContext(self.journal, RunBudget(None)))
        self._shards = 0
        self._pid: int | None = None
        self._up()
        (life,) = self.pool.worker_lifetimes()
        self.startup_seconds = ((life.ready_at or life.started_at) - life.started_at).total_seconds()

    def run(self, requests: list[Request]) -> Ran:
        """One shard, from its submission to its last answer, by a worker that is up."""
        self._up()
        return self._shard(requests)

    def _up(self) -> None:
        """Have a worker up: one that was idle for as long as its start takes has been stopped."""
        self._pid = None
        self._shard([request(0, "sort cab", 4)])
        self._pid = self.pool.worker_lifetimes()[-1].pid

    def _shard(self, requests: list[Request]) -> Ran:
        self._shards += 1
        name, journal = f"{self._shards:05d}", self.journal
        tokens, cached, cpu, began = journal.tokens, journal.cached, self._cpu(), time.monotonic()
        ticket = self.pool.submit(Shard("bench", name, "house", Purpose.MAIN, requests), name)
        answered = sum(1 for _ in self.pool.collect(ticket))
        took = time.monotonic() - began
        if answered != len(requests):
            raise RuntimeError(f"{answered} answers to {len(requests)} requests")
        return Ran(journal.tokens - tokens, took, self._cpu() - cpu, journal.cached - cached)

    def close(self) -> None:
        self.pool.close()
        self.journal.close()

    def _cpu(self) -> float:
        return time.process_time() + (0.0 if self._pid is None else cpu_seconds(self._pid))


class Theirs:
    """A program that has vLLM, in the environment and with the options of our worker."""

    def __init__(self, program: str, end: Endpoint, folder: Path) -> None:
        if end.workers is None:
            raise TypeError("an endpoint with workers")
        placer = DevicePlacer(end.name, end.workers, machine(), look_again, print, elsewhere=False)
        where = placer.find(0, lambda: True)
        if where is None:
            raise RuntimeError("there is nowhere to run it")
        self._place = where
        self._process = subprocess.Popen(
            (end.workers.python, "-c", program),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **QUIET, **where.environment},
            text=True,
        )
        self.pid, began = self._process.pid, time.monotonic()
        options = options_for(end, end.workers, Sizing())
        files = {"in": str(folder / "in.jsonl"), "out": str(folder / "out.jsonl")}
        self.told = self._ask({"model": end.model, "options": options, **files})
        self.startup_seconds = time.monotonic() - began

    def run(self, requests: list[Request]) -> Ran:
        before = cpu_seconds(self.pid)
        reply = self._ask(
            {"messages": [request.messages for request in requests], "max_tokens": requests[0].max_tokens}
        )
        return Ran(cpu_seconds=cpu_seconds(self.pid) - before, **reply)

    def close(self) -> None:
        below = psutil.Process(self.pid).children(recursive=True)
        for process in (self._process, *below):
            process.kill()
        self._process.wait()
        self._place.release()

    def _ask(self, what: dict[str, Any]) -> dict[str, Any]:
        to, back = self._process.stdin, self._process.stdout
        if to is None or back is None:
            raise RuntimeError("a process without pipes")
        print(json.dumps(what), file=to, flush=True)
        line = back.readline()
        if not line:
            raise RuntimeError("vLLM ended; run its program by hand to see why")
        reply: dict[str, Any] = json.loads(line)
        return reply


def request(row: int, prompt: str, max_tokens: int) -> Request:
    messages = ({"role": "user", "content": prompt},)
    return Request(row, f"r{row}", "", "bench", messages, max_tokens, sampling={"ignore_eos": True})


def median_of_logs(ratios: Iterable[float]) -> float:
    """How far ratios are from 1 at the median, up or down."""
    return statistics.median(max(ratio, 1 / ratio) for ratio in ratios) - 1


def speed(given: argparse.Namespace, ours: Engine, bare: Engine, batch: Engine) -> dict[str, Any]:
    seeds = iter(range(1000, 9000))

    def fresh() -> list[Request]:
        made = items(given.requests, seed=next(seeds))
        return [request(n, item.prompt, given.max_tokens) for n, item in enumerate(made)]

    for engine in (bare, ours, batch):
        engine.run(fresh())  # what is compiled or allocated once
    pairs = []
    for number in range(given.pairs):
        before, our, after = bare.run(fresh()), ours.run(fresh()), bare.run(fresh())
        theirs = batch.run(fresh())
        usual = 2 / (1 / before.speed + 1 / after.speed)
        thrift = 2 / (1 / before.thrift + 1 / after.thrift)
        pairs.append(
            {
                "ratio": our.speed / usual,
                "cpu_ratio": our.thrift / thrift,
                "batch_ratio": our.speed / theirs.speed,
                "batch_cpu_ratio": our.thrift / theirs.thrift,
                "peer": after.speed / before.speed,
                "tokens_per_second": our.speed,
            }
        )
        print(
            f"pair {number + 1}: bare {before.speed:,.0f} tokens/s, ours {our.speed:,.0f}, bare {after.speed:,.0f}, "
            f"run_batch {theirs.speed:,.0f}; per CPU second {our.thrift / thrift:.3f} of bare; "
            f"load {os.getloadavg()[0]:.1f}",
            file=sys.stderr,
        )
    figures: dict[str, Any] = {
        name: round(statistics.median(pair[name] for pair in pairs), 4) for name in pairs[0] if name != "peer"
    }
    figures["ratios"] = [round(pair["ratio"], 3) for pair in pairs]
    figures["peer_scatter"] = round(median_of_logs(pair["peer"] for pair in pairs), 4)
    return figures


def cache(given: argparse.Namespace, ours: Engine, bare: Engine) -> dict[str, Any]:
    rng = random.Random(5)

    def asked() -> list[Request]:
        """In sorted order; with beginnings of its own each time."""
        shared = sorted("".join(rng.choices("abcdefgh ", k=PREFIX_TOKENS)) for _ in range(PREFIXES))
        prompts = [f"{shared[n * PREFIXES // given.cached]} {n:06d}" for n in range(given.cached)]
        return [request(n, prompt, PREFIX_MAX_TOKENS) for n, prompt in enumerate(prompts)]

    hits = {}
    for name, engine in (("bare_sorted", bare), ("ours_random", ours), ("bare_random", bare)):
        requests = asked()
        if name.endswith("random"):
            rng.shuffle(requests)
        ran = engine.run(requests)
        hits[name] = ran.cached
        print(f"{name}: {ran.cached:,} tokens found in the cache, {ran.seconds:.1f} s", file=sys.stderr)
    return {"hits": hits, "hits_ratio": round(hits["ours_random"] / max(1, hits["bare_sorted"]), 4)}


def verdict(figures: dict[str, Any]) -> str:
    """Empty: met. Otherwise why not."""
    if figures["peer_scatter"] > SCATTER:
        off = f"{figures['peer_scatter']:.0%}"
        return f"vLLM's own runs differ by {off} from one to the next: this machine is too busy to judge"
    if figures["ratio"] < RATIO:
        return f"{figures['ratio']:.3f} of the bare engine's tokens per second"
    if figures["hits_ratio"] < 1 - CACHE:
        return f"{figures['hits_ratio']:.3f} of the sorted order's hits"
    return ""


def on_ray(given: argparse.Namespace) -> int:
    """Compare runs on Ray with those without."""
    hello = {
        "model": given.model,
        "device": given.device,
        "python": given.python,
        "gpus": len(machine().gpus),
    }
    hello["options"] = json.loads(given.options)
    figures = comparison.compare(
        hello, pairs=given.pairs, requests=given.requests, max_tokens=given.max_tokens
    )
    why = comparison.verdict(figures)
    states = {"ratio": comparison.RATIO, "memory": comparison.MEMORY, "peer_scatter": comparison.SCATTER}
    figures |= {"load": round(os.getloadavg()[0], 1), "states": states, "met": not why}
    print(why or "met", file=sys.stderr)
    print(json.dumps({"benchmark": "local --on ray", **figures}))
    return 1 if why else 0


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--pairs", type=int, default=5)
    asked.add_argument("--requests", type=int, default=400)
    asked.add_argument("--cached", type=int, default=2000, help="requests of the cache's part")
    asked.add_argument("--max-tokens", type=int, default=64)
    asked.add_argument("--device", default="cpu")
    asked.add_argument("--model", default=str(ROOT / "tests/tiny_model"))
    asked.add_argument("--python", default=str(ROOT / ".venv-vllm/bin/python"))
    asked.add_argument("--options", default=OPTIONS, help="JSON for vLLM, given to all three")
    asked.add_argument("--on", choices=["ray"], help="compare with Ray and without")
    given = asked.parse_args()
    if given.on is not None:
        return on_ray(given)
    spec = WorkerSpec(given.device, 1, given.python, json.loads(given.options))
    free = PriceSchedule(Price(Decimal(0), Decimal(0)), usd_per_hour=Decimal(1))
    end = Endpoint("house", given.model, free, workers=spec)
    up: list[Engine] = []
    with tempfile.TemporaryDirectory() as name:
        try:
            up += [bare := Theirs(BARE, end, Path(name))]
            up += [batch := Theirs(BATCH, end, Path(name))]
            up += [ours := Ours(end, Path(name))]
            figures = speed(given, ours, bare, batch) | cache(given, ours, bare)
            started: dict[str, Engine] = {"ours": ours, "bare": bare, "run_batch": batch}
            figures["startup_seconds"] = {
                of: round(engine.startup_seconds, 1) for of, engine in started.items()
            }
        finally:
            for engine in up:
                engine.close()
    why = verdict(figures)
    states = {"ratio": RATIO, "hits": CACHE, "peer_scatter": SCATTER}
    figures |= {"load": round(os.getloadavg()[0], 1), "states": states, "met": not why}
    print(why or "met", file=sys.stderr)
    print(json.dumps({"benchmark": "local", **figures}))
    return 1 if why else 0


if __name__ == "__main__":
    raise SystemExit(main())
