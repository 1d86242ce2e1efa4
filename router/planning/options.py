"""An endpoint as the planner's options: one per price in force during the night, with what it can do in a
second."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TypeVar

from thirdshift.router.harvest import CONCURRENCY
from thirdshift.router.planning.problem import Devices, Option, Workers
from thirdshift.router.pricing.prices import Window, windows
from thirdshift.router.values import Endpoint, Mode

Figure = TypeVar("Figure", int, float)

HORIZON = timedelta(hours=24)
"""Without a deadline prices are looked at for a day; what is cheap then is taken to be cheap the days
after."""

BATCH_SECONDS = 24 * 3600.0
"""What providers promise of a batch; taken where the endpoint states no turnaround."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """What is known of an endpoint's speed. None: nothing, and then it does not limit the plan."""

    seconds_per_request: float | None = None
    """From sending to the last token; limits together with `limits.concurrency`, or `CONCURRENCY` where none is stated."""
    prefill_tokens_per_second: float = 5_000.0
    decode_tokens_per_second: float = 1_000.0
    """Speed of one worker with everything it runs at a time; measured where there is a measurement."""
    startup_seconds: float = 60.0
    turnaround_seconds: float | None = None
    """The longest that a batch has taken, where several were seen; else what the endpoint states is believed."""
    refill_seconds: float | None = None
    """What a batch takes in the mean: so soon the next one can be enqueued."""
    speed_sd: float = 0.05
    """By what share of itself a worker's speed may be off, as a standard deviation: loads differ from night to night."""
    running: int = 0
    """Workers that are up: what starting them cost is paid."""
    enough: bool = False
    """Whether the running workers can answer everything in time: no more are needed for the deadline's sake."""
    devices: Devices | None = None
    """What one worker takes of this machine."""


@dataclass(frozen=True, slots=True)
class Priced:
    """An option and the factor on the endpoint's prices while it is open
    (`thirdshift.router.pricing.prices.schedule_columns`)."""

    option: Option
    factor: Decimal


def options_for(
    endpoint: Endpoint,
    *,
    now: datetime,
    deadline: datetime | None,
    throughput: Throughput | None = None,
    token_factor: float = 1.0,
) -> tuple[Priced, ...]:
    """One option, or where the price changes before the deadline one per price: the endpoint's name stands
    for the price in force now, `name@16:00` (UTC) for one that begins later. `now` and `deadline` are
    aware."""
    throughput = throughput or Throughput()
    end = now + HORIZON if deadline is None else deadline
    found = list(windows(endpoint.price, now, end))
    factors = list(dict.fromkeys(window.factor for window in found))
    if len(factors) <= 1:
        factor = factors[0] if factors else Decimal(1)
        hours = _workers(endpoint, throughput, factor, hurried=deadline is not None)
        option = _option(endpoint, endpoint.name, (), throughput, token_factor, hours)
        return (Priced(option, factor),)
    priced = []
    for factor in factors:
        mine = [window for window in found if window.factor == factor]
        name = endpoint.name if mine[0].start <= now else f"{endpoint.name}@{mine[0].start:%H:%M}"
        spans = _spans(mine, now, endless=deadline is None)
        hours = _workers(endpoint, throughput, factor, hurried=deadline is not None)
        option = _option(endpoint, name, spans, throughput, token_factor, hours)
        priced.append(Priced(option, factor))
    return tuple(priced)


def _spans(found: list[Window], now: datetime, *, endless: bool) -> tuple[tuple[float, float], ...]:
    """In seconds from now; without a deadline the last one stands for all nights to come."""
    spans = [((w.start - now).total_seconds(), (w.end - now).total_seconds()) for w in found]
    if endless:
        spans[-1] = (spans[-1][0], math.inf)
    return tuple(spans)


def _option(
    endpoint: Endpoint,
    name: str,
    spans: tuple[tuple[float, float], ...],
    throughput: Throughput,
    token_factor: float,
    workers: Workers | None,
) -> Option:
    batch = endpoint.mode is Mode.BATCH
    stated = endpoint.turnaround_seconds if endpoint.turnaround_seconds is not None else BATCH_SECONDS
    turnaround = max(stated, throughput.turnaround_seconds or 0.0)
    tpm = endpoint.limits.tpm
    return Option(
        name=name,
        endpoint=endpoint.name,
        vendor=endpoint.provider,
        windows=spans,
        requests_per_second=_requests_per_second(endpoint, throughput),
        tokens_per_second=None if tpm is None else tpm / 60,
        turnaround_seconds=turnaround if batch else 0.0,
        refill_seconds=throughput.refill_seconds if batch else None,
        queue_tokens=endpoint.limits.enqueued_tokens if batch else None,
        token_factor=token_factor,
        workers=workers,
    )


def _requests_per_second(endpoint: Endpoint, throughput: Throughput) -> float | None:
    rates = []
    if endpoint.limits.rpm is not None:
        rates.append(endpoint.limits.rpm / 60)
    if throughput.seconds_per_request:
        rates.append((endpoint.limits.concurrency or CONCURRENCY) / throughput.seconds_per_request)
    return min(rates, default=None)


def _workers(endpoint: Endpoint, throughput: Throughput, factor: Decimal, *, hurried: bool) -> Workers | None:
    """A pool of ours; or a server of the user's that is paid by the hour, which is a pool of one. `factor`: on the price.

    Workers that are up cost their hours alone, and where no deadline asks for more than those, there are no more. Of a
    machine that is rented as a whole all workers run, and are one here: whatever it answers, it has one price.
    """
    spec = endpoint.workers
    if spec is None and endpoint.price.usd_per_hour is None:
        return None
    together = 1 if spec is None else spec.together
    most = 1 if spec is None else spec.workers // together
    running = math.ceil(throughput.running / together)
    up = running > 0 and (not hurried or running >= most or throughput.enough)
    devices = throughput.devices
    return Workers(
        max_workers=min(most, running) if up else most,
        usd_per_hour=float((endpoint.price.usd_per_hour or 0) * factor),
        prefill_tokens_per_second=together * throughput.prefill_tokens_per_second,
        decode_tokens_per_second=together * throughput.decode_tokens_per_second,
        startup_seconds=0.0 if up else throughput.startup_seconds,
        minimum_seconds=0.0 if spec is None or up else spec.minimum_minutes * 60,
        increment_seconds=0.0 if spec is None else spec.billing_increment_minutes * 60,
        devices=None if devices is None else replace(devices, each=together * devices.each),
        speed_sd=throughput.speed_sd,
    )


def of_endpoint(endpoint: Endpoint, planned: Mapping[str, Figure]) -> list[Figure]:
    """Return the figures of an endpoint's options, one for each of its price windows. `planned`: by option's name."""
    return [figure for name, figure in planned.items() if name.partition("@")[0] == endpoint.name]


def workers_to_run(endpoint: Endpoint, planned: Mapping[str, int]) -> int:
    """Return how many workers of an endpoint run at once. `planned`: by option, as a plan counts them."""
    mine = of_endpoint(endpoint, planned)
    spec = endpoint.workers
    return max(mine, default=0) * (1 if spec is None else spec.together)
