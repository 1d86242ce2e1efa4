"""What tonight's measurement makes the plan believe of a worker, on engines simulated from published step times.

    .venv/bin/python benchmarks/pace.py [--draws 200] [--seed 3]

An engine's step takes a rest, a time for each request that runs and one for each token of context, as
`engines/devices/roofline.py` has them for a drawn model and card. Lengths, the size of the batch and that of the pilot are
drawn. A pilot runs, then the night: sixty seconds into it the pace is asked for, as the plan would ask. Two ways are set
beside each other: tokens counted when requests end, over every stretch (as it was before), and the engine's own counters
with its steps; where these do not tell of a full engine yet the roofline stands, off by as much as `benchmarks/roofline.py`
finds. A third way is that for servers without counters, whose answers count while the server is full, told every half
second. What counters and answers make the plan believe right after the pilot is told apart, where they are believed.

True is what the minute and a half after that takes by the simulated engine's own book: its seconds of reading by the
token read, all others by the token written. The plan then divides a night's requests between the worker, as many as its
pace promises before the deadline, and an API at three times the price.

Ends with one line of JSON; exit 1 where the counters' pace is more than 25 % off in more than 5 % of the draws, or costs
more than 1.05 times what the true pace would have cost in more than 5 %; or where what is believed of the answers, or right
after a pilot, is more than 25 % off in more than 5 % of the draws in which it is believed.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thirdshift.engines.metered.throughput import Answered, AnswersWatch, PaceWatch, Rates, Speedometer
from thirdshift.flows.planning.measured.throughput import ENOUGH_SECONDS

ASKED_AFTER = 60.0
OFF, SHARE, DEARER = 0.25, 0.05, 1.05
PRIOR_ERROR = 0.25
"""Standard deviation of the logarithm of the roofline's error: a geometric mean error of 1.22."""
API_TIMES = 3.0
STEADY_SECONDS = 90.0
SENT_AT_ONCE = (8, 16, 32, 64, 128)
"""Requests that a server without counters is sent at once."""
COUNTERS_SECONDS, ANSWERS_SECONDS = 1.0, 0.5
STEP_TOKENS = 8192
"""Tokens of prompts that a step reads, as vLLM's `max_num_batched_tokens` has it."""


@dataclass
class Engine:
    """Requests that run in a batch, step by step."""

    rng: np.random.Generator
    most: int
    rest: float
    each: float
    context: float
    reading: float
    read_mean: float
    written_mean: float

    def __post_init__(self) -> None:
        self.left = np.zeros(0, dtype=np.int64)
        self.held = np.zeros(0)
        self.asked = np.zeros((0, 2))
        self.waiting = 0
        self.now = 0.0
        self.read = self.written = self.steps = 0
        self.answers = 0
        self.reading_seconds = 0.0

    def step(self) -> tuple[int, int]:
        """Run one step. Returns the tokens read and written of the requests that it ended."""
        new = min(self.waiting, self.most - len(self.left), max(1, int(STEP_TOKENS / self.read_mean)))
        seconds = 0.0
        if new:
            self.waiting -= new
            reads = np.maximum(8, self.rng.lognormal(np.log(self.read_mean), 0.6, new)).astype(int)
            writes = np.maximum(4, self.rng.lognormal(np.log(self.written_mean), 0.7, new)).astype(int)
            self.left = np.concatenate([self.left, writes])
            self.held = np.concatenate([self.held, reads.astype(float)])
            self.asked = np.concatenate([self.asked, np.stack([reads, writes], axis=1)])
            self.read += int(reads.sum())
            seconds += float(reads.sum()) * self.reading
            self.reading_seconds += seconds
        running = len(self.left)
        seconds += self.rest + running * self.each + float(self.held.sum()) * self.context
        self.now += seconds
        self.steps += 1
        self.left -= 1
        self.held += 1
        self.written += running
        over = self.left <= 0
        self.answers += int(over.sum())
        done = self.asked[over].sum(axis=0) if over.any() else np.zeros(2)
        keep = ~over
        self.left, self.held, self.asked = self.left[keep], self.held[keep], self.asked[keep]
        return int(done[0]), int(done[1])


def drawn(rng: np.random.Generator) -> Engine:
    """An engine of a drawn model on a drawn card.

    Reading the weights takes so long as the arithmetic of 60 to 400 tokens: 185 on an H100, whatever the model.
    """
    weights = 10 ** rng.uniform(-2.9, -1.6)
    reading = weights / 10 ** rng.uniform(np.log10(60), np.log10(400))
    return Engine(
        rng,
        most=int(rng.choice([128, 256, 512, 1024])),
        rest=0.0015 + weights,
        each=18e-6 + reading * 0.47,
        context=10 ** rng.uniform(-8.6, -7.4),
        reading=reading,
        read_mean=float(rng.uniform(200, 3000)),
        written_mean=float(rng.uniform(60, 700)),
    )


class Watched:
    """All ways of measuring one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.ended, self.counted = Speedometer(), Speedometer()
        self._marked = self._told = 0.0
        self._watch, self.answered = PaceWatch(self.counted, engine.most), AnswersWatch(engine.most)
        self._looked, self._done = engine.now, np.zeros(2)

    def run(self, until: float, keep_waiting: int = 0) -> None:
        """Run until an instant, or until nothing is left; `keep_waiting`: requests that are always there."""
        engine = self.engine
        while engine.now < until and (len(engine.left) or engine.waiting or keep_waiting):
            engine.waiting = max(engine.waiting, keep_waiting)
            read, written = engine.step()
            self._done += read, written
            if engine.now - self._looked >= ANSWERS_SECONDS:
                self._look()
            if written:
                self.ended.add(engine.now - self._marked, read, written)
                self._marked = engine.now
            if engine.now - self._told >= COUNTERS_SECONDS:
                self._tell()

    def idle(self) -> None:
        """Begin anew after nothing ran."""
        self._marked = self.engine.now
        self._look()
        self._tell()

    def _look(self) -> None:
        """Tell what was answered as `engines/server/engine.py` does."""
        engine = self.engine
        self._looked = engine.now
        answered = Answered(engine.answers, int(self._done[0]), int(self._done[1]))
        self.answered.told(engine.now, answered, len(engine.left), engine.waiting)

    def _tell(self) -> None:
        """Tell the counters as `engines/vllm/worker.py` does."""
        engine = self.engine
        self._told = engine.now
        self._watch.told(
            {
                "worked": engine.now,
                "steps": engine.steps,
                "running": len(engine.left),
                "waiting": engine.waiting,
                "output_tokens": engine.written,
                "input_tokens": engine.read,
                "cached_tokens": 0,
            }
        )


def mean_request(engine: Engine) -> tuple[float, float]:
    """Tokens that its mean request reads and writes."""
    return float(engine.read_mean * np.exp(0.18)), float(engine.written_mean * np.exp(0.245))


def request_seconds(rates: Rates, engine: Engine) -> float:
    """Seconds of a worker that a mean request takes at these rates."""
    read, written = mean_request(engine)
    return read / rates.prefill_tokens_per_second + written / rates.decode_tokens_per_second


def true_seconds(engine: Engine) -> float:
    """Seconds of a worker that a mean request takes in the next stretch, by the engine's own book."""
    begun = engine.now, engine.read, engine.written, engine.reading_seconds
    Watched(engine).run(engine.now + STEADY_SECONDS, keep_waiting=engine.most)
    seconds, read, written, reading = (
        now - before
        for now, before in zip(
            (engine.now, engine.read, engine.written, engine.reading_seconds), begun, strict=True
        )
    )
    each_read, each_written = mean_request(engine)
    return each_read * reading / read + each_written * (seconds - reading) / written


def believed(rates: Rates, engine: Engine) -> float:
    """The seconds of a request that the plan takes from these rates; NaN where it does not believe them yet."""
    return request_seconds(rates, engine) if rates.full and rates.seconds >= ENOUGH_SECONDS else np.nan


def one(rng: np.random.Generator) -> tuple[float, ...]:
    """The true seconds of a request, those believed by ended requests and by the counters; and by these right after the
    pilot."""
    engine = drawn(rng)
    watched = Watched(engine)
    engine.waiting = int(rng.integers(50, 400))
    watched.run(float("inf"))
    watched.idle()
    pilot = believed(watched.counted.rates("", "cuda"), engine)
    watched.run(engine.now + ASKED_AFTER, keep_waiting=engine.most)
    ended, counted = watched.ended.rates("", "cuda"), watched.counted.rates("", "cuda")
    by_ended, by_counted = request_seconds(ended, engine), believed(counted, engine)
    true = true_seconds(engine)
    if np.isnan(by_counted):
        by_counted = true * float(np.exp(rng.normal(0, PRIOR_ERROR)))
    return true, by_ended, by_counted, pilot


def of_server(rng: np.random.Generator) -> tuple[float, ...]:
    """The same of a server that is known by its answers: the true seconds, those believed later and after the pilot."""
    engine = drawn(rng)
    engine.most = int(rng.choice(SENT_AT_ONCE))
    watched = Watched(engine)
    engine.waiting = int(rng.integers(50, 400))
    watched.run(float("inf"))
    watched.idle()
    pilot = believed(watched.answered.speed.rates("", "server"), engine)
    watched.run(engine.now + ASKED_AFTER, keep_waiting=engine.most)
    later = believed(watched.answered.speed.rates("", "server"), engine)
    return true_seconds(engine), later, pilot


def belief(times: NDArray[np.float64], column: int, name: str) -> dict[str, float]:
    """What share of the draws is believed, and of these what share within 25 %."""
    ratios = (times[:, column] / times[:, 0])[~np.isnan(times[:, column])]
    within = float((np.abs(1 / ratios - 1) <= OFF).mean()) if len(ratios) else 1.0
    return {f"{name}_believed": len(ratios), f"{name}_within_25_percent": round(within, 3)}


def dearer(believed: float, true: float, share: float) -> float:
    """What a plan costs by a believed pace, over what it costs by the true one.

    `share`: of the night's requests the worker could answer in time. Those that it is promised and does not answer go to
    the API in the end, at the same price.
    """
    promised = min(1.0, share * true / believed)
    answered = min(promised, share)
    best = min(1.0, share)
    return (answered + API_TIMES * (1 - answered)) / (best + API_TIMES * (1 - best))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    times, shares = np.array([one(rng) for _ in range(options.draws)]), rng.uniform(0.3, 1.3, options.draws)
    told: dict[str, float] = {"draws": options.draws}
    for column, name in ((1, "ended_requests"), (2, "counters")):
        ratios = times[:, column] / times[:, 0]
        costs = np.array([dearer(*each) for each in zip(times[:, column], times[:, 0], shares, strict=True)])
        told[f"{name}_within_25_percent"] = round(float((np.abs(1 / ratios - 1) <= OFF).mean()), 3)
        told[f"{name}_slowest"] = round(float(ratios.max()), 2)
        told[f"{name}_cost_95"] = round(float(np.quantile(costs, 0.95)), 3)
    told |= belief(times, 3, "counters_after_pilot")
    servers = np.array([of_server(rng) for _ in range(options.draws)])
    told |= belief(servers, 1, "answers") | belief(servers, 2, "answers_after_pilot")
    within = [value for name, value in told.items() if name.endswith("percent") and "ended" not in name]
    met = min(within) >= 1 - SHARE and told["counters_cost_95"] <= DEARER
    print(json.dumps({**told, "met": bool(met)}))
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
