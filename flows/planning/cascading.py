"""The plan of a run whose scores are free: serve, look and send on what failed, as columns of the planner's problem."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.planning.planner import Decision, Market, decide, problem
from thirdshift.flows.runs.context import RunContext
from thirdshift.router.learning.cascade_columns import CascadeColumns, cascade_columns
from thirdshift.router.learning.cascades import Barred
from thirdshift.router.learning.quality_target import QualityTarget
from thirdshift.router.lots import total
from thirdshift.router.planning.infeasibility import solve
from thirdshift.router.planning.problem import NOBODY, Infeasible, Plan, Terms
from thirdshift.router.prediction.observations import Observations, PastScores
from thirdshift.router.prediction.predict import learnt
from thirdshift.router.values import Endpoint

Floats = NDArray[np.float64]
Made = TypeVar("Made")

SMALL_START = 0.01
"""A start that is no larger share of the bill is not weighed on its own: a plan without it takes as long to make."""


def sends_on(context: RunContext, scorable: NDArray[np.bool_]) -> bool:
    """Whether what fails is seen at no cost and can be sent on: every request's score is free. `scorable`: [leaders]."""
    return context.scores_all and bool(scorable.all())


def decide_for(
    columns: RequestColumns,
    market: Market,
    observations: Observations,
    priors: Floats,
    terms: Terms,
    aim: QualityTarget | None,
    before: PastScores,
    *,
    by_one_rule: bool = False,
    sends_on: bool = False,
    doubt: Sequence[float] = (),
) -> Decision:
    """The cheapest plan that clears the floor, as a sequence where what fails is sent on. `doubt`: see `decide`."""
    if aim is None or not sends_on or by_one_rule:
        return decide(
            columns, market, observations, priors, terms, aim, before, by_one_rule=by_one_rule, doubt=doubt
        )
    predictor, population = learnt(observations, columns.population, priors, past=before)

    def in_order(priced: Market, barred: Barred) -> Decision:
        found = cascade_columns(
            predictor, population, observations, _asked(columns, priced, terms.seconds), aim, np.random.default_rng(0),
            per_task=terms.per_task, barred=barred,
        )  # fmt: skip
        cost = bills(columns.allowed, priced, found.cost_usd, observations)
        posed = problem(columns, priced, found.quality, replace(terms, floor=found.floor), cost)
        plan = solve(posed)
        if not isinstance(plan, Infeasible):
            seconds = plan.finish_seconds + _mending_seconds(plan, priced, found)
            plan = replace(plan, finish_seconds=seconds)
        return Decision(plan, posed, priced, predictor.predict(population), found.floor, found)

    def sequence(priced: Market, never_later: frozenset[int] = frozenset()) -> Decision:
        orders = _orders(priced, terms.seconds)
        found = [in_order(priced, replace(barred, later=barred.later | never_later)) for barred in orders]
        return min(found, key=lambda it: np.inf if isinstance(it.plan, Infeasible) else it.plan.cost_usd)

    return _worth_its_starts(sequence, market)


def _orders(market: Market, seconds: float | None) -> list[Barred]:
    """What there is no time for, once for each way of using batch tiers: where no batch can follow on another before the
    deadline, batches go first or to what failed, for a run sends what failed when all that went first is back."""
    tiers = [offer for offer in market.offered if offer.option.turnaround_seconds > 0]
    rounds = {tier.endpoint: tier.option.rounds(seconds) for tier in tiers}
    late = frozenset(endpoint for endpoint, count in rounds.items() if count < 1)
    if max(rounds.values(), default=0) != 1:
        return [Barred(later=late)]
    return [Barred(later=frozenset(rounds)), Barred(first=frozenset(rounds), later=late)]


def costs_within(market: Market, seconds: float | None) -> Floats:
    """[leaders, endpoints] what an answer costs, infinite where it would come after the deadline: by what nobody can have,
    quality looks cheaper than it is. What is held costs nothing all the same."""
    cost = market.by_endpoint()
    in_time = {offer.endpoint for offer in market.offered if offer.option.open_seconds(seconds) > 0}
    for endpoint in set(market.endpoint.tolist()) - in_time:
        cost[cost[:, endpoint] > 0, endpoint] = np.inf
    return cost


def _asked(columns: RequestColumns, market: Market, seconds: float | None) -> Floats:
    """[leaders, endpoints] what an answer costs, infinite where it would come after the deadline or the endpoint may not be
    asked. Where nobody answers in time that is for the plan to say: who is left out of it is asked for nothing."""
    cost = costs_within(market, seconds)
    cost[~(columns.allowed & np.isfinite(cost))] = np.inf
    nobody = ~np.isfinite(cost).any(axis=1)
    if nobody.any():
        cost[nobody] = np.where(columns.allowed[nobody], market.by_endpoint()[nobody], np.inf)
    return cost


def _worth_its_starts(sequence: Callable[..., Decision], market: Market) -> Decision:
    """The plan in which no worker is started unless its start is worth that: columns reckon with a share of each start, as
    if all went there, and a plan with the starts of those that serve first. `sequence`: (market, those that are to be
    asked first or not at all)"""
    starts = {e: usd for e, usd in market.starts().items() if usd > 0}
    made = sequence(market)
    if not starts:
        return made

    def used(decision: Decision) -> set[int]:
        first, followers = _asked_of(decision, starts)
        return first | followers

    def late(decision: Decision) -> set[int]:
        first, followers = _asked_of(decision, starts)
        return followers - first

    def bill(decision: Decision) -> float:
        plan = decision.plan
        if isinstance(plan, Infeasible):
            return np.inf
        return plan.cost_usd + sum(starts[e] for e in late(decision))

    if late(made):
        made = min(made, sequence(market, frozenset(starts)), key=bill)
    return with_fewer_starts(made, lambda left_out: sequence(market.without(left_out)), used, bill, starts)


def followers(decision: Decision) -> set[int]:
    """Return the endpoints that are sent what others fail at by the plan."""
    return _asked_of(decision, range(decision.market.output_tokens.shape[1]))[1]


def _asked_of(decision: Decision, endpoints: Collection[int]) -> tuple[set[int], set[int]]:
    """Which of some endpoints serve first by the plan, and which are sent what others fail at."""
    plan, found = decision.plan, decision.cascades
    if isinstance(plan, Infeasible) or found is None:
        return set(), set()
    served = np.flatnonzero(plan.choice != NOBODY)
    first = decision.market.endpoint[plan.choice[served]]
    followers = found.follower[served, first]
    return {e for e in endpoints if (first == e).any()}, {e for e in endpoints if (followers == e).any()}


def with_fewer_starts(
    made: Made,
    again: Callable[[frozenset[int]], Made],
    used: Callable[[Made], Collection[int]],
    bill: Callable[[Made], float],
    starts: Mapping[int, float],
) -> Made:
    """Return `made`, or what is made `again` without some of the endpoints that it would start: one is left out after the
    other as long as that is cheaper. `bill`: its US dollars; `starts`: endpoint → US dollars of a start."""
    left_out: frozenset[int] = frozenset()
    while np.isfinite(least := bill(made)):
        dear = [e for e in used(made) if starts[e] > SMALL_START * least]
        for endpoint in sorted(dear, key=lambda e: (-starts[e], e)):
            other = again(left_out | {endpoint})
            if bill(other) < least:
                made, left_out = other, left_out | {endpoint}
                break
        else:
            break
    return made


def bills(allowed: NDArray[np.bool_], market: Market, bill: Floats, seen: Observations) -> Floats:
    """[leaders, options] a request's whole bill by who goes first, infinite where that is not allowed. `allowed`, `bill`:
    [leaders, endpoints]. An answer whose score is `seen` costs nothing more in `bill`; where it was its model's other tier
    that gave it, it has its price all the same."""
    cost = np.full(market.cost_usd.shape, np.inf)
    # column by column: each is 80 MB of ten million requests
    for option, endpoint in enumerate(market.endpoint):
        own, cheapest = market.cost_usd[:, option], market.least_usd(endpoint)
        may = allowed[:, endpoint] & np.isfinite(own)
        # what an hour of higher prices costs more
        dearer = np.subtract(own, cheapest, out=np.zeros(len(own)), where=np.isfinite(cheapest))
        np.add(bill[:, endpoint], dearer, out=cost[:, option], where=may)
        known = seen.row[seen.endpoint == endpoint]
        cost[known, option] += own[known]
    return cost


def _mending_seconds(plan: Plan, market: Market, found: CascadeColumns) -> float:
    """How much later the last answer comes because what fails is sent on: at the rates given, a batch's turnaround once."""
    line, choice = np.arange(len(plan.choice)), plan.choice
    endpoint = np.where(choice == NOBODY, 0, market.endpoint[choice])
    follower = np.where(choice == NOBODY, -1, found.follower[line, endpoint])
    seconds = 0.0
    for offer in market.offered:
        count = float(total(follower == offer.endpoint, market.sent))
        if count and offer.option.starts_seconds <= 0:
            rate = offer.option.requests_per_second
            seconds = max(seconds, offer.option.turnaround_seconds + (count / rate if rate else 0.0))
    return seconds


def sent_on(
    decision: Decision, plan: Plan, market: Market, endpoints: Sequence[Endpoint], position: int
) -> list[str]:
    """What happens to a request whose answer fails, where every score is free; else nothing is said."""
    choice = int(plan.choice[position])
    if decision.cascades is None or choice == NOBODY:
        return []
    follower = int(decision.cascades.follower[position, market.endpoint[choice]])
    if follower < 0:
        return ["every answer is scored; where this one fails it stays: others are mended cheaper"]
    return [
        f"every answer is scored; where this one fails it goes on to {endpoints[follower].name}, until the floor is met"
    ]
