"""What a job asks besides answers, drawn: policies of its rows, windows of price, votes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from zoneinfo import ZoneInfo

from tests.support.simulated.world import EPOCH
from thirdshift.engines.emulator.models import EmulatedModel
from thirdshift.router.pricing.prices import windows
from thirdshift.router.values import Endpoint, Mode, OffPeak

Votes = tuple[tuple[int, int, int] | None, ...]
ZONES = ("UTC", "Asia/Kolkata")
"""Their hours begin half a minute and half an hour after the night."""
BEGUN = datetime.fromtimestamp(EPOCH, UTC)
HORIZON = timedelta(hours=12)
IN_TIME = 0.7
"""A plan waits for a price no longer than this share of the time that it has."""


def policies(rng: Random, rows: int, endpoints: int) -> tuple[tuple[bool, ...], ...]:
    """By row, who may answer it. A policy leaves one endpoint at least, often just one."""
    everybody = (True,) * endpoints
    if endpoints == 1 or rng.random() < 0.6:
        return (everybody,) * rows
    drawn = [everybody]
    for _ in range(rng.choice((1, 2))):
        only = rng.randrange(endpoints)
        drawn.append(tuple(e == only or rng.random() < 0.3 for e in range(endpoints)))
    return tuple(rng.choice(drawn) for _ in range(rows))


def within(rng: Random, allowed: Sequence[Sequence[bool]], plan: Sequence[int]) -> tuple[int, ...]:
    """The plan, with another endpoint where a row's policy forbids the one it has."""
    return tuple(
        e if may[e] else rng.choice([other for other, yes in enumerate(may) if yes])
        for e, may in zip(plan, allowed, strict=True)
    )


def windowed(
    rng: Random,
    endpoints: Sequence[Endpoint],
    models: Sequence[EmulatedModel],
    jumps: Sequence[tuple[float, float]],
) -> tuple[tuple[Endpoint, ...], tuple[EmulatedModel, ...]]:
    """The same, some of them cheaper at some hours, in real time. None where the machine's clock is set: it does not know
    the hour then."""
    if jumps or rng.random() < 0.5:
        return tuple(endpoints), tuple(models)
    priced = []
    for endpoint, model in zip(endpoints, models, strict=True):
        if endpoint.mode is Mode.REALTIME and rng.random() < 0.7:
            schedule = replace(endpoint.price, off_peak=(_off_peak(rng),))
            priced.append((replace(endpoint, price=schedule), replace(model, price=schedule)))
        else:
            priced.append((endpoint, model))
    return tuple(endpoint for endpoint, _ in priced), tuple(model for _, model in priced)


def _off_peak(rng: Random) -> OffPeak:
    zone = rng.choice(ZONES)
    first = BEGUN.astimezone(ZoneInfo(zone)).hour + rng.choice((0, 0, 1, 1, 2))
    hours = frozenset((first + more) % 24 for more in range(rng.choice((1, 2, 8))))
    return OffPeak(Decimal(rng.choice(("0.25", "0.5"))), zone, hours, frozenset(range(7)))


def waited_for(rng: Random, endpoints: Sequence[Endpoint], deadline: float | None) -> tuple[float, ...]:
    """When each endpoint's price falls, where the plan waits for that; else 0."""
    most = float("inf") if deadline is None else IN_TIME * deadline
    found = []
    for endpoint in endpoints:
        falls = (
            (window.start - BEGUN).total_seconds()
            for window in windows(endpoint.price, BEGUN, BEGUN + HORIZON)
            if window.factor < 1
        )
        at = next(falls, 0.0) if endpoint.price.off_peak and rng.random() < 0.5 else 0.0
        found.append(at if at <= most else 0.0)
    return tuple(found)


def votes(
    rng: Random, plan: Sequence[int], allowed: Sequence[Sequence[bool]], endpoints: Sequence[Endpoint]
) -> Votes:
    """By row, the two that are asked and who is asked where they differ. They answer in real time, at one price."""
    able = {e for e, end in enumerate(endpoints) if end.mode is Mode.REALTIME and not end.price.off_peak}
    nobody = (None,) * len(plan)
    if len(able) < 2 or rng.random() < 0.6:
        return nobody
    share = rng.random()
    found: list[tuple[int, int, int] | None] = []
    for first, may in zip(plan, allowed, strict=True):
        others = [e for e in sorted(able - {first}) if may[e]]
        if first in able and others and rng.random() < share:
            found.append((first, others[0], others[-1]))
        else:
            found.append(None)
    return tuple(found)
