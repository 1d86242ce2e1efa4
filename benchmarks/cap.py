"""A cap far below what the job costs, a hundred requests in flight, prices at which one answer matters.

    python benchmarks/cap.py [--seeds 50]

The engine, the budget and the journal of a run, two endpoints on one cap, against an emulated provider that keeps
books, refuses some attempts unbilled and loses some answers that it bills. Each seed draws a cap of two to 150
reservations, and requests whose reservations differ eightfold. By the provider's books and by the ledger:

- what is billed never passes the cap, and the ledger does not either;
- the ledger is never below the books;
- what was used before the stop is at least the cap less one reservation for each request in flight, and more than that:
  the cap less one reservation alone, because the tail is spent one by one.

The last line is JSON; exit 1 where a law is broken.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from threading import Thread
from typing import Any

from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.core.records import AttemptRecords
from thirdshift.engines.emulator import EmulatedModel, Emulator, OutputTokens, Trouble
from thirdshift.engines.realtime.engine import RealtimeEngine
from thirdshift.router.interfaces import EngineContext, Shard
from thirdshift.router.values import (
    Answer,
    Endpoint,
    Failure,
    FailureKind,
    Limits,
    Price,
    PriceSchedule,
    Purpose,
    Request,
)
from thirdshift.warehouse.journal import parts
from thirdshift.warehouse.journal.journal import FileJournal

IN_FLIGHT = 50
"""At each of two endpoints."""
REQUESTS = 1_500
"""At each: what they cost together is three to two hundred times the cap."""
PRICE = Price(Decimal(1000), Decimal(2000))
"""USD per million: an answer of five tokens costs a cent or two, a reservation up to 25 cents."""
LEAST_TOKENS, MOST_TOKENS = 12, 96
"""The most tokens of an answer, drawn for each request; it is 5 tokens long or so."""
MODELS = tuple(
    EmulatedModel(
        name, PRICE, output=OutputTokens(median=5, spread=0.8), latency_seconds=0.02, troubles=troubles,
        retry_after_seconds=0.02,
    )
    for name, troubles in {
        "steady": {Trouble.ERROR_429: 0.03, Trouble.ERROR_500: 0.03},
        "lossy": {Trouble.DROP_AFTER: 0.03, Trouble.TRUNCATE: 0.02, Trouble.DROP_BEFORE: 0.02},
    }.items()
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Night:
    """One seed's."""

    cap_usd: Decimal
    billed_usd: Decimal
    settled_usd: Decimal
    unsettled_usd: Decimal
    most_reserved_usd: Decimal
    """For one attempt."""
    answers: int
    unsent: int

    @property
    def used_usd(self) -> Decimal:
        return self.settled_usd + self.unsettled_usd

    @property
    def broken(self) -> list[str]:
        """The laws that do not hold."""
        left = self.cap_usd - self.used_usd
        laws = {
            "billed_within_cap": self.billed_usd <= self.cap_usd,
            "ledger_within_cap": self.used_usd <= self.cap_usd,
            "ledger_not_below_books": self.settled_usd <= self.billed_usd <= self.used_usd,
            "used_but_for_those_in_flight": left <= self.most_reserved_usd * IN_FLIGHT * len(MODELS),
            "tail_spent_one_by_one": left < self.most_reserved_usd,
            "cap_is_what_stopped_it": self.unsent > 0,
        }
        return [name for name, holds in laws.items() if not holds]


def endpoint(model: EmulatedModel, emulator: Emulator) -> Endpoint:
    return Endpoint(
        name=model.name,
        model=f"openai/{model.name}",
        price=PriceSchedule(PRICE),
        api_base=emulator.api_base,
        limits=Limits(concurrency=IN_FLIGHT),
    )


def requests_of(rng: random.Random, seed: int, name: str) -> list[Request]:
    return [
        Request(
            row, f"{name}-{seed}-{row}", "", "default",
            ({"role": "user", "content": f"{seed}: how much is {row} times {rng.randrange(1000)}?"},),
            rng.randint(LEAST_TOKENS, MOST_TOKENS),
        )
        for row in range(REQUESTS)
    ]  # fmt: skip


def night(seed: int, emulator: Emulator, folder: Path) -> Night:
    """One seed: both endpoints at once, until the cap lets nothing more be sent."""
    rng = random.Random(seed)
    ends = [endpoint(model, emulator) for model in MODELS]
    asked = {endpoint.name: requests_of(rng, seed, endpoint.name) for endpoint in ends}
    worst = {
        endpoint.name: max(map(AttemptRecords(endpoint).worst_case, asked[endpoint.name]))
        for endpoint in ends
    }
    cap = max(worst.values()) * rng.randint(2, 150)
    before = billed_usd(emulator)
    replies: list[Answer | Failure] = []
    with FileJournal(folder) as journal:
        budget = RunBudget(cap)
        engines = [
            RealtimeEngine(endpoint, EngineContext(journal, budget), seed=seed, backoff_first_seconds=0.01)
            for endpoint in ends
        ]

        def serve(engine: RealtimeEngine, endpoint: Endpoint) -> None:
            shard = Shard(
                f"seed-{seed}", f"1-main-{endpoint.name}", endpoint.name, Purpose.MAIN, asked[endpoint.name]
            )
            replies.extend(engine.collect(engine.submit(shard, f"{seed}/{endpoint.name}")))

        lanes = [Thread(target=serve, args=pair) for pair in zip(engines, ends, strict=True)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
        for engine in engines:
            engine.close()
        sealed = [journal.seal(f"1-main-{endpoint.name}") for endpoint in ends]
    settled, unsettled = booked([part for part in sealed if part is not None])
    unsent = sum(isinstance(reply, Failure) and reply.kind is FailureKind.BUDGET for reply in replies)
    answers = sum(isinstance(reply, Answer) for reply in replies)
    billed = billed_usd(emulator) - before
    return Night(cap, billed, settled, unsettled, max(worst.values()), answers, unsent)


def booked(sealed: list[Path]) -> tuple[Decimal, Decimal]:
    """(settled, unsettled) USD of the ledger."""
    sums = {"settled": Decimal(0), "unsettled": Decimal(0), "void": Decimal(0)}
    for part in sealed:
        for row in parts.read(part).select(["status", "cost_usd"]).to_pylist():
            sums[row["status"]] += row["cost_usd"]
    return sums["settled"], sums["unsettled"]


def billed_usd(emulator: Emulator) -> Decimal:
    return sum((Decimal(total["cost_usd"]) for total in emulator.totals().values()), Decimal(0))


def measure(seeds: int) -> dict[str, Any]:
    begun, nights, broken = time.monotonic(), [], {}
    with tempfile.TemporaryDirectory(prefix="thirdshift-cap-") as name, Emulator(MODELS, seed=1) as emulator:
        for seed in range(seeds):
            nights.append(night(seed, emulator, Path(name) / str(seed)))
            if nights[-1].broken:
                broken[seed] = nights[-1].broken
                print(f"seed {seed}: {', '.join(nights[-1].broken)}: {nights[-1]}", file=sys.stderr)
    left = [one_night.cap_usd - one_night.used_usd for one_night in nights]
    return {
        "seeds": seeds,
        "in_flight": IN_FLIGHT * len(MODELS),
        "answers": sum(one_night.answers for one_night in nights),
        "caps_usd": [
            float(min(one_night.cap_usd for one_night in nights)),
            float(max(one_night.cap_usd for one_night in nights)),
        ],
        "billed_to_cap_most": max(float(one_night.billed_usd / one_night.cap_usd) for one_night in nights),
        "used_to_cap_least": min(float(one_night.used_usd / one_night.cap_usd) for one_night in nights),
        "left_in_reservations_most": max(
            float(rest / of.most_reserved_usd) for rest, of in zip(left, nights, strict=True)
        ),
        "broken": broken,
        "seconds": round(time.monotonic() - begun, 1),
        "ok": not broken,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=50)
    figures = measure(parser.parse_args().seeds)
    print(json.dumps(figures))
    return 0 if figures["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
