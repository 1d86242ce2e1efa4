"""A night played on recorded outcomes in which looking at a score costs: pilot, plan, audit, repair.

Where the file has answers, votes are options beside the endpoints: "A and B agree: serve A; else C".
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.backtesting.played_night import (
    BacktestSettings,
    Played,
    PlayedNight,
    certified,
    expected_costs,
    start,
)
from thirdshift.router.backtesting.recorded_outcomes import Outcomes
from thirdshift.router.learning import votes
from thirdshift.router.learning.cascades import known_scores
from thirdshift.router.learning.pilot import Situation, next_round
from thirdshift.router.learning.repair import below
from thirdshift.router.learning.value_of_information import AssignmentPath, look_out
from thirdshift.router.learning.votes import Seen, Vote
from thirdshift.router.prediction.observations import Observations, Population
from thirdshift.router.prediction.predict import crossed, learnt

Floats = NDArray[np.float64]

PILOT = 0.5
"""At most this share of the requests is looked at before the plan."""
AUDIT = 0.10
"""At least this share of the scores is kept for the audit."""
REPAIRS = 8
"""Rounds of repair at most."""
TRYOUTS = 4
"""Times that answers are looked at which the plan would serve if it needed no margin: they are paid for anyway, and what
they tell narrows the margin."""
TRYOUT_SHARE, TRYOUT_FEWEST = 1 / 3, 20
"""The share of the requests not looked at yet that each takes; fewer than that are not worth a round."""
EVEN = 0.5


@dataclass(frozen=True, slots=True)
class Options:
    """What a request can be given to: the endpoints, then votes. Columns have one of each."""

    votes: tuple[Vote, ...]
    doubt: tuple[float, ...]
    """By how much each vote may be flattered by having been chosen."""
    observations: Observations
    cost_usd: Floats
    """[n, options] expected, NaN where nobody knows; answers paid for are not taken off."""
    priors: Floats
    seen: Seen = field(repr=False)


@dataclass(slots=True)
class AuditedNight:
    """One night with who voted on what."""

    night: PlayedNight
    voted: NDArray[np.int32]
    """[n, 3] the vote that served a request; -1: none did."""
    shown: Floats
    """[n] the score of what the vote served, where it was drawn to be looked at."""
    own: NDArray[np.bool_]
    """[n, endpoints] looked at for the endpoint's own sake."""

    def seen(self) -> Seen:
        night, answers = self.night, self.night.outcomes.answer
        score = np.where(self.own, known_scores(night.seen, night.paid.shape), np.nan)
        answer = np.full(night.paid.shape, votes.NOTHING, np.int32)
        if answers is not None:
            answer = np.where(night.paid, answers, votes.NOTHING).astype(np.int32)
        return Seen(score, answer, night.paid, self.voted, self.shown)

    @property
    def observations(self) -> Observations:
        """Scores that tell of endpoints."""
        seen = self.night.seen
        return seen.where(self.own[seen.row, seen.endpoint])

    def look(self, rows: NDArray[np.int64], endpoint: NDArray[np.int32], voting: NDArray[np.bool_]) -> None:
        """Look at what is served. `voting`: of these the rows that a vote serves."""
        known = known_scores(self.night.seen, self.night.paid.shape)
        fresh = np.isnan(known[rows, endpoint])
        self.night.look(rows[fresh], endpoint[fresh])
        self.own[rows[~voting], endpoint[~voting]] = True
        known = known_scores(self.night.seen, self.night.paid.shape)
        self.shown[rows[voting]] = known[rows[voting], endpoint[voting]]

    def options(self) -> Options:
        night, cost = self.night, expected_costs(self.night)
        seen, population = self.seen(), night.population
        chosen: list[tuple[Vote, float]] = []
        if night.outcomes.answer is not None and np.isfinite(cost).any():
            chosen = votes.candidates(seen, cost, np.ones(cost.shape, bool))
        voting = tuple(vote for vote, _ in chosen)
        unpaid = replace(seen, held=np.zeros_like(seen.held))
        rates = votes.costs(replace(unpaid, held=seen.held), voting, cost, population.task, population.tasks)
        return Options(
            voting,
            tuple(doubt for _, doubt in chosen),
            votes.observed(seen, voting, self.observations),
            np.hstack([np.where(night.paid, 0.0, cost), rates]),
            np.full(cost.shape[1] + len(voting), np.nan),
            seen,
        )


def play_audited(
    outcomes: Outcomes, population: Population, settings: BacktestSettings, rng: np.random.Generator
) -> Played:
    """The whole night."""
    n, shape = len(outcomes), outcomes.score.shape
    game = AuditedNight(
        start(outcomes, population, settings, rng),
        np.full((n, 3), -1, np.int32),
        np.full(n, np.nan),
        np.zeros(shape, bool),
    )
    night = game.night
    pilot(game)
    looked = np.logical_or.reduce(night.paid, axis=1)
    repairs = 0
    while True:
        options = game.options()
        path = plan(game, options)
        served, audit = serve_and_audit(game, options, path.choice)
        if not len(audit) or repairs == REPAIRS or not _below(game, options, path):
            break
        repairs += 1
    certificate = certified(night, served, audit, repairs + 1)
    return Played(served, looked, night.paid, len(night.seen), certificate, repairs)


def _below(game: AuditedNight, options: Options, path: AssignmentPath) -> bool:
    observations = votes.observed(game.seen(), options.votes, game.observations)
    return below(observations, path, options.priors)


def pilot(game: AuditedNight) -> None:
    """Rounds of looking, until looking at more would not pay; then some of what the plan would serve."""
    night, rounds = game.night, 0
    while True:
        options = game.options()
        extra = len(options.observations) - len(game.observations)
        cost = expected_costs(night)
        full = np.hstack([cost, options.cost_usd[:, cost.shape[1] :]])
        situation = Situation(
            night.population,
            full,
            None,
            options.priors,
            night.aim,
            options.observations,
            int(PILOT * len(night.population)),
            int((1.0 - AUDIT) * night.labels) - len(night.seen) + len(game.observations) + extra,
            rounds,
            endpoints=night.width,
        )
        looks = next_round(situation, night.rng)
        if looks is None:
            break
        looks = votes.by_endpoint(looks, options.votes, night.width)
        game.look(looks.row, looks.endpoint, np.zeros(len(looks), bool))
        night.first = night.first or len(night.seen)
        rounds += 1
    for _ in range(TRYOUTS):
        if not _try_out(game):
            break


def _try_out(game: AuditedNight) -> bool:
    """Look at some answers that the plan would serve if it needed no margin. Whether there were any."""
    night, options = game.night, game.options()
    choice = plan(game, options, EVEN).choice
    fresh = night.rng.permutation(np.flatnonzero(~_looked(game, options, choice)))
    left = int((1.0 - AUDIT) * night.labels) - len(night.seen)
    count = min(left // 2, max(TRYOUT_FEWEST, int(TRYOUT_SHARE * len(fresh))), len(fresh))
    if count < TRYOUT_FEWEST:
        return False
    rows = fresh[:count]
    served = buy(game, options, rows, choice[rows])
    game.look(rows, served, choice[rows] >= night.width)
    return True


def _looked(game: AuditedNight, options: Options, choice: NDArray[np.int32]) -> NDArray[np.bool_]:
    """[n] whether the score of what `choice` serves is known."""
    seen, width, line = game.seen(), game.night.width, np.arange(len(choice))
    known = ~np.isnan(seen.score[line, np.minimum(choice, width - 1)]) & (choice < width)
    for place, vote in enumerate(options.votes):
        rows, _ = votes.scores(seen, vote)
        known[rows[choice[rows] == width + place]] = True
    return known


def plan(game: AuditedNight, options: Options, confidence: float | None = None) -> AssignmentPath:
    """The cheapest assignment of requests to options that is sure enough."""
    night, width = game.night, game.night.width
    predictor, population = learnt(options.observations, night.population, options.priors)
    quality = crossed(predictor, options.observations, population, options.priors, night.rng)
    quality[:, width:] -= np.array(options.doubt, np.float32)
    known = options.cost_usd[np.isfinite(options.cost_usd)]
    dearest = float(known.max()) if len(known) else 1.0
    cost = np.nan_to_num(options.cost_usd, nan=dearest)  # unknown: too few labels for a look
    aim = night.aim if confidence is None else replace(night.aim, confidence=confidence)
    if not night.settings.per_task:
        return look_out(predictor, population, quality, cost, aim)
    everyone, choice = np.arange(len(population)), np.full(len(population), -1, np.int32)
    for task in np.unique(population.task):
        mine = population.task == task
        part = population.part(everyone, mine.astype(np.float64))
        path = look_out(
            predictor, part, quality, cost, aim, allowed=np.repeat(mine[:, None], cost.shape[1], 1)
        )
        choice[mine] = path.choice[mine]
    return replace(look_out(predictor, population, quality, cost, aim), choice=choice)


def buy(
    game: AuditedNight, options: Options, rows: NDArray[np.int64], choice: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Have these served: whose answer each is. The agreement actually seen decides a vote."""
    night, served = game.night, choice.copy()
    single = choice < night.width
    night.buy(rows[single], choice[single])
    for place, vote in enumerate(options.votes):
        mine = choice == night.width + place
        of = rows[mine]
        for endpoint in (vote.first, vote.second):
            night.buy(of, np.full(len(of), endpoint, np.int32))
        who = votes.served_by(game.seen(), vote, of)
        night.buy(of, who)
        new = (game.voted[of] != (vote.first, vote.second, vote.third)).any(axis=1)
        game.voted[of], game.shown[of[new]] = (vote.first, vote.second, vote.third), np.nan
        served[mine] = who
    return served


def serve_and_audit(
    game: AuditedNight, options: Options, choice: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Buy what is served; score as much of it, at random, as the labels allow. Who serves each, and the rows scored."""
    night, line = game.night, np.arange(len(choice), dtype=np.int64)
    served = buy(game, options, line, choice)
    unknown = line[np.isnan(known_scores(night.seen, night.paid.shape)[line, served])]
    rows = night.rng.permutation(unknown)[: max(0, night.labels - len(night.seen))]
    game.look(rows, served[rows], choice[rows] >= night.width)
    return served, rows
