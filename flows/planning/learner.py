"""What a night learns: this run's scores and token counts, what earlier nights tell, and what to look at next."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.console import money
from thirdshift.flows.planning.beliefs import check_beliefs
from thirdshift.flows.planning.cascading import costs_within, decide_for, sends_on
from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.planning.history import EarlierNights, earlier_nights
from thirdshift.flows.planning.input import PreparedInput
from thirdshift.flows.planning.kinds import in_kinds
from thirdshift.flows.planning.measured.run_queries import RunQueries
from thirdshift.flows.planning.measured.silent import leave_out, silent_so_far
from thirdshift.flows.planning.paid_hours import short_of, some_have_only, unstarted, withheld, worth_starting
from thirdshift.flows.planning.planner import Decision, Market, market
from thirdshift.flows.planning.score_price import score_usd
from thirdshift.flows.planning.tiers import looked_at, realtime_counterparts, same_answers, shared
from thirdshift.flows.planning.voting import (
    KnownAnswers,
    ServedByVotes,
    WithVotes,
    known_answers,
    with_votes,
)
from thirdshift.flows.runs.context import RunContext
from thirdshift.router.learning.free_scores import TRIALS, TRIED, FreeScoresSituation, next_trial
from thirdshift.router.learning.pilot import next_round
from thirdshift.router.learning.quality_target import QualityTarget
from thirdshift.router.learning.situation import Looks, Situation
from thirdshift.router.planning.problem import NOBODY, Infeasible, Terms
from thirdshift.router.prediction.difficulty import difficulty
from thirdshift.router.prediction.drift import Drift, since_then
from thirdshift.router.prediction.observations import Observations

KNOWN = 20
"""Scores of earlier nights that spare a night whose scores are free all trials but the first."""
DRIFT = "drift.json"
"""In the run's folder: the endpoints that have got worse."""


class Learner:
    """Asked anew each time: what it knows is in the warehouse, so a resumed run knows the same."""

    def __init__(
        self,
        context: RunContext,
        run_queries: RunQueries,
        columns: RequestColumns,
        scorable: NDArray[np.bool_],
        earlier: EarlierNights,
        realtime_counterpart: NDArray[np.int32],
        say: Callable[..., None],
        *,
        in_kinds: bool = False,
    ) -> None:
        """`in_kinds`: the tasks are clusters of like prompts, as no row names one."""
        self.in_kinds = in_kinds
        self.context, self.run_queries, self.columns, self.say = context, run_queries, columns, say
        self.realtime_counterpart, self.throughputs = realtime_counterpart, context.throughputs
        self.endpoints = context.endpoints
        """At the prices of this moment."""
        self.past = earlier.answers
        self.before = earlier.scores
        """Scores of earlier nights, those of endpoints that got worse taken out."""
        self.past_outputs = earlier.outputs
        """The answers behind those scores."""
        self.drifts: list[Drift] = []
        self.scorable = scorable
        """[leaders]"""
        self.rounds = 0
        """Rounds of the pilot so far."""
        self.broken: list[int] = []
        """Endpoints that broke off as a whole."""
        self._worth_starting: dict[int, bool] = {}
        """Whether a look at an endpoint paid by the hour is worth a worker's start, where the pilot has asked that."""

    @staticmethod
    def of(
        context: RunContext,
        run_queries: RunQueries,
        columns: RequestColumns,
        batch: PreparedInput,
        say: Callable[..., None],
    ) -> Learner:
        """With what earlier nights tell."""
        earlier = earlier_nights(context, batch.intake.tasks, run_id=context.run_id)
        check_beliefs(context, earlier.scores, columns.allowed)
        given = columns
        if earlier.answers is None and not len(earlier.scores.score):  # whose scores are of no kind
            columns = in_kinds(context, columns)
        return Learner(
            context,
            run_queries,
            columns,
            batch.scorable[columns.rows],
            earlier,
            realtime_counterparts(context.endpoints),
            say,
            in_kinds=columns is not given,
        )

    @property
    def by_one_rule(self) -> bool:
        """Whether requests with scores are served as those without are: where the scored ones are not all that the floor
        is asked of, what is chosen by their scores would say nothing of the others."""
        asked = self.context.job.quality
        part = self.context.scorer is not None and asked.population == "all" and not self.scorable.all()
        return self.context.by_sample or part

    @property
    def aim(self) -> QualityTarget | None:
        """What is to be cleared; with the confidence asked for where not all will be known in the end."""
        aim = self.context.aim
        return (
            replace(aim, confidence=self.context.job.quality.confidence) if aim and self.by_one_rule else aim
        )

    def observed(self) -> Observations:
        """Scores of this run; rows are positions among the leaders."""
        seen = self.run_queries.scores()
        return shared(
            Observations(self.columns.positions(seen.row), seen.endpoint, seen.score),
            self.realtime_counterpart,
        )

    def difficulty(self) -> NDArray[np.float64]:
        """[leaders] how hard each request is expected to be, NaN where nothing is known."""
        population, priors = self.columns.population, self.context.priors
        return difficulty(self.observed(), population, priors, past=self.before)

    @property
    def guesses_lengths(self) -> bool:
        """Whether it is a guess how long the answers of some endpoint are: none of its model's was seen, now or before."""
        return self._guessed(np.asarray(self.columns.allowed.any(axis=0)))

    def _guessed(self, endpoints: NDArray[np.bool_]) -> bool:
        """Whether it is a guess how long the answers of one of these are. `endpoints`: [endpoints]"""
        kind = same_answers(self.context.endpoints)
        past = self.past.lengths.endpoint if self.past else np.zeros(0, np.int32)
        known = kind[np.concatenate([self.run_queries.token_usage().endpoint, past]).astype(np.int64)]
        return bool(np.setdiff1d(kind[endpoints], known).size)

    def market(self) -> Market:
        """Prices and lengths as known now; answers held cost nothing, unless that would choose for the few that have been
        looked at and for no others."""
        context, queries = self.context, self.run_queries
        with queries.together():
            held, used, calls = queries.replies(), queries.token_usage(), queries.calls()
        answered = self.columns.positions(held.row[held.answered]), held.endpoint[held.answered]
        return market(
            self.columns, self.endpoints, used, self.past, self.throughputs,
            now=context.clock(), deadline=context.deadline, calls=calls,
            held=None if self.by_one_rule else answered,
        )  # fmt: skip

    def paid_usd(self, market: Market, target: NDArray[np.int32]) -> float:
        """What of a plan's cost is paid already: answers of the pilot that its market, by one rule for all, prices as if
        they were still to be had. `target`: [leaders] the endpoint planned."""
        if not self.by_one_rule:
            return 0.0
        held = self.run_queries.replies()
        position = self.columns.positions(held.row)
        served = held.answered & (target[position] == held.endpoint)
        return float(market.by_endpoint()[position[served], held.endpoint[served]].sum())

    def looks(self) -> tuple[Looks, NDArray[np.float64]] | None:
        """The next answers to look at, and what each [leaders, endpoints] costs; None: more would not pay."""
        aim = self.aim
        if aim is None or not self.context.pilots:
            return None
        with self.run_queries.together():
            self.watch()
            self.leave_out_silent()
            priced = self.market()
        waiting = self._withheld(aim, priced)
        if self.sends_on:
            return self._trial(aim, priced, waiting) or self._looks_at_workers(aim, priced, waiting)
        situation = self._situation(aim, priced, waiting)
        found = next_round(situation, np.random.default_rng(self.rounds))
        if found is None and not self.rounds and len(situation.observations):  # an earlier process played it
            self.rounds = 1
            found = next_round(replace(situation, rounds=1), np.random.default_rng(1))
        if not self.rounds and found is not None and len(self.before.score):
            alone = next_round(replace(situation, past=None), np.random.default_rng(0))
            self._tell_spared(len(alone or ()) - len(found))
        self.rounds += 1
        if found is None:
            return self._looks_at_workers(aim, priced, waiting)
        return found, np.asarray(situation.cost_usd, np.float64)

    def _withheld(self, aim: QualityTarget, priced: Market) -> list[int]:
        """Endpoints paid by the hour that are not to be looked at yet."""
        replies = self.run_queries.replies()
        known = np.bincount(replies.endpoint, minlength=len(self.context.endpoints)) > 0

        @cache
        def planned() -> set[int]:
            return self._serving(priced)

        baseline = self.context.baseline
        starts = unstarted(priced, known, baseline)
        short = short_of(aim.floor, self.context.priors, aim.baselines)
        # what would not serve by what earlier nights have told need not be started to be told it again
        scores = np.bincount(self.before.endpoint, minlength=len(known))
        told = [e for e in starts if scores[e] >= KNOWN]
        others = np.asarray(self.columns.allowed.any(axis=0))
        others[starts] = False
        guessed = self._guessed(others) and not self.rounds
        waiting = withheld(priced, self.columns.allowed, known, baseline, planned, short, told, guessed)
        if any(endpoint not in self._worth_starting for endpoint in told):
            serving = planned()
            self._worth_starting.update({endpoint: endpoint in serving for endpoint in told})
        waiting = sorted(e for e in {*waiting, *told} if not self._worth_starting.get(e))
        tried = [e for e in starts if e not in {*waiting, *self._worth_starting}]
        return sorted([*waiting, *(e for e in tried if not self._pays(priced, e, [*waiting, *tried]))])

    def _pays(self, priced: Market, endpoint: int, waiting: Sequence[int]) -> bool:
        """Whether a look is worth a worker's start, by the plans without those that wait and with it alone of them."""
        if some_have_only(self.columns.allowed, waiting):
            return True
        terms, beside = self.context.terms(), priced.without([e for e in waiting if e != endpoint])
        without = self.decide(priced.without(waiting), terms).plan
        return worth_starting(priced.starts()[endpoint], self.decide(beside, terms).plan, without)

    def _looks_at_workers(
        self, aim: QualityTarget, priced: Market, waiting: list[int]
    ) -> tuple[Looks, NDArray[np.float64]] | None:
        """First looks at a worker that is paid by the hour, where they are worth its start; the others have been tried."""
        if not waiting:
            return None
        for endpoint in (e for e in waiting if e not in self._worth_starting):
            name, start = self.context.endpoints[endpoint].name, priced.starts()[endpoint]
            worth = self._pays(priced, endpoint, waiting)
            self._worth_starting[endpoint] = worth
            if not worth:
                self.say(
                    f"{name} is not tried: starting a worker costs {money(start)}, more than it may save"
                )
                continue
            alone = [e for e in waiting if e != endpoint]
            # a worker that only mends is started when there is something to mend, and is looked at then
            if self.sends_on and endpoint not in self._serving(priced.without(alone)):
                self._worth_starting[endpoint] = False
                self.say(f"{name} is not tried before something has failed that it may mend")
                continue
            others = [e for e in range(len(self.context.endpoints)) if e != endpoint]
            situation = self._situation(aim, priced, others)
            found = next_round(replace(situation, rounds=0), np.random.default_rng(0))
            if found is not None:
                self.rounds = 1
                cost = np.asarray(situation.cost_usd, np.float64).copy()
                cost[:, endpoint] += start / len(found)
                return found, cost
        return None

    def _serving(self, priced: Market) -> set[int]:
        """The endpoints that would be asked first by what is believed now; all where there is no plan."""
        decision = self.decide(priced, self.context.terms())
        if isinstance(decision.plan, Infeasible):
            return set(range(len(self.context.endpoints)))
        choice = decision.plan.choice
        return set(decision.market.endpoint[choice[choice != NOBODY]].tolist())

    @property
    def sends_on(self) -> bool:
        """Whether what fails is seen at no cost and sent on."""
        return sends_on(self.context, self.scorable) and not self.by_one_rule

    def _trial(
        self, aim: QualityTarget, priced: Market, waiting: list[int]
    ) -> tuple[Looks, NDArray[np.float64]] | None:
        """Where what fails is sent on: some requests are served before the others, so that the others are served better."""
        context, rng = self.context, np.random.default_rng(self.rounds)
        tried = self.columns.allowed.copy()
        tried[:, waiting] = False
        usual = costs_within(priced, context.terms().seconds)
        allowed, cost = looked_at(tried & np.isfinite(usual), usual, self.realtime_counterpart)
        seen, population = self.observed(), self.columns.population
        left = context.pilots - len(np.unique(seen.row))
        known = len(self.before.score) >= KNOWN  # then one round shows whether it still holds
        if left <= 0 or self.rounds >= (1 if known else len(TRIALS)):
            return None
        if known:
            self._tell_spared(sum(size for size in TRIALS[1:] if size < TRIED * len(population)))
        per_task = context.job.quality.per_task
        found = next_trial(
            FreeScoresSituation(population, cost, allowed, context.priors, aim, seen, self.before, per_task),
            rng,
        )
        self.rounds += 1
        if found is None:
            return None
        return Looks(found.row[:left], found.endpoint[:left]), np.asarray(cost, np.float64)

    def _tell_spared(self, looks: int) -> None:
        if looks > 0:
            self.say(f"{len(self.before.score):,} scores of earlier nights stand in for {looks:,} looks")

    def _situation(self, aim: QualityTarget, priced: Market, waiting: Sequence[int] = ()) -> Situation:
        """What is known, with nothing to be looked at on the endpoints `waiting`."""
        context = self.context
        tried = self.columns.allowed & self.scorable[:, None]
        tried[:, list(waiting)] = False
        allowed, cost = looked_at(tried, priced.by_endpoint(), self.realtime_counterpart)
        return Situation(
            population=self.columns.population,
            cost_usd=cost,
            allowed=allowed,
            priors=context.priors,
            aim=aim,
            observations=self.observed(),
            pilot=context.pilots,
            looks=context.looks,
            rounds=self.rounds,
            past=self.before,
            score_usd=score_usd(context, self.columns, priced) if context.pays_for_scores else 0.0,
        )

    def leave_out_silent(self) -> None:
        """Give nothing more to endpoints that have failed at everything, or broke off; they are named."""
        context = self.context
        silent = silent_so_far(self.run_queries.replies(), len(context.endpoints))
        for endpoint in leave_out(self.columns.allowed, [*silent, *self.broken]):
            why = "broke off" if endpoint in self.broken else "has answered nothing that it was asked"
            self.say(f"{context.endpoints[endpoint].name} {why}, and is given nothing more", "yellow")

    def watch(self) -> None:
        """Endpoints that are found to have got worse since earlier nights are named; those nights say nothing of them
        from then on."""
        context = self.context
        names = tuple(endpoint.name for endpoint in context.endpoints)
        seen = self.run_queries.pilot_scores(served=context.scores_all)
        tried = Observations(self.columns.positions(seen.row), seen.endpoint, seen.score)
        found = since_then(names, tried, self.columns.population, context.priors, self.before)
        self.before = self.before.without([names.index(each.endpoint) for each in found])
        self.drifts += found
        for each in found:
            self.say(each.sentence(), "yellow")
        if found:
            told = json.dumps([asdict(each) for each in self.drifts])
            (context.folder / DRIFT).write_text(told, encoding="utf-8")

    def not_held(
        self, positions: NDArray[np.int64], endpoint: NDArray[np.int32]
    ) -> list[tuple[str, NDArray[np.int64]]]:
        """Pairs without a final reply, as (endpoint's name, rows)."""
        held = self.run_queries.replies()
        known = set(zip(held.row.tolist(), held.endpoint.tolist(), strict=True))
        rows = self.columns.rows[positions]
        fresh = np.array(
            [pair not in known for pair in zip(rows.tolist(), endpoint.tolist(), strict=True)], bool
        )
        names = [each.name for each in self.context.endpoints]
        return [(names[e], rows[fresh & (endpoint == e)]) for e in np.unique(endpoint[fresh])]

    def decide(self, priced: Market, terms: Terms, *, times: float = 1.0) -> Decision:
        """The plan that what is known now leads to. `times`: it aims at so many times the floor."""
        self.watch()
        given, aim = self.with_votes(priced), self.aim
        aim = aim and replace(aim, floor=aim.floor * times)
        return decide_for(
            self.columns, given.market, given.observations, given.priors, terms, aim, given.before,
            by_one_rule=self.by_one_rule, sends_on=self.sends_on, doubt=given.doubt,
        )  # fmt: skip

    def with_votes(self, priced: Market) -> WithVotes:
        """What is known, with the votes that it makes worth weighing: where looking costs, two that agree are evidence."""
        context, observed = self.context, self.observed()
        if self.aim is None or self.sends_on:
            return WithVotes(priced, observed, context.priors, self.before)
        return with_votes(
            self.columns, context.endpoints, priced, self.known_answers(observed), observed, context.priors, self.before
        )  # fmt: skip

    def known_answers(self, observed: Observations, served: ServedByVotes | None = None) -> KnownAnswers:
        """What scored answers say of votes; of endpoints that got worse earlier nights say nothing."""
        context, past = self.context, self.past_outputs
        names = [endpoint.name for endpoint in context.endpoints]
        worse = [names.index(each.endpoint) for each in self.drifts]
        if past is not None and worse:
            past = past.without(worse)
        return known_answers(self.run_queries, self.columns, observed, past, context.scorer, served)


def drifts_of(folder: Path) -> tuple[Drift, ...]:
    """Return the endpoints that the run of this folder found to have got worse."""
    try:
        rows = json.loads((folder / DRIFT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    return tuple(Drift(**row) for row in rows)
