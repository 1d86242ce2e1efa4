"""The router's decisions on a night's columns: what to look at, what to believe, who answers what.

Columns here are by leader, as in `thirdshift.flows.planning.columns`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.errors import UserError
from thirdshift.flows.planning.batch_room import in_batches
from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.planning.history import PastAnswers
from thirdshift.flows.planning.measured.latency import with_enough_up, with_latencies
from thirdshift.flows.planning.measured.run_queries import NO_CALLS, CallFigures, TokenUsage
from thirdshift.flows.planning.tiers import realtime_counterparts, same_answers
from thirdshift.router.expiry import expected_losses
from thirdshift.router.learning.cascade_columns import CascadeColumns
from thirdshift.router.learning.quality_target import QualityTarget, standing
from thirdshift.router.learning.votes import Vote
from thirdshift.router.lots import Sent, mean, total
from thirdshift.router.planning.frontier import Point, frontier
from thirdshift.router.planning.infeasibility import solve
from thirdshift.router.planning.market import Offer, cost_matrix, hours_matrix, offers, reserved_usd
from thirdshift.router.planning.options import Throughput
from thirdshift.router.planning.problem import NOBODY, Choice, Infeasible, Plan, Problem, Terms
from thirdshift.router.planning.solve import Compromise, best_within, fallback
from thirdshift.router.prediction import observations
from thirdshift.router.prediction.observations import Observations
from thirdshift.router.prediction.predict import apart, crossed, fit, telling
from thirdshift.router.pricing.caches import cache_rule, hit_rate
from thirdshift.router.tokens import output_lengths
from thirdshift.router.tokens.estimate import learn_ratio
from thirdshift.router.tokens.output_lengths import Observed, OutputModel
from thirdshift.router.tokens.request_lengths import RequestAnswers
from thirdshift.router.values import Endpoint

MARGIN_ROUNDS = 3
"""Plan, see how sure it is, plan again with that margin: the margin depends on the plan, and settles at once."""


@dataclass(frozen=True, slots=True)
class Market:
    """What each option would charge each request, as known at some moment."""

    offered: tuple[Offer, ...]
    cost_usd: NDArray[np.float64] = field(repr=False)
    """[leaders, options]; answers held cost 0."""
    output_tokens: NDArray[np.float32] = field(repr=False)
    """[leaders, endpoints]"""
    lengths: OutputModel = field(repr=False)
    hours_usd: NDArray[np.float64] = field(repr=False)
    """[leaders, options] what a worker's busy seconds cost, and each request's share of its start and minimum if all
    requests go there; 0 where tokens are paid for, and for answers held."""
    most_usd: NDArray[np.float64] = field(repr=False)
    """[options] what a request reserves of the cap until it is answered, in the mean."""
    sent: Sent = field(default=None, repr=False)
    """[leaders] requests of each lot; None: one each."""
    votes: tuple[Vote, ...] = ()
    """What the last options are: two endpoints are asked, and a third where they differ; each is of its first endpoint."""

    @property
    def endpoint(self) -> NDArray[np.int32]:
        """[options] which endpoint each option is of."""
        return np.array([offer.endpoint for offer in self.offered], np.int32)

    @property
    def singles(self) -> int:
        """How many options are an endpoint alone; they come first."""
        return len(self.offered) - len(self.votes)

    @property
    def column(self) -> NDArray[np.int32]:
        """[options] where a prediction has each option: at its endpoint; votes come after the endpoints."""
        place = np.arange(len(self.votes), dtype=np.int32) + self.output_tokens.shape[1]
        return np.concatenate([self.endpoint[: self.singles], place]).astype(np.int32)

    def target(self, choice: Choice) -> NDArray[np.int32]:
        """[leaders] the endpoint that a plan's choice of options has each request go to, first; -1: none."""
        return np.where(choice == NOBODY, -1, self.endpoint[choice]).astype(np.int32)

    def by_endpoint(self) -> NDArray[np.float64]:
        """[leaders, endpoints] USD by the cheapest option of each endpoint, hours included."""
        endpoints = self.output_tokens.shape[1]
        cost = np.empty((len(self.cost_usd), endpoints))
        for endpoint in range(endpoints):
            cost[:, endpoint] = self.least_usd(endpoint)
        return cost

    def least_usd(self, endpoint: int) -> NDArray[np.float64]:
        """[leaders] the same of one endpoint; infinite where it offers nothing."""
        cost = np.full(len(self.cost_usd), np.inf)
        for option in np.flatnonzero(self.endpoint[: self.singles] == endpoint):
            np.minimum(cost, self.cost_usd[:, option] + self.hours_usd[:, option], out=cost)
        return cost

    def total_usd(self, cost_usd: NDArray[np.float64]) -> float:
        """What all requests cost. `cost_usd`: [leaders] what one of each does."""
        return float(total(cost_usd, self.sent))

    def starts(self) -> dict[int, float]:
        """Endpoint → US dollars that starting a worker costs, whatever it then answers; where hours are paid."""
        return {
            offer.endpoint: offer.option.workers.start_usd
            for offer in self.offered
            if offer.option.workers is not None
        }

    def with_kept(self, position: NDArray[np.int64], endpoint: NDArray[np.int32]) -> Market:
        """The market in which these requests, answered by these endpoints, can be had from no other."""
        kept = np.zeros((len(self.cost_usd), self.output_tokens.shape[1]), bool)
        kept[position, endpoint] = True
        elsewhere = np.asarray(kept.any(axis=1))[:, None] & ~kept[:, self.endpoint]
        return replace(self, cost_usd=np.where(elsewhere, np.inf, self.cost_usd))

    def without(self, endpoints: Collection[int]) -> Market:
        """The market if these endpoints offered nothing."""
        gone = np.isin(self.endpoint, list(endpoints))
        return replace(self, cost_usd=np.where(gone, np.inf, self.cost_usd))


def market(
    columns: RequestColumns,
    endpoints: Sequence[Endpoint],
    used: TokenUsage,
    past: PastAnswers | None,
    throughputs: Mapping[str, Throughput],
    *,
    now: datetime,
    deadline: datetime | None,
    calls: CallFigures = NO_CALLS,
    held: tuple[NDArray[np.int64], NDArray[np.int32]] | None = None,
) -> Market:
    """Prices and expected tokens, corrected by what answers took so far. `held`: (positions, endpoints) answered."""
    at = columns.positions(used.row)
    kind = same_answers(endpoints)  # one model's tiers are learnt together
    lengths, output = _lengths(columns, kind, at, used, past)
    factors = {}
    for e, endpoint in enumerate(endpoints):
        mine = kind[used.endpoint] == kind[e]
        before = past.counted(np.flatnonzero(kind == kind[e])) if past else (np.zeros(0), np.zeros(0))
        estimated = np.concatenate([columns.tokens[e][at[mine]], before[0]])
        counted = np.concatenate([used.input_tokens[mine], before[1]])
        factors[endpoint.name] = learn_ratio(estimated, counted).ratio
    left = None if deadline is None else (deadline - now).total_seconds()
    sent = columns.sent
    speeds = with_latencies(throughputs, endpoints, output, calls, sent)
    speeds = with_enough_up(speeds, endpoints, columns.tokens, output, left, sent)
    offered = offers(endpoints, now, deadline, speeds, factors)
    hits = _hit_rates(columns, endpoints, calls, past)
    cached = [
        np.minimum(cache.found * np.float64(hit), tokens)
        for cache, tokens, hit in zip(columns.caches, columns.tokens, hits, strict=True)
    ]
    written = [cache.written(found) for cache, found in zip(columns.caches, cached, strict=True)]
    cost = cost_matrix(endpoints, offered, columns.tokens, output, cached, written)
    cost += expected_losses(
        endpoints,
        np.array([offer.endpoint for offer in offered], np.int32),
        cost,
        realtime_counterparts(endpoints),
        now=now,
        deadline=deadline,
    )
    paid = hours_matrix(offered, columns.tokens, output, sent)
    if held is not None:
        for option, offer in enumerate(offered):
            cost[held[0][held[1] == offer.endpoint], option] = 0.0
            if offer.option.workers is not None:
                paid[held[0][held[1] == offer.endpoint], option] = 0.0
    reserved = reserved_usd(endpoints, offered, columns.tokens, columns.max_tokens, sent)
    return Market(offered, cost, output, lengths, paid, reserved, sent)


def _lengths(
    columns: RequestColumns,
    kind: NDArray[np.integer],
    at: NDArray[np.int64],
    used: TokenUsage,
    past: PastAnswers | None,
) -> tuple[OutputModel, NDArray[np.float32]]:
    """Return what is believed of output lengths, and [leaders, endpoints] tokens expected. `at`: [answers] of `used` the
    positions of their requests; `kind`: [endpoints] which of them are learnt together."""
    task, most, written = columns.population.task, columns.max_tokens, used.output_tokens
    tonight = Observed(task[at], kind[used.endpoint], written, most[at], request=at) if len(at) else None
    lengths = output_lengths.fit(
        tonight,
        tasks=columns.population.tasks,
        endpoints=len(kind),
        max_tokens=most,
        history=replace(past.lengths, endpoint=kind[past.lengths.endpoint]) if past else None,
    ).of(kind)
    output = np.stack([lengths.mean(task, most, e) for e in range(len(kind))], axis=1)
    if tonight is not None:
        deviation = lengths.deviations(tonight.task, tonight.endpoint, written)
        RequestAnswers.of(at, deviation).have_told(output, most, lengths.share, lengths.sigma)
    return lengths, output


def _hit_rates(
    columns: RequestColumns, endpoints: Sequence[Endpoint], calls: CallFigures, past: PastAnswers | None
) -> list[float]:
    """How much of what could be cached is expected to be, by endpoint: as observed in this run and before."""
    rates = []
    for e, endpoint in enumerate(endpoints):
        here = calls.endpoint == e
        count, cached, read = (
            calls.answers[here].sum(),
            calls.cached_tokens[here].sum(),
            calls.input_tokens[here].sum(),
        )
        if past is not None:
            before = past.endpoint == e
            count, cached = count + before.sum(), cached + past.cached_tokens[before].sum()
            read = read + past.input_tokens[before].sum()
        found, whole = (
            float(total(counted, columns.sent)) for counted in (columns.caches[e].found, columns.tokens[e])
        )
        shared = found / max(whole, 1.0)
        rates.append(
            hit_rate(cache_rule(endpoint), shared, float(count), float(cached) / max(float(read), 1.0))
        )
    return rates


def problem(
    columns: RequestColumns,
    market: Market,
    quality: NDArray[np.float32],
    terms: Terms,
    cost_usd: NDArray[np.float64] | None = None,
) -> Problem:
    """`quality`: [leaders, endpoints and votes]; `cost_usd`: [leaders, options] what a request costs, infinite where it is
    not allowed; None: what the market asks for one answer."""
    endpoint = market.endpoint
    if cost_usd is None:
        cost_usd = np.where(columns.allowed[:, endpoint], market.cost_usd, np.inf)
    tokens = [float(mean(counted, columns.sent)) if len(counted) else 0.0 for counted in columns.tokens]
    return Problem(
        options=tuple(
            in_batches(offer.option, tokens[offer.endpoint], reserved, terms.cap_usd)
            for offer, reserved in zip(market.offered, market.most_usd.tolist(), strict=True)
        ),
        tasks=columns.tasks,
        task=columns.population.task,
        weight=columns.weight,
        cost=cost_usd,
        quality=_picked(quality, market.column),
        input_tokens=columns.tokens[0],
        output_tokens=_picked(market.output_tokens, endpoint),
        terms=terms,
        sent=columns.sent,
    )


def _picked(columns: NDArray[np.float32], places: NDArray[np.int32]) -> NDArray[np.float32]:
    """`columns` at these places, without a copy where that is all of them in their order."""
    return columns if np.array_equal(places, np.arange(columns.shape[1])) else columns[:, places]


@dataclass(frozen=True, slots=True)
class Decision:
    """A plan, what it was made of, and the belief behind it."""

    plan: Plan | Infeasible
    problem: Problem = field(repr=False)
    market: Market = field(repr=False)
    """Whose options the problem's are; with votes where some are weighed."""
    quality: NDArray[np.float32] | None = field(default=None, repr=False)
    """[leaders, endpoints] as predicted; None where nothing is to be cleared."""
    floor: float | None = None
    """In absolute terms, as believed."""
    cascades: CascadeColumns | None = field(default=None, repr=False)
    """What happens after the first answers, where every score is free."""

    @property
    def points(self) -> tuple[Point, ...]:
        """What floors cost; empty where nothing is to be cleared."""
        if self.cascades is not None:
            return tuple(Point(floor, cost) for floor, cost in self.cascades.points)
        return () if self.quality is None else frontier(self.problem)


def decide(
    columns: RequestColumns,
    market: Market,
    observations: Observations,
    priors: NDArray[np.float64],
    terms: Terms,
    aim: QualityTarget | None,
    before: observations.PastScores | None = None,
    *,
    by_one_rule: bool = False,
    doubt: Sequence[float] = (),
) -> Decision:
    """The cheapest plan that clears the floor with the confidence asked. `observations`: rows are positions here;
    `before`: scores of earlier nights; `by_one_rule`: requests with scores are served as those without are; `doubt`: by
    how much each vote of the market may be flattered."""
    population = telling(observations, columns.population, priors)
    predictor = fit(observations, population, priors, past=before)
    # what a request scored in the pilot must not choose who serves it: luck there is no skill elsewhere
    rule = apart if by_one_rule else crossed
    quality = rule(predictor, observations, population, priors, np.random.default_rng(0))
    width = quality.shape[1] - len(doubt)
    quality[:, width:] -= np.array(doubt, np.float32)
    if aim is None:
        posed = problem(columns, market, quality, replace(terms, floor=None))
        return Decision(solve(posed), posed, market)
    known = len(observations) or (before is not None and len(before.score))
    floor, margin = aim.floor * _anchor_mean(quality, columns.weight, aim), 0.0
    for _ in range(MARGIN_ROUNDS):
        posed = problem(columns, market, quality, replace(terms, floor=floor, margin=margin))
        plan = solve(posed)
        if isinstance(plan, Infeasible) or aim.confidence <= 0.5 or not known:
            break
        choice = np.where(plan.choice >= 0, market.column[plan.choice], -1)
        stand = standing(predictor, population, choice, aim)
        if stand.short <= 1e-4:
            break
        floor, margin = stand.floor, max(0.0, min(stand.margin, 1.0 - stand.floor))
    if isinstance(plan, Infeasible) and aim.baselines:
        plan = _anchor_alone(posed, market, aim) or plan
    return Decision(plan, posed, market, quality[:, :width], floor)


def _anchor_alone(posed: Problem, market: Market, aim: QualityTarget) -> Plan | None:
    """The plan that gives everything to the endpoint that the floor is a share of: it meets any such floor by itself,
    whatever is known of it. What it may not answer goes where it is answered best, and is to reach the floor as it is
    predicted. None: the other terms do not allow it."""
    anchor = np.isin(market.column, aim.baselines)
    barred = np.asarray(~np.isfinite(posed.cost[:, anchor]).any(axis=1))
    terms = replace(posed.terms, floor=None, margin=0.0, per_task=False)
    given = replace(posed, cost=np.where(anchor | barred[:, None], posed.cost, np.inf), terms=terms)
    if barred.any():
        best = best_within(given)
        return best if best is not None and best.quality >= (posed.terms.floor or 0.0) else None
    alone = solve(given)
    return None if isinstance(alone, Infeasible) else alone


def _anchor_mean(quality: NDArray[np.float32], weight: NDArray[np.int32], aim: QualityTarget) -> float:
    if not aim.baselines:
        return 1.0
    return float(max(np.average(quality[:, baseline], weights=weight) for baseline in aim.baselines))


def best_possible(decision: Decision, say: Callable[[str], None]) -> tuple[Plan, Compromise | None]:
    """The plan; where there is none, what can be had instead, and what was given up for it. Raises UserError."""
    plan = decision.plan
    if not isinstance(plan, Infeasible):
        return plan, None
    for reason in plan.reasons:
        if (
            decision.cascades is not None and reason.constraint == "floor"
        ):  # a belief; scores as they come decide
            say(
                f"by what is believed so far, {reason.message}; every score is free, and answers are looked at as they come"
            )
        else:
            say(f"not feasible by what is known so far: {reason.message}")
    found = fallback(decision.problem)
    if found is None:
        raise UserError("no plan: " + "; ".join(reason.message for reason in plan.reasons))
    return found
