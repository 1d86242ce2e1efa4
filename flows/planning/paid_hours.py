"""Endpoints whose workers are paid by the hour: when the pilot may start one.

A look at one costs its start and its minimum, whatever it answers, where a look elsewhere costs an answer. So the others
are tried first, and a worker is started where what it may save is worth that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.planning.planner import Market
from thirdshift.router.planning.problem import Infeasible, Plan
from thirdshift.router.values import Endpoint
from thirdshift.warehouse.store.dispatch import TimePaid

CHANCE = 0.5
"""The chance that a model nobody has tried is good enough, where a look at it costs a worker's start."""
GUESSED = 0.5
"""One model in three answers at half the length guessed, or less: a few answers tell, and cost less than a start."""


def withheld(
    market: Market,
    allowed: NDArray[np.bool_],
    known: NDArray[np.bool_],
    baseline: int | None,
    planned: Callable[[], Collection[int]] | None = None,
    short: NDArray[np.float64] | None = None,
    told: Collection[int] = (),
    guessed: bool = False,
) -> list[int]:
    """Return the endpoints that the pilot leaves alone until the others have been tried.

    `allowed`: [leaders, endpoints]; `known`: [endpoints] whether it has answered in this run, so that it has been started;
    `planned`: the endpoints that would serve by what is believed now; None where nobody has planned yet. `short`: as
    `short_of` tells; None: nobody is. `told`: endpoints of which earlier nights tell enough to do without a look.
    `guessed`: how long the answers of the others are is a guess.
    One that is cheaper than the cheapest others, those that are told of among them, even with its start and with what
    others must mend, and one that the floor is a share of, are tried like any other, but one after the other: a second
    start is weighed when the first tells what its answers cost. Where that of the others is a guess, it must be cheaper
    than a part of it. Those that would serve where a request has nobody but workers paid by the hour are tried too.
    """
    starts = unstarted(market, known, baseline)
    others = _without(allowed, starts)
    if some_have_only(allowed, starts):
        serving = starts if planned is None else planned()
        waiting = [e for e in starts if e not in serving]
        return [] if some_have_only(allowed, waiting) else waiting
    cost = market.by_endpoint()
    cheapest = market.total_usd(np.where(others, cost, np.inf).min(axis=1))
    mended = np.zeros(cost.shape[1]) if short is None else short * cheapest
    bill = {e: market.total_usd(np.where(allowed[:, e], cost[:, e], 0.0)) + mended[e] for e in starts}
    known_bills = [bill[e] for e in told if e in bill and allowed[:, e].all()]
    least = min([cheapest, *known_bills])
    if guessed:
        cheapest, least = GUESSED * cheapest, GUESSED * least
    tried = [e for e in starts if bill[e] < (cheapest if e in told else least)]
    first = min(tried, key=lambda e: (bill[e], e), default=None)
    return [e for e in starts if e != first]


def short_of(floor: float, priors: NDArray[np.float64], baselines: Sequence[int]) -> NDArray[np.float64]:
    """[endpoints] the share of the requests that others must answer too, by what is believed before anything is looked at,
    so that the floor is met; 0 where nothing is believed. `floor`: a mean score, or a share of the best baseline's."""
    best = float(np.nanmax(priors, initial=0.0))
    if baselines:
        floor *= float(np.nanmax(priors[list(baselines)], initial=0.0))
    return np.nan_to_num(np.clip((floor - priors) / max(best, floor, 1e-9), 0.0, 1.0))


def unstarted(market: Market, known: NDArray[np.bool_], baseline: int | None) -> list[int]:
    """Return the endpoints of which a look would have to start a worker first. `known`: [endpoints] as `withheld` has it.
    What the floor is a share of is none of them: it is looked at in any case."""
    return [e for e, usd in market.starts().items() if usd > 0 and not known[e] and e != baseline]


def some_have_only(allowed: NDArray[np.bool_], endpoints: Collection[int]) -> bool:
    """Whether a request may be answered by none but these."""
    return not _without(allowed, endpoints).any(axis=1).all()


def _without(allowed: NDArray[np.bool_], endpoints: Collection[int]) -> NDArray[np.bool_]:
    left = allowed.copy()
    left[:, list(endpoints)] = False
    return left


def worth_starting(start_usd: float, plan: Plan | Infeasible, without: Plan | Infeasible) -> bool:
    """Whether a look at an endpoint may save more than its start costs. `plan`, `without`: with it and without, by what is
    believed of it."""
    if isinstance(without, Infeasible):
        return True
    if isinstance(plan, Infeasible):
        return False
    return CHANCE * (without.cost_usd - plan.cost_usd) > (1.0 - CHANCE) * start_usd


def rented_until(endpoints: Sequence[Endpoint], paid: Sequence[TimePaid]) -> dict[str, tuple[datetime, ...]]:
    """Return until when workers are paid for that earlier processes of a run have rented, by endpoint."""
    until: dict[str, tuple[datetime, ...]] = {}
    for endpoint in endpoints:
        hourly = endpoint.price.usd_per_hour
        if endpoint.workers is None or not hourly:
            continue
        until[endpoint.name] = tuple(
            one.until or one.since + timedelta(hours=float(one.usd / hourly))
            for one in paid
            if one.endpoint == endpoint.name
        )
    return until
