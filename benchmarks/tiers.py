"""What nights at batch tiers cost beside the cheapest that hindsight allows, when batches are late, expire or are lost.

    python benchmarks/tiers.py                      52 weeks for each of four jobs, in virtual time (seconds of real time)

Nothing here is a provider: batches take as long as is published of 230,000 at OpenRouter (half 7 minutes, 90 % an hour,
2 % longer than a day); where a tier loses everything, one job of twenty expires empty. The four jobs may use one model
in real time and one tier (that keeps what is done; loses everything; never expires), or a tier with two windows. Of
seven nights two have no deadline or one of a day and more, three one of 8 to 12 hours, one of 3 to 6 and one of 1 to 2.

Planned by the program's own functions: options, turnarounds, expected losses, the solver, the size of jobs; cut short
when `harvest_at` says, with cancelling that takes up to ten minutes and real time up to a fifth slower than believed.
Each night's batches are the next one's history. Hindsight knows how long every batch takes and sends to real time what
would be late. The fixed rule sends a batch where the deadline is a day away or more, and waits for it.

It must cost at most 1.02 times what hindsight pays and answer everything in time on 99 % of nights with a deadline.
Whether an empty expiry is billed is not known: the bill is told both ways, the limit is for the one without.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from math import inf

import numpy as np
from numpy.typing import NDArray

from thirdshift.engines.batch.watcher import overdue_seconds
from thirdshift.engines.registry import tier_rows
from thirdshift.flows.dispatch.harvest import with_history
from thirdshift.flows.planning.tiers import realtime_counterparts
from thirdshift.router.expiry import LATER, expected_losses
from thirdshift.router.harvest import CANCEL_SECONDS, DAY, HOUR, harvest_at
from thirdshift.router.planning.market import offers
from thirdshift.router.planning.options import Throughput
from thirdshift.router.planning.problem import Problem, Terms
from thirdshift.router.planning.shards import batch_cutting
from thirdshift.router.planning.solve import cheapest
from thirdshift.router.tiers import BatchTier, Expiry
from thirdshift.router.values import Endpoint, Mode, Price, PriceSchedule

BEGUN = datetime(2026, 11, 29, 20, tzinfo=UTC)
LOT, LOTS = 500, 40
"""A row of the plan stands for so many requests, and a night has so many rows."""
RATE = 16.0
"""Requests a second in real time, as believed."""
LOST = 0.05
MOST_RATIO, LEAST_MET = 1.02, 0.99
JOBS: dict[str, tuple[tuple[str, str, float], ...]] = {
    "keeps": (("openai", "24h", 0.5),),
    "loses": (("gemini", "24h", 0.5),),
    "never": (("azure", "24h", 0.5),),
    "windows": (("doubleword", "24h", 0.4), ("doubleword", "1h", 0.55)),
}
"""By name: the tiers that a job may use beside real time at 1, each with its window and price."""


@dataclass(slots=True)
class Sums:
    """What the nights of one job came to. `met` and `due` count those with a deadline."""

    cost: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    met: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    due: int = 0
    batched: int = 0


@dataclass(frozen=True, slots=True)
class Night:
    seconds: float
    """To the deadline; endless: there is none."""
    took: tuple[NDArray[np.float64], ...]
    """By tier, what each of its batches takes if it is waited for; endless: it expires first."""
    slower: float
    """How much slower real time is than believed."""

    @property
    def deadline(self) -> datetime | None:
        return None if self.seconds == inf else BEGUN + timedelta(seconds=self.seconds)


def endpoints_of(name: str) -> list[Endpoint]:
    """Real time first, then the tiers."""
    found = [Endpoint("day", "openai/m", PriceSchedule(Price(Decimal(1), Decimal(1))))]
    for row, window, price in JOBS[name]:
        tier = next(tier for tier in tier_rows().tiers if tier.name == row).with_window(window)
        tier = tier.model_copy(update={"limits": tier_rows().limits_to_keep(tier)})
        paid = PriceSchedule(Price(Decimal(str(price)), Decimal(str(price))))
        found.append(Endpoint(f"{row} {window}", "openai/m", paid, Mode.BATCH, tier=tier))
    return found


def expires_seconds(tier: BatchTier) -> float:
    """When what is not done is over: by expiry, or because it hangs and is cancelled."""
    hours = tier.longest_hours or (tier.window.hours if tier.window else None) or 24.0
    return overdue_seconds(tier) if tier.expiry is Expiry.NEVER else hours * HOUR


def latency(rng: np.random.Generator) -> float:
    """What a batch takes, drawn from the published shares; beyond a day, up to three."""
    share = rng.random()
    for (start, before), (end, after) in pairwise(LATER):
        if share >= after:
            way = (before - share) / (before - after)
            if not start:
                return end * way
            way = np.log(share / before) / np.log(after / before)
            return float(start * (end / start) ** way)
    return float(rng.uniform(DAY, 3 * DAY))


def drawn(rng: np.random.Generator, tiers: Sequence[BatchTier], day: int) -> Night:
    hours = (
        (inf, 24 * rng.uniform(1, 3))[int(rng.random() < 0.5)]
        if day < 2
        else rng.uniform(*((8, 12), (8, 12), (8, 12), (3, 6), (1, 2))[day - 2])
    )
    base = [latency(rng) for _ in range(LOTS)]
    took = []
    for tier in tiers:
        batches = -(-LOTS * LOT // batch_cutting(tier, LOTS * LOT).most_requests)
        own = np.array(base[:batches])
        if tier.window is not None and tier.window.name == "1h":
            own = np.where(own > DAY, own, np.minimum(own, HOUR))
        if tier.expiry is Expiry.LOSES:
            own[rng.random(batches) < LOST] = inf
        own[own > expires_seconds(tier)] = inf
        took.append(own)
    return Night(hours * HOUR, tuple(took), float(rng.uniform(1.0, 1.2)))


def choice_of(endpoints: Sequence[Endpoint], night: Night) -> int:
    """The endpoint that the plan gives the night to, as its solver has it."""
    offered = offers(
        endpoints, BEGUN, night.deadline, {"day": Throughput(seconds_per_request=32 * LOT / RATE)}
    )
    endpoint = np.array([offer.endpoint for offer in offered], np.int32)
    cost = np.tile([float(endpoints[e].price.base.input) for e in endpoint], (LOTS, 1))
    counterparts = realtime_counterparts(endpoints)
    cost += expected_losses(endpoints, endpoint, cost, counterparts, now=BEGUN, deadline=night.deadline)
    none, ones = np.zeros(LOTS, np.int32), np.ones(LOTS)
    posed = Problem(
        tuple(offer.option for offer in offered),
        ("default",),
        none,
        none + 1,
        cost,
        np.ones_like(cost),
        ones,
        ones,
        terms=Terms(seconds=None if night.seconds == inf else night.seconds),
    )
    plan = cheapest(posed)
    if plan is None:
        return 0
    return int(endpoint[np.bincount(plan.choice).argmax()])


def served(night: Night, took: NDArray[np.float64], tier: BatchTier) -> tuple[float, bool, NDArray[np.bool_]]:
    """(the share that batches answer, whether all is answered in time, which batches ended): the rest in real time."""
    over = expires_seconds(tier)
    deadline = night.deadline
    if deadline is None:
        return float((took <= over).mean()), True, took <= over
    each, begins = LOTS * LOT / len(took), 0.0
    for ends in [*np.sort(took[took <= min(over, night.seconds)]), inf]:
        left = float((took > begins).sum()) * each
        if not left:
            break
        moment = (harvest_at(BEGUN, deadline, round(left), RATE) - BEGUN).total_seconds()
        cut = min(max(begins, moment), max(over, begins))
        if cut < ends:
            return _cut_short(night, took, cut, left)
        begins = float(ends)
    return 1.0, True, took <= inf


def _cut_short(
    night: Night, took: NDArray[np.float64], cut: float, left: float
) -> tuple[float, bool, NDArray[np.bool_]]:
    done = took <= cut
    ends = cut + CANCEL_SECONDS * (night.slower - 1.0) * 5 + night.slower * left / RATE
    return float(done.mean()), ends <= night.seconds, done


def fixed(night: Night, took: NDArray[np.float64], price: float) -> tuple[float, bool]:
    """(cost, in time): a batch where the deadline is a day away, whatever becomes of it."""
    if night.seconds < DAY:
        return 1.0, True
    done = float((took < inf).mean())
    if night.seconds == inf:
        return price * done + (1 - done), True
    return price * done, bool((took <= night.seconds).all())


def hindsight(night: Night, prices: Sequence[float]) -> float:
    """What the night costs whose every batch is known beforehand: the cheapest that ends in time, by share."""
    shares = max(len(took) for took in night.took)
    cheapest_of = np.ones(shares)
    for took, price in zip(night.took, prices, strict=True):
        in_time = took[np.arange(shares) * len(took) // shares] <= min(night.seconds, 1e12)
        cheapest_of = np.where(in_time, np.minimum(cheapest_of, price), cheapest_of)
    return float(cheapest_of.mean())


def weeks(name: str, count: int, seed: int) -> Sums:
    """So many weeks of one job."""
    rng, sums = np.random.default_rng([seed, sorted(JOBS).index(name)]), Sums()
    stated = endpoints_of(name)
    seen: dict[int, list[float]] = defaultdict(list)
    for number in range(7 * count):
        known = [
            with_history(end, seen[e], cut_short=True) if end.tier else end for e, end in enumerate(stated)
        ]
        tiers = [end.tier for end in stated if end.tier is not None]
        night = drawn(rng, tiers, number % 7)
        prices = [float(end.price.base.input) for end in stated[1:]]
        chosen = choice_of(known, night)
        cost, lost, in_time = 1.0, 0.0, night.slower * LOTS * LOT / RATE <= night.seconds
        if chosen:
            took, tier, price = night.took[chosen - 1], tiers[chosen - 1], prices[chosen - 1]
            done, in_time, ended = served(night, took, tier)
            cost = price * done + (1 - done)
            lost = price * (1 - done) if tier.expiry is Expiry.LOSES else 0.0
            seen[chosen] += [float(t) if end else inf for t, end in zip(took, ended, strict=True)]
            sums.batched += 1
        plain, kept = fixed(night, night.took[0], prices[0])
        sums.cost["planned"] += cost
        sums.cost["billed_lost"] += cost + lost
        sums.cost["hindsight"] += hindsight(night, prices)
        sums.cost["fixed"] += plain
        if night.seconds < inf:
            sums.due += 1
            sums.met["planned"] += in_time
            sums.met["fixed"] += kept
    return sums


def summary(sums: Sequence[Sums]) -> dict[str, float]:
    cost = {key: sum(one.cost[key] for one in sums) for key in sums[0].cost}
    due = sum(one.due for one in sums)
    return {
        "ratio": round(cost["planned"] / cost["hindsight"], 4),
        "ratio_if_lost_is_billed": round(cost["billed_lost"] / cost["hindsight"], 4),
        "ratio_fixed": round(cost["fixed"] / cost["hindsight"], 4),
        "met": round(sum(one.met["planned"] for one in sums) / due, 4),
        "met_fixed": round(sum(one.met["fixed"] for one in sums) / due, 4),
        "nights": due,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weeks", type=int, default=52)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    started = time.process_time()
    by_job = {name: weeks(name, asked.weeks, asked.seed) for name in JOBS}
    for name, sums in by_job.items():
        told = summary([sums])
        print(
            f"{name:8} {told['ratio']:.3f} x hindsight ({told['ratio_if_lost_is_billed']:.3f} if what is lost is billed), "
            f"in time {told['met']:.2%}; fixed rule {told['ratio_fixed']:.3f}, in time {told['met_fixed']:.2%}",
            file=sys.stderr,
        )
    total = summary(list(by_job.values()))
    passed = total["ratio"] <= MOST_RATIO and total["met"] >= LEAST_MET
    jobs = {name: summary([sums]) for name, sums in by_job.items()}
    cpu_seconds = round(time.process_time() - started, 1)
    print(
        json.dumps(
            {"benchmark": "tiers", **total, "jobs": jobs, "cpu_seconds": cpu_seconds, "passed": passed}
        )
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
