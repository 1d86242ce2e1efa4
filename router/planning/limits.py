"""The terms of a problem as rows of a linear program: what couples requests with each other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np

from thirdshift.router.planning.coefficients import Real
from thirdshift.router.planning.problem import Devices, Problem, Workers
from thirdshift.router.policy import most_of_a_vendor

SINGLE = 1e-7
"""Predictions are single precision: the mean of many 0.9 is 0.89999998, and meets a floor of 0.9 all the
same."""

BATCH_SHARE = 0.8
"""The share of a cap that batches may reserve, all together; the rest is for what is asked in real time meanwhile."""
SPARE = 0.02
"""A plan in whole requests may pass that by so much of it: what a request reserves is known in the mean."""


class Measure(StrEnum):
    """What a limit adds up."""

    COST = "cost"
    WORTH = "worth"
    COUNT = "count"
    WEIGHT = "weight"
    TOKENS = "tokens"
    DEVICES = "devices"
    """Seconds of devices: of a worker, times how many it takes."""


@dataclass(frozen=True, slots=True)
class Limit:
    """sum of `measure` over the rows on `options` (of one task, where one is given) <= bound; for WORTH: >=
    bound."""

    name: str
    measure: Measure
    bound: float
    options: tuple[int, ...]
    task: int | None = None
    takes: tuple[float, ...] = ()
    """By how much each of the options counts (for DEVICES: what a worker takes); empty: once."""
    starts: tuple[float, ...] = ()
    """What every started worker of each of the options takes before it works; empty: nothing."""
    spare: float = 0.0
    """By so much whole requests may pass a bound that is itself an estimate."""

    def start_of(self, option: int) -> float:
        """What starting a worker of an option takes."""
        return self.starts[self.options.index(option)] if self.starts and option in self.options else 0.0


@dataclass(frozen=True, slots=True)
class Pool:
    """Workers of one option: how many, w, is to be decided; they are busy at most w x `seconds` together."""

    option: int
    spec: Workers
    seconds: float
    """Before the deadline, start-up taken off; never more than all the work there is for them."""

    @property
    def usd_per_second(self) -> float:
        return self.spec.usd_per_hour / 3600

    @property
    def startup_usd(self) -> float:
        """Per worker started."""
        return self.spec.startup_seconds * self.usd_per_second

    @property
    def short_seconds(self) -> float:
        """What a worker must be busy for after its start-up lest idle time be paid for."""
        return max(0.0, self.spec.minimum_seconds - self.spec.startup_seconds)

    @property
    def most(self) -> int:
        """Workers that can be started; none where there is no time to."""
        return self.spec.max_workers if self.seconds > 0 else 0


@dataclass(frozen=True, slots=True)
class RoutableTotals:
    """Over routable rows."""

    count: float
    weight: Real
    """[T] per task"""
    busy: Real
    """[E] seconds of one worker if it did everything that it is allowed to"""


def limits_of(problem: Problem, totals: RoutableTotals) -> tuple[Limit, ...]:
    """Every limit that can bind: the floors first, then options in their order, vendors by name, the cap."""
    return (
        *_floors(problem, totals),
        *_capacities(problem, totals),
        *_waiting(problem),
        *_devices(problem),
        *_shares(problem, totals),
        *_cap(problem),
    )


def pools_of(problem: Problem, totals: RoutableTotals) -> tuple[Pool, ...]:
    """A pool's time is cut to the work there is: that holds for whole workers, and tightens the
    relaxation."""
    seconds = problem.terms.seconds
    return tuple(
        Pool(e, option.workers, min(option.worker_seconds(seconds), float(totals.busy[e])))
        for e, option in enumerate(problem.options)
        if option.workers is not None
    )


def _floors(problem: Problem, totals: RoutableTotals) -> list[Limit]:
    terms = problem.terms
    everyone = tuple(range(problem.width))
    if terms.floor is None:
        return []
    weight = float(totals.weight.sum())
    whole = Limit("floor", Measure.WORTH, (terms.floor + terms.margin - SINGLE) * weight, everyone)
    if not terms.per_task:
        return [whole]
    margins = [terms.task_margins.get(name, terms.margin) for name in problem.tasks]
    return [whole] + [
        Limit(
            f"floor:{name}",
            Measure.WORTH,
            (terms.floor + margins[t] - SINGLE) * float(totals.weight[t]),
            everyone,
            t,
        )
        for t, name in enumerate(problem.tasks)
        if totals.weight[t] > 0
    ]


def _capacities(problem: Problem, totals: RoutableTotals) -> list[Limit]:
    capacities: list[Limit] = []
    seconds = problem.terms.seconds
    for e, option in enumerate(problem.options):
        requests, tokens = option.max_requests(seconds), option.max_tokens(seconds)
        if requests < totals.count:
            most = math.floor(requests + 1e-9)
            capacities.append(Limit(f"requests:{option.name}", Measure.COUNT, most, *_using(problem, e)))
        if tokens < math.inf and requests > 0:
            capacities.append(Limit(f"tokens:{option.name}", Measure.TOKENS, tokens, *_using(problem, e)))
    return capacities


def _using(problem: Problem, e: int) -> tuple[tuple[int, ...], None, tuple[float, ...]]:
    """The options that take of an option's limits, itself first, and how many calls of it each takes: a `Limit`'s end."""
    others = [(o, calls) for o, option in enumerate(problem.options) for at, calls in option.calls if at == e]
    return (e, *(o for o, _ in others)), None, (1.0, *(calls for _, calls in others)) if others else ()


def _waiting(problem: Problem) -> list[Limit]:
    """What can wait in the batches of several options at a time, as often as each comes back: they share the cap."""
    cap, seconds, takes = problem.terms.cap_usd, problem.terms.seconds, dict[int, float]()
    waiting = [e for e, option in enumerate(problem.options) if option.reserved_usd > 0]
    if cap is None or seconds is None or len(waiting) < 2:
        return []
    for e in waiting:
        rounds = max(problem.options[e].rounds(seconds), 1.0)
        options, _, calls = _using(problem, e)
        for option, count in zip(options, calls or (1.0,), strict=True):
            takes[option] = takes.get(option, 0.0) + count * problem.options[e].reserved_usd / rounds
    room = BATCH_SHARE * cap
    return [
        Limit("waiting", Measure.COUNT, room, tuple(takes), takes=tuple(takes.values()), spare=SPARE * room)
    ]


def _devices(problem: Problem) -> list[Limit]:
    """What pools can do together that run on the same devices: one after another, every start of a worker taken off."""
    seconds = problem.terms.seconds
    kinds: dict[str, list[tuple[int, Workers, Devices]]] = {}
    for e, option in enumerate(problem.options):
        if option.workers is not None and option.workers.devices is not None and seconds is not None:
            devices = option.workers.devices
            kinds.setdefault(devices.kind, []).append((e, option.workers, devices))
    limits = []
    for kind, pools in sorted(kinds.items()):
        if len(pools) < 2 or seconds is None:
            continue
        most = min(devices.here for _, _, devices in pools) * seconds
        options = tuple(e for e, _, _ in pools)
        takes = tuple(float(devices.each) for _, _, devices in pools)
        starts = tuple(workers.startup_seconds * devices.each for _, workers, devices in pools)
        limits.append(Limit(f"devices:{kind}", Measure.DEVICES, most, options, takes=takes, starts=starts))
    return limits


def _shares(problem: Problem, totals: RoutableTotals) -> list[Limit]:
    """Weights are whole, so the limits may be: that tightens the bound."""
    share = problem.terms.max_vendor_share
    if share is None or share >= 1.0:
        return []
    members: dict[str, list[int]] = {}
    for e, option in enumerate(problem.options):
        asked = {
            option.vendor,
            *(problem.options[at].vendor for at, _ in option.calls),
        }  # whoever then serves it
        for vendor in asked:
            members.setdefault(vendor, []).append(e)
    most = most_of_a_vendor(share, float(totals.weight.sum()))
    return [
        Limit(f"share:{vendor}", Measure.WEIGHT, most, tuple(members[vendor])) for vendor in sorted(members)
    ]


def _cap(problem: Problem) -> list[Limit]:
    cap = problem.terms.cap_usd
    return [] if cap is None else [Limit("cap_usd", Measure.COST, cap, tuple(range(problem.width)))]


def margin(prediction_error: float, confidence: float) -> float:
    """What to add to the floor so that it is met with `confidence`, not by luck half of the time.

    `prediction_error` is the standard error of the predicted mean quality, taken as normal: the mean of many
    rows is, nearly. At 0.5 there is no margin; below, none either.
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}")
    return max(0.0, NormalDist().inv_cdf(confidence)) * prediction_error


def within(value: float, limit: Limit) -> bool:
    """Whether a total keeps a limit, to a billionth of it (sums of a million floats are no more exact)."""
    slack = 1e-9 * max(1.0, abs(limit.bound))
    if limit.measure is Measure.WORTH:
        return value >= limit.bound - slack
    return value <= limit.bound + limit.spare + slack


def tasks_of(problem: Problem) -> int:
    return max(1, len(problem.tasks), int(np.max(problem.task, initial=-1)) + 1)
