"""Our workers against bare vLLM: tokens per second of a shard, and what the order of requests does for the cache.

    nice -n 15 .venv/bin/python benchmarks/local.py [--pairs 5] [--requests 1000]

Same prompts, model and settings; pairs alternate which goes first; start-up is shown apart and is in no ratio. One
process of each is up at a time only when it works: the other one waits on its pipe. The bare one is `LLM.generate`
over prompts that its own chat template has rendered. Ends with one line of JSON; exit 1 where the median ratio is
below 0.95 or the hits in random order are more than 5 % off those of the sorted ideal.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from engines.escrow import RunEscrow  # noqa: E402 - found through the line above
from engines.vllm_pool import VllmPool  # noqa: E402
from flows.demo_items import items  # noqa: E402
from router.values import (  # noqa: E402
    Desk,
    Endpoint,
    Intent,
    Outcome,
    Price,
    PriceSchedule,
    Purpose,
    Request,
    Shard,
    WorkerSpec,
)
from warehouse.journal import FileJournal  # noqa: E402

RATIO, CACHE = 0.95, 0.05
PREFIX_TOKENS = 500
BARE = """
import json, os, sys, time
back = os.fdopen(os.dup(1), "w"); os.dup2(2, 1)
from vllm import LLM, SamplingParams
began = time.monotonic()
llm = LLM(**json.loads(sys.stdin.readline()))
print(json.dumps({"seconds": time.monotonic() - began}), file=back, flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    began = time.monotonic()
    render = llm.get_tokenizer().apply_chat_template
    prompts = [render(one, add_generation_prompt=True, tokenize=False) for one in asked["messages"]]
    params = SamplingParams(temperature=0, max_tokens=asked["max_tokens"], ignore_eos=True)
    told = llm.generate(prompts, params, use_tqdm=False)
    took = time.monotonic() - began
    tokens = sum(len(one.prompt_token_ids) + len(one.outputs[0].token_ids) for one in told)
    print(json.dumps({"tokens": tokens, "seconds": took}), file=back, flush=True)
"""


class Counted(FileJournal):
    """The real journal, and what its outcomes add up to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.read = self.written = self.cached = 0

    def settled(self, outcomes: Iterable[Outcome]) -> None:
        several = list(outcomes)
        super().settled(several)
        for one in several:
            if one.usage is not None:
                self.read += one.usage.input_tokens
                self.written += one.usage.output_tokens
                self.cached += one.usage.cached_tokens

    def sent(self, intents: Iterable[Intent]) -> None:
        super().sent(list(intents))


class Ours:
    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        spec = WorkerSpec("cpu", 1, given.python, options(given))
        free = PriceSchedule(Price(Decimal(0), Decimal(0)), usd_per_hour=Decimal(1))
        self.journal = Counted(folder)
        self.pool = VllmPool(
            Endpoint("house", given.model, free, workers=spec), Desk(self.journal, RunEscrow(None))
        )
        self._shards = 0

    def run(self, requests: list[Request]) -> float:
        """Tokens per second of one shard, from its submission to its last answer."""
        self._shards += 1
        name = f"{self._shards:05d}"
        before, began = self.journal.read + self.journal.written, time.monotonic()
        ticket = self.pool.submit(Shard("bench", name, "house", Purpose.MAIN, requests), name)
        answered = sum(1 for _ in self.pool.collect(ticket))
        took = time.monotonic() - began
        if answered != len(requests):
            raise RuntimeError(f"{answered} answers to {len(requests)} requests")
        return (self.journal.read + self.journal.written - before) / took


class Bare:
    def __init__(self, given: argparse.Namespace) -> None:
        environment = {
            **os.environ,
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
            "VLLM_NO_USAGE_STATS": "1",
        }
        self._process = subprocess.Popen(
            (given.python, "-c", BARE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
        began = time.monotonic()
        self._ask({"model": given.model, "enforce_eager": True, **options(given)})
        self.startup_seconds = time.monotonic() - began

    def run(self, requests: list[Request]) -> float:
        asked = {"messages": [one.messages for one in requests], "max_tokens": requests[0].max_tokens}
        told = self._ask(asked)
        return float(told["tokens"] / told["seconds"])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _ask(self, what: dict[str, Any]) -> dict[str, Any]:
        to, back = self._process.stdin, self._process.stdout
        if to is None or back is None:
            raise RuntimeError("the bare process has no pipes")
        print(json.dumps(what), file=to, flush=True)
        told: dict[str, Any] = json.loads(back.readline())
        return told


def options(given: argparse.Namespace) -> dict[str, Any]:
    return dict(json.loads(given.options))


def request(row: int, prompt: str, max_tokens: int) -> Request:
    said = ({"role": "user", "content": prompt},)
    return Request(row, f"r{row}", "", "bench", said, max_tokens, sampling={"ignore_eos": True})


def speed(given: argparse.Namespace, ours: Ours, bare: Bare) -> dict[str, Any]:
    """Both answer prompts never seen before, so that neither has them in its cache; alternating."""
    ratios = []
    for pair in range(-1, given.pairs):
        fresh = items(given.requests, seed=1000 + pair)
        prompts = [request(n, one.prompt, given.max_tokens) for n, one in enumerate(fresh)]
        first, second = (ours, bare) if pair % 2 else (bare, ours)
        rates = {first: first.run(prompts), second: second.run(prompts)}
        told = f"ours {rates[ours]:,.0f} tokens/s, bare {rates[bare]:,.0f}: {rates[ours] / rates[bare]:.3f}"
        print("warm-up" if pair < 0 else f"pair {pair + 1}", told, file=sys.stderr)
        if pair >= 0:
            ratios.append(rates[ours] / rates[bare])
    return {"ratio": round(statistics.median(ratios), 4), "ratios": [round(one, 4) for one in ratios]}


def cache(given: argparse.Namespace, ours: Ours) -> dict[str, Any]:
    """Twenty prefixes of 500 tokens, each shared by a twentieth: hits in random order against sorted beforehand."""
    rng = random.Random(5)
    hits = {}
    for name in ("sorted", "random"):
        prefixes = ["".join(rng.choices("abcdefgh ", k=PREFIX_TOKENS)) for _ in range(20)]
        prompts = [prefixes[n * 20 // given.cached] + f" {n:06d}" for n in range(given.cached)]
        if name == "random":
            rng.shuffle(prompts)
        before = ours.journal.cached
        ours.run([request(n, one, 4) for n, one in enumerate(prompts)])
        hits[name] = ours.journal.cached - before
        print(f"{name}: {hits[name]:,} tokens found in the cache", file=sys.stderr)
    return {"hits": hits, "hits_ratio": round(hits["random"] / max(1, hits["sorted"]), 4)}


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--pairs", type=int, default=5)
    asked.add_argument("--requests", type=int, default=1000)
    asked.add_argument("--cached", type=int, default=2000, help="requests of the cache's part")
    asked.add_argument("--max-tokens", type=int, default=64)
    asked.add_argument("--model", default=str(ROOT / "tests/tiny_model"))
    asked.add_argument("--python", default=str(ROOT / ".venv-vllm/bin/python"))
    asked.add_argument("--options", default="{}", help="JSON for vllm.LLM, given to both")
    given = asked.parse_args()
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        bare, ours = Bare(given), Ours(given, Path(folder))
        try:
            ours.run([request(0, "sort cab", 4)])
            (life,) = ours.pool.lives()
            ready_at = life.ready_at or life.started_at
            told = speed(given, ours, bare)
            told |= cache(given, ours)
            told["startup_seconds"] = round((ready_at - life.started_at).total_seconds(), 1)
            told["bare_startup_seconds"] = round(bare.startup_seconds, 1)
        finally:
            bare.close()
            ours.pool.close()
            ours.journal.close()
    good = told["ratio"] >= RATIO and abs(1 - told["hits_ratio"]) <= CACHE
    print(json.dumps({"benchmark": "local", **told, "states": {"ratio": RATIO, "hits": CACHE}, "met": good}))
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
