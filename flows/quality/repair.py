"""Repair: what a night does about quality once it has served, by the router's decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.formats import counted
from thirdshift.flows.planning.assignment import Assignment, PendingRows
from thirdshift.flows.planning.batch_room import beyond_room
from thirdshift.flows.planning.cascading import bills
from thirdshift.flows.planning.learner import Learner
from thirdshift.flows.planning.planner import Market, problem
from thirdshift.flows.quality.baseline import Rise, answers_worth, baseline_scores
from thirdshift.flows.quality.population import means_of
from thirdshift.flows.quality.repair_rounds import SLACK, Rounds, due_of
from thirdshift.flows.quality.votes_held import VotesHeld
from thirdshift.flows.runs.context import EVEN
from thirdshift.router.certification.certificate import Certificate
from thirdshift.router.learning.cascade_columns import cascade_columns
from thirdshift.router.learning.cascades import RIGHT, known_scores
from thirdshift.router.learning.greedy_path import climb
from thirdshift.router.learning.quality_target import QualityTarget, standing
from thirdshift.router.learning.repair import Mended, expected, mend
from thirdshift.router.planning.problem import Problem, Terms
from thirdshift.router.prediction.mixed_model import looked_at
from thirdshift.router.prediction.observations import Observations, Population
from thirdshift.router.prediction.predict import Predictor, apart, fit, telling
from thirdshift.router.values import Mode, Purpose
from thirdshift.warehouse.store.store import Warehouse

MOST_ROUNDS = 6
"""The scores of one round teach the next; what is left then is hardly worth another."""
MOST_SMALL_ROUNDS = 12
"""Rounds at most where every score is known and endpoints answer at once: little is sent in each, so that little is too
much."""
TAUGHT = 20_000
"""Requests from which it is learnt how scores on one request hang together; more say nothing new."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The mean score that is to be reached, of what can be scored."""

    mean: float
    tasks: dict[str, float]
    """Where the floor is per task."""
    exact: bool
    """Every score is known, so that what is reached will be known too."""

    @staticmethod
    def predicted(certificates: Sequence[Certificate], bench: Bench) -> Wanted | None:
        """Where the claims are of a part: what is predicted of all requests is to be the floor. None: it is."""
        aimed = {
            it.task: (bench.mean_of(it.task), it.floor * bench.anchor_mean_of(it.task)) for it in certificates
        }
        if all(mean >= floor for mean, floor in aimed.values()):
            return None
        wanted = {task: min(floor, 1.0) for task, (_, floor) in aimed.items()}
        whole = wanted.pop(None, 0.0)
        return Wanted(whole, {str(task): floor for task, floor in wanted.items()}, exact=False)

    @staticmethod
    def of(
        certificates: Sequence[Certificate], served: dict[str | None, float], *, exact: bool, relative: bool
    ) -> Wanted | None:
        """None: the floor is met. `served`: mean scores, None the whole batch's; where they are all known, what is shown
        is to be the floor, else the estimate is. `relative`: certificates are of shares of the anchor's mean."""

        def short(each: Certificate) -> bool:
            return each.scored > 0 and (not each.shown if exact else each.mean < each.floor)

        def needed(each: Certificate) -> float:
            if not exact and not relative:  # the prediction, taught by what was scored, is of all answers
                return each.floor
            mean, shown = served.get(each.task, each.mean), each.lower_bound if exact else each.mean
            if exact and not relative and shown <= 0.0:  # every answer is known to be wrong
                return each.floor
            # where nothing is known, nothing can be aimed at
            return mean * each.floor / shown if shown > 0.0 else mean

        if not any(short(each) for each in certificates):
            return None
        wanted = {each.task: min(needed(each), 1.0) for each in certificates}
        whole = wanted.pop(None, 0.0)
        return Wanted(whole, {str(task): mean for task, mean in wanted.items()}, exact)

    def terms(self, terms: Terms) -> Terms:
        """With these floors; what is met already may not fall below its floor again."""
        margins = {task: mean - self.mean for task, mean in self.tasks.items()}
        return replace(terms, floor=self.mean, margin=0.0, per_task=bool(margins), task_margins=margins)


@dataclass(frozen=True, slots=True)
class Bench:
    """What a repair weighs."""

    learner: Learner
    assignment: Assignment
    market: Market
    seen: Observations
    population: Population
    """With its text where that tells."""
    predictor: Predictor
    quality: NDArray[np.float32]
    """[leaders, endpoints] what each answer is worth."""
    votes: VotesHeld
    """What is served because two answers agree, or do not."""

    @staticmethod
    def of(learner: Learner, assignment: Assignment) -> Bench:
        with learner.run_queries.together():
            votes, market = VotesHeld.of_run(learner, assignment), learner.market()
        seen, priors = votes.observations, votes.priors
        some = np.random.default_rng(0).permutation(np.unique(seen.row))[:TAUGHT]
        taught = seen.where(np.isin(seen.row, some))
        population = telling(taught, learner.columns.population, priors)
        predictor = fit(taught, population, priors, past=votes.before)
        if len(taught) < len(seen):
            predictor = replace(predictor, looked=looked_at(seen, population, len(priors)))
        if learner.by_one_rule:
            quality = apart(predictor, taught, population, priors, np.random.default_rng(0))
        else:
            quality = expected(predictor, population, seen)
        quality = votes.told(quality, predictor.predict(population))
        return Bench(learner, assignment, market, seen, population, predictor, quality, votes)

    @property
    def held(self) -> NDArray[np.bool_]:
        """[leaders, endpoints] answers that can be served at no further cost. By one rule for all requests: that which is
        served, for what was tried besides is held of a few alone."""
        place = self.assignment
        if not self.learner.by_one_rule:
            return place.answered
        one: NDArray[np.bool_] = np.arange(place.answered.shape[1]) == place.served[:, None]
        return one

    @property
    def tried(self) -> NDArray[np.bool_]:
        """[leaders, endpoints] held, given up, left undone by a batch, or not to be asked now."""
        place, now = self.assignment, self.learner.context.world.time()
        return self.held | place.failed | (place.not_run > 0) | (place.out_until > now)

    def mean_of(self, task: str | None) -> float:
        """The mean that is predicted of what is served, of all requests or of a task's."""
        served = self.assignment.served
        quality = np.where(served >= 0, self.quality[np.arange(len(served)), served], 0.0)
        return self._mean(quality, task)

    def anchor_mean_of(self, task: str | None) -> float:
        """The mean that is predicted of the endpoint that a floor is relative to; 1 where it is relative to none."""
        baseline = self.learner.context.baseline
        return 1.0 if baseline is None else self._mean(self.quality[:, baseline], task)

    def _mean(self, quality: NDArray[Any], task: str | None) -> float:
        columns = self.learner.columns
        mine = np.ones(len(quality), bool)
        if task is not None:
            mine = columns.population.task == columns.tasks.index(task)
        return float(np.average(quality[mine], weights=columns.weight[mine]))

    def sent_on(self, wanted: Wanted, posed: Problem) -> Mended | None:
        """Who answers what so that `wanted` is reached at the least cost, where every score is free: by what each request
        costs and scores in the end, whoever is asked next."""
        learner, of = self.learner, self.market.endpoint
        each = np.where(self.tried | ~learner.columns.allowed, np.inf, self.market.by_endpoint())
        scores = known_scores(self.seen, self.quality.shape)
        failed = np.flatnonzero(np.nan_to_num(scores).max(axis=1) < RIGHT)
        row, option = np.nonzero(beyond_room(posed, failed))
        each[row, of[option]] = np.inf
        found = cascade_columns(
            self.predictor, self.population, self.seen, each, QualityTarget(wanted.mean, (), EVEN),
            np.random.default_rng(0), per_task=bool(wanted.tasks), told=False,
        )  # fmt: skip
        quality = np.where(np.isnan(scores), found.quality, self.quality)
        cost = bills(learner.columns.allowed, self.market, found.cost_usd, self.seen)
        cost = np.where(self.tried[:, of], np.inf, cost)
        return self._mend(replace(posed, cost=cost), quality)

    def mended(self, wanted: Wanted, terms: Terms) -> Mended | None:
        """Who answers what so that `wanted` is reached at the least cost, or comes as near as the other terms allow."""
        columns, scorable = self.learner.columns, self.learner.scorable
        posed = problem(columns, self.market, self.quality, wanted.terms(terms))
        cost = np.where(self.tried[:, self.market.endpoint], np.inf, posed.cost)
        if self.learner.sends_on and wanted.exact:
            return self.sent_on(wanted, posed)
        posed = replace(posed, cost=cost)
        if scorable.all() or self.learner.by_one_rule:
            return self._mend(posed, self.quality)
        # what nobody scores is to reach the floor by its prediction, beside what can be scored
        both = self._mend(_in_two(posed, ~scorable), self.quality)
        if both is not None and both.reached:
            return both
        quality = self.quality.copy()
        target = np.array([wanted.tasks.get(name, wanted.mean) for name in columns.tasks])
        quality[~scorable] = target[
            columns.population.task[~scorable], None
        ]  # counts for nothing, either way
        return self._mend(posed, quality, fixed=~scorable)

    def _mend(
        self, posed: Problem, quality: NDArray[np.float32], fixed: NDArray[np.bool_] | None = None
    ) -> Mended | None:
        """`fixed`: requests that are not to be sent again; None: every one may be."""
        vendors = [endpoint.provider for endpoint in self.learner.context.endpoints]
        fixed = np.zeros(len(quality), bool) if fixed is None else fixed
        served = self.assignment.served
        return mend(posed, self.market.endpoint, vendors, quality, self.held, served, fixed=fixed)

    def sure(self, wanted: Wanted, terms: Terms, aim: QualityTarget, *, last: bool) -> Mended | None:
        """What is sent in this round: as `mended`, with a margin, and without what waits until more is known.

        `last`: no round follows.
        """
        found = self.mended(wanted, terms)
        if last or not self.learner.sends_on or found is None or not found.new.any():
            return self._with_margin(found, wanted, terms, aim, SLACK)
        rounds = Rounds(self.learner, self.assignment, self.market, self.seen, self.quality, terms.seconds)
        askable = self.learner.columns.allowed & ~self.tried
        few = rounds.measured_first(
            lambda market: replace(self, market=market).mended(wanted, terms), askable
        )
        if few is not None:
            return few
        if rounds.in_parts(found):  # also where the floor is thought out of reach: a round may tell better
            return rounds.part_of(found)
        if few := rounds.tried_first(found, askable):
            return rounds.part_of(few)
        surer = self._with_margin(found, wanted, terms, aim, rounds.slack(found, askable))
        return surer and rounds.dearest_last(surer)

    def _with_margin(
        self, found: Mended | None, wanted: Wanted, terms: Terms, aim: QualityTarget, slack: float
    ) -> Mended | None:
        """For luck where all will be scored, `slack` standard deviations of it, else for what the prediction may be off by.
        `found`: without."""
        weight = self.learner.columns.weight
        for _ in range(3):
            if found is None or not found.new.any() or not found.reached:
                return found
            if wanted.exact and not slack:
                return found
            if wanted.exact:
                gained = self.quality[found.new, found.endpoint[found.new]].astype(np.float64)
                residual = float(np.sqrt((weight[found.new] ** 2 * gained * (1.0 - gained)).sum()))
                more = slack * residual / max(int(weight[self.learner.scorable].sum()), 1)
                raised = self.mended(_raised(wanted, more), terms)
                return raised if raised is not None and raised.reached else found
            choice = self.votes.columns(found.endpoint, self.assignment)
            stand = standing(self.predictor, self.population, choice, aim)
            if stand.short <= 1e-4:
                return found
            wanted = _raised(wanted, stand.short)
            found = self.mended(wanted, terms)
        return found


def _in_two(posed: Problem, others: NDArray[np.bool_]) -> Problem:
    """The problem with each floor asked of both parts on their own."""
    if not posed.terms.per_task:
        parts = ("scored", "others")
        return replace(
            posed, tasks=parts, task=others.astype(np.int32), terms=replace(posed.terms, per_task=True)
        )
    second = {f"{name} (others)": margin for name, margin in posed.terms.task_margins.items()}
    terms = replace(posed.terms, task_margins={**posed.terms.task_margins, **second})
    tasks = (*posed.tasks, *(f"{name} (others)" for name in posed.tasks))
    return replace(posed, tasks=tasks, task=posed.task + len(posed.tasks) * others, terms=terms)


def _raised(wanted: Wanted, more: float) -> Wanted:
    tasks = {task: min(mean + more, 1.0) for task, mean in wanted.tasks.items()}
    return replace(wanted, mean=min(wanted.mean + more, 1.0), tasks=tasks)


class Repair:
    """One night's repair, round by round."""

    def __init__(self, learner: Learner, assignment: Assignment, say: Callable[..., None]) -> None:
        self.learner, self.assignment, self.say = learner, assignment, say
        self.rounds = 0
        self.over = False
        """Whether nothing was found to be sent when it was last asked."""

    def due(
        self, certificates: Sequence[Certificate], terms: Terms, mean: float | None = None
    ) -> tuple[Purpose, PendingRows] | None:
        """What to send next; None: nothing is to be mended, or nothing can. `certificates`: of what is served now;
        `mean`: the mean score at which answers and their proof cost least, where that is weighed."""
        context = self.learner.context
        by_rule, aim = self.learner.by_one_rule, self.learner.aim
        exact = context.scores_all and not by_rule
        if aim is None or not certificates or self.rounds == self._most_rounds:
            return None
        bench: Bench | None = None
        if exact and context.baseline is not None and not self.rounds:
            bench = Bench.of(self.learner, self.assignment)
            if len(asked := self._of_anchor(certificates, bench, terms)):
                self.rounds += 1
                return Purpose.AUDIT, asked
        if exact and not self.rounds:
            self.learner.watch()  # what was served tells whether an endpoint got worse
        self.rounds += 1
        served = means_of(context)
        if by_rule and not all(it.whole for it in certificates):
            bench = Bench.of(self.learner, self.assignment)
            wanted = Wanted.predicted(certificates, bench)
        elif mean is not None:
            wanted, aim = Wanted(mean, {}, exact=False), replace(aim, confidence=EVEN)
        else:
            wanted = Wanted.of(certificates, served, exact=exact, relative=context.baseline is not None)
        if wanted is None:
            return None
        bench = bench or Bench.of(self.learner, self.assignment)
        found = bench.sure(wanted, terms, aim, last=self.rounds == self._most_rounds)
        if found is None:
            return None
        due = due_of(found, self.assignment, bench.market, context.clock().timestamp())
        self.rounds -= due.opens_at is not None
        if len(due) and by_rule:
            self.say(
                f"predicted mean score {bench.mean_of(None):.4f}, wanted is {wanted.mean:.4f}: {len(due):,} requests, "
                f"chosen by prediction, go to a better endpoint"
            )
        elif len(due):
            self.say(_sentence(certificates, wanted, served, len(due), proof=mean is not None))
        return Purpose.REPAIR, due

    @property
    def _most_rounds(self) -> int:
        realtime = any(endpoint.mode is Mode.REALTIME for endpoint in self.learner.context.endpoints)
        return MOST_SMALL_ROUNDS if self.learner.sends_on and realtime else MOST_ROUNDS

    def _of_anchor(self, certificates: Sequence[Certificate], bench: Bench, terms: Terms) -> PendingRows:
        """Answers of the anchor that pay: the surer its mean is, the less must be reached."""
        learner, none = self.learner, PendingRows(np.zeros(0, np.int64), np.zeros(0, np.int32))
        context, columns = learner.context, learner.columns
        with Warehouse.open(context.warehouse) as warehouse:
            told = baseline_scores(warehouse, context)
        if all(each.shown for each in certificates) or not len(told.task) or context.baseline is None:
            return none
        if (told.purpose == "audit").any():
            return none  # an earlier process asked
        live = int(learner.realtime_counterpart[context.baseline])
        baseline = live if live >= 0 else context.baseline
        cost = bench.market.by_endpoint()
        free = np.where(self.assignment.answered, 0.0, cost)
        fit_ = columns.allowed & (~bench.tried | self.assignment.answered) & learner.scorable[:, None]
        served = self.assignment.served
        ladder = climb(free, bench.quality, fit_ | (np.arange(cost.shape[1]) == served[:, None]))
        parts, rises = [], []
        for each in certificates:
            part = told if each.task is None else told.part(told.task == each.task)
            rows = np.isin(columns.rows, np.unique(part.leader))
            parts.append((each, part))
            rises.append(Rise.of(ladder, columns.weight, rows))
        rest = columns.positions(told.leader[told.rest])
        price = float(cost[rest, baseline].mean()) if len(rest) else 0.0
        left = np.inf if terms.cap_usd is None else terms.cap_usd
        count = answers_worth(parts, rises, price, left)
        asked = np.unique(rest[:count])
        asked = asked[columns.allowed[asked, baseline] & ~bench.tried[asked, baseline]]
        if len(asked):
            name = context.endpoints[baseline].name
            self.say(f"{len(asked):,} requests drawn at random go to {name} too, to know how good it is")
        return PendingRows(asked, np.full(len(asked), baseline, np.int32))


def _sentence(
    certificates: Sequence[Certificate],
    wanted: Wanted,
    served: dict[str | None, float],
    count: int,
    *,
    proof: bool,
) -> str:
    """Why so many requests are answered again. `proof`: the floor costs less to show where answers are better."""
    sent = f"{counted(count, 'request')} {'is' if count == 1 else 'are'} sent on to another endpoint"
    if proof:
        return (
            f"mean score {certificates[0].mean:.4f}, a floor of {certificates[0].floor:g} costs less to show at "
            f"{wanted.mean:.4f}: {sent}"
        )
    short = [each for each in certificates if (not each.shown if wanted.exact else each.mean < each.floor)]
    first = short[0]
    of = "" if first.task is None else f" of task {first.task}"
    others = (
        counted(len(short) - 1, "task") if first.task is None else f"{counted(len(short) - 1, 'task')} more"
    )
    more = f" ({others} below, too)" if len(short) > 1 else ""
    mean = served.get(first.task, first.mean) if wanted.exact else first.mean
    goal = wanted.mean if first.task is None else wanted.tasks[first.task]
    return f"mean score{of} {mean:.4f}, wanted is {goal:.4f}{more}: {sent}"
