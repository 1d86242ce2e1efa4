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
from thirdshift.router.learning.baseline_looks import rivals_looks
from thirdshift.router.learning.cascades import known_scores
from thirdshift.router.learning.pilot import next_round
from thirdshift.router.learning.quality_target import QualityTarget
from thirdshift.router.learning.repair import below
from thirdshift.router.learning.situation import Looks, Situation
from thirdshift.router.learning.value_of_information import AssignmentPath, look_out, rivals, usual_costs
from thirdshift.router.learning.votes import Seen, Vote
from thirdshift.router.prediction.observations import Observations, Population
from thirdshift.router.prediction.predict import Predictor, crossed, learnt

Floats = NDArray[np.float64]

PILOT = 0.5
"""At most this share of the requests is looked at before the plan."""
AUDIT = 0.10
"""At least this share of the scores is kept for the audit."""
REPAIRS = 8
"""Rounds of repair at most."""
TRYOUT_SHARE, TRYOUT_FEWEST = 0.5, 20
"""Answers are looked at which the plan would serve if it needed no margin: they are paid for anyway, and what they tell
narrows the margin, to nothing where there are scores enough for all. So many of the rest at a time: too many were bought
for a belief that the first of them would have put right; and the last ones together."""
GROWTH = 2.0
"""An endpoint is given at most so many times the requests that it was looked at on."""
RIVALS, ALIKE = 4, 1.5
"""One of so many goes to rivals that were looked at less and cost about the same, by at most this factor."""
AGAIN = 1.5
"""Belief is reckoned from its beginning when there are so many times the scores."""
DOUBTS = 12
"""Rounds of looking at what may be the best endpoint, at most."""
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
    picked: NDArray[np.int32]
    """[n] the endpoint that the plan picked before it knew the request's scores; -1: none yet, or a vote."""
    belief: Predictor | None = None
    """What was believed last, with the votes of then."""
    voting: tuple[Vote, ...] = ()
    believed: int = 0
    """How many scores there were when belief was last reckoned from its beginning."""
    folds: int = 0
    """The seed of the folds by which requests are planned without their own scores."""

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
        np.full(n, -1, np.int32),
        folds=int(rng.integers(2**32)),
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
    """Rounds of looking, until looking at more would not pay; then some of what the plan would serve; and where that is
    not sure enough, what may be the best endpoint."""
    night, rounds = game.night, 0
    while (looks := next_round(situation(game, rounds), night.rng)) is not None:
        _look(game, looks)
        night.first = night.first or len(night.seen)
        rounds += 1
    while _try_out(game):
        pass
    for _ in range(DOUBTS):
        options = game.options()
        path = plan(game, options)
        known = replace(situation(game, rounds, options), pilot=len(night.population))
        if path.sure or len(known.observations) >= known.looks:
            break
        looks = rivals_looks(known, path, night.rng)
        if not len(looks):
            break
        _look(game, looks)
    while _try_out(game):
        pass


def situation(game: AuditedNight, rounds: int, options: Options | None = None) -> Situation:
    night, options = game.night, options or game.options()
    extra = len(options.observations) - len(game.observations)
    cost = expected_costs(night)
    return Situation(
        night.population,
        np.hstack([cost, options.cost_usd[:, cost.shape[1] :]]),
        None,
        options.priors,
        night.aim,
        options.observations,
        int(PILOT * len(night.population)),
        int((1.0 - AUDIT) * night.labels) - len(night.seen) + len(game.observations) + extra,
        rounds,
        endpoints=night.width,
    )


def _look(game: AuditedNight, looks: Looks) -> None:
    found = votes.by_endpoint(looks, game.options().votes, game.night.width)
    left = max(0, game.night.labels - len(game.night.seen))
    game.look(found.row[:left], found.endpoint[:left], np.zeros(min(left, len(found)), bool))


def _try_out(game: AuditedNight) -> bool:
    """Look at some answers that the plan would serve if it needed no margin. Whether there were any
    that had not been looked at before: two votes that are the better in turn would else be tried for ever."""
    night, options, known_before = game.night, game.options(), len(game.night.seen)
    path = plan(game, options, EVEN)
    choice = path.choice.copy()
    known = _looked(game, options, choice)
    _pick(game, np.flatnonzero(known), choice)
    fresh = night.rng.permutation(np.flatnonzero(~known))
    spare = night.labels - len(night.seen)
    left = len(fresh) if spare >= len(fresh) else (int((1.0 - AUDIT) * night.labels) - len(night.seen)) // 2
    share = 1.0 if len(fresh) <= TRYOUT_FEWEST else TRYOUT_SHARE
    count = min(left, max(TRYOUT_FEWEST, int(share * len(fresh))), len(fresh))
    if count < min(TRYOUT_FEWEST, max(1, len(fresh))):
        return False
    rows = fresh[:count]
    rows = rows[_believed(night, choice[rows])]
    choice[rows] = _shared(game, path, choice[rows])
    served = buy(game, options, rows, choice[rows])
    game.look(rows, served, choice[rows] >= night.width)
    _pick(game, rows, choice)
    return len(night.seen) > known_before


def _believed(night: PlayedNight, choice: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which of these are tried: no endpoint is given many requests for the sake of a handful of scores."""
    seen = np.bincount(night.seen.endpoint, minlength=night.width)
    most = np.maximum(TRYOUT_FEWEST // 2, GROWTH * seen)
    tried = np.ones(len(choice), bool)
    for endpoint in range(night.width):
        mine = np.flatnonzero(choice == endpoint)
        tried[mine[int(most[endpoint]) :]] = False
    return tried


def _shared(game: AuditedNight, path: AssignmentPath, choice: NDArray[np.int32]) -> NDArray[np.int32]:
    """Some of what an endpoint is tried on goes to rivals at its price that were looked at less: that costs nothing."""
    night, shared = game.night, choice.copy()
    usual = usual_costs(expected_costs(night))
    seen = np.bincount(night.seen.endpoint, minlength=night.width)
    likeliest, others = rivals(path.predictor, path.population, path.choice, usual)
    for endpoint in range(night.width):
        mine = np.flatnonzero(choice == endpoint)
        alike = [
            rival
            for rival in (likeliest, *others)
            if rival != endpoint
            and seen[rival] < seen[endpoint] + len(mine)
            and usual[endpoint] / ALIKE <= usual[rival] <= ALIKE * usual[endpoint]
        ]
        for place, rival in enumerate(alike):
            shared[mine[place :: RIVALS * len(alike)]] = rival
    return shared


def _pick(game: AuditedNight, rows: NDArray[np.int64], choice: NDArray[np.int32]) -> None:
    single = choice[rows] < game.night.width
    game.picked[rows] = np.where(single, choice[rows], game.picked[rows])


def _open(game: AuditedNight, options: Options) -> NDArray[np.bool_]:
    """[n, options] a request for which an endpoint was picked goes to no other than a dearer one.

    Of two answers that are held, what is believed without a request's own score is lower where that score is high: picking
    again and again among them picks the worse."""
    night = game.night
    usual = usual_costs(expected_costs(night))
    allowed = np.ones(options.cost_usd.shape, bool)
    rows = np.flatnonzero(game.picked >= 0)
    at = game.picked[rows]
    allowed[rows, : night.width] = usual[None, :] > usual[at][:, None]
    allowed[rows, at] = True
    return allowed


def _looked(game: AuditedNight, options: Options, choice: NDArray[np.int32]) -> NDArray[np.bool_]:
    """[n] whether the score of what `choice` serves is known."""
    seen, width, line = game.seen(), game.night.width, np.arange(len(choice))
    known = ~np.isnan(seen.score[line, np.minimum(choice, width - 1)]) & (choice < width)
    for place, vote in enumerate(options.votes):
        rows, _ = votes.scores(seen, vote)
        known[rows[choice[rows] == width + place]] = True
    return known


def plan(game: AuditedNight, options: Options, confidence: float | None = None) -> AssignmentPath:
    """The cheapest assignment of requests to options that is sure enough. Belief goes on from the last one, until there
    are half as many scores again."""
    night, width, count = game.night, game.night.width, len(options.observations)
    again = game.voting != options.votes or count > AGAIN * game.believed
    before = None if again else game.belief
    predictor, population = learnt(options.observations, night.population, options.priors, before=before)
    folds = np.random.default_rng(game.folds)  # the same ones throughout
    quality = crossed(predictor, options.observations, population, options.priors, folds)
    quality[:, width:] -= np.array(options.doubt, np.float32)
    game.belief, game.voting = predictor, options.votes
    game.believed = count if again else game.believed
    aim = night.aim if confidence is None else replace(night.aim, confidence=confidence)
    return _path(game, options, predictor, population, quality, aim)


def _path(
    game: AuditedNight,
    options: Options,
    predictor: Predictor,
    population: Population,
    quality: NDArray[np.float32],
    aim: QualityTarget,
) -> AssignmentPath:
    night, width = game.night, game.night.width
    known = options.cost_usd[np.isfinite(options.cost_usd)]
    dearest = float(known.max()) if len(known) else 1.0
    cost = np.nan_to_num(options.cost_usd, nan=dearest)  # unknown: too few labels for a look

    allowed = _open(game, options)

    def path(mine: NDArray[np.bool_]) -> AssignmentPath:
        bought = night.spent.where(mine[night.spent.row])
        paid = np.zeros(width)
        np.add.at(paid, bought.endpoint, bought.score)
        part = population.part(np.arange(len(population)), mine.astype(np.float64))
        return look_out(
            predictor, population if mine.all() else part, quality, cost, aim,
            allowed=allowed & mine[:, None], endpoints=width, paid_usd=paid,
        )  # fmt: skip

    whole = path(np.ones(len(population), bool))
    if not night.settings.per_task:
        return whole
    choice = whole.choice.copy()
    for task in np.unique(population.task):
        mine = population.task == task
        choice[mine] = path(mine).choice[mine]
    return replace(whole, choice=choice)


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
