"""Predicted quality q[request, endpoint]: who is good at what, learnt from few scores and honest about it.

An item-response model made linear. The score of endpoint e on request i of task t is

    ability[e] + skill[t, e] + text[i] . slope[e] + luck[i, e]

Skills of a task, slopes of a text column and luck of a request are vectors over the endpoints, each drawn around 0 with a
covariance of its own that is learnt too (expectation and maximisation). So a task that is hard for one endpoint is
expected to be hard for its like; the answers of a cheap endpoint tell about a dear one's on the same requests; what the
scores do not support shrinks to the fixed means, and then the plan is the best mix of fixed endpoints.

All of it is Gaussian, so what is not known has a covariance: `Predictor.means` gives the mean score of the whole
population under any assignment with its error, which is what a plan's margin pays for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.prediction.mixed_model import (
    Covariances,
    Posterior,
    ScoredObservations,
    asked_after_failing,
    condition,
    gain_of,
    improve,
    looked_at,
    possible_luck,
)
from thirdshift.router.prediction.observations import Observations, PastScores, Population
from thirdshift.router.prediction.population_mean import questions

Floats = NDArray[np.float64]

ROUNDS = 12
"""Rounds of expectation and maximisation; the plan no longer changes after eight or so."""
MORE_ROUNDS = 3
"""Rounds where covariances of fewer observations are the start."""
RESIDUAL_INFLATION = 1.15
"""By what luck is taken to be larger than learnt: scores are less regular than a Gaussian, and the endpoint that looks
best is chosen. On recorded outcomes predicted quality is then neither too high nor too low (benchmarks/routing.py)."""
FEW = 100
"""Requests with a score below which the text is not asked."""
CLEAR = 3.0
"""Log evidence by which the text must be the better: 20 to 1."""
FOLDS = 5
CHUNK = 100_000
"""Requests at a time of which scores are predicted: what is kept is half as wide as what is reckoned with."""
UNKNOWN = 0.5
"""What to believe of an endpoint that nobody knows anything of."""


@dataclass(frozen=True, slots=True)
class Predictor:
    posterior: Posterior
    looked: ScoredObservations
    covariances: Covariances
    """As learnt."""
    tempered: Covariances
    """As used: luck by TEMPER larger."""
    past: PastScores | None = None

    @property
    def counts(self) -> NDArray[np.int64]:
        """[endpoints] scores seen of each, earlier nights' included."""
        found = np.zeros(len(self.covariances.ability), np.int64)
        for pattern in self.looked.patterns:
            found[pattern.endpoints] += len(pattern.rows)
        return found if self.past is None else found + np.bincount(self.past.endpoint, minlength=len(found))

    def predict(self, population: Population, rows: Any = slice(None)) -> NDArray[np.float32]:
        """q, shape (requests, endpoints), 0 to 1, without what is known of each request's own scores."""
        task, text = population.task[rows], population.text[rows]
        quality = np.empty((len(task), len(self.covariances.ability)), np.float32)
        for begin in range(0, len(task), CHUNK):
            some = slice(begin, begin + CHUNK)
            quality[some] = np.clip(self.posterior.expected(task[some], text[some]), 0.0, 1.0)
        return quality

    def beside(self, population: Population) -> tuple[Floats, Floats]:
        """What to expect of each request beside what was seen of the same request, shape (n, endpoints); and the share
        of luck that this leaves open, 1 where the request was not looked at. For costs: a score must not tell of itself.
        """
        expected = self.posterior.expected(population.task, population.text)
        left = np.ones_like(expected)
        for pattern in self.looked.patterns:
            gain = gain_of(self.covariances.residual, pattern.endpoints)
            rows = self.looked.row[pattern.rows]
            seen = np.ix_(rows, pattern.endpoints)
            off = self.looked.score[np.ix_(pattern.rows, pattern.endpoints)] - expected[seen]
            gained = np.einsum("eo,oe->e", gain, self.covariances.residual[pattern.endpoints])
            expected[rows] += off @ gain.T
            left[rows] = 1.0 - gained / np.diag(self.covariances.residual)
        return expected, left

    def draw(
        self, population: Population, rows: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """One of the worlds that what was seen leaves possible: expected scores in it, shape (rows, endpoints)."""
        world = self.posterior.drawn(rng)
        return world.expected(population.task[rows], population.text[rows])

    def means(
        self, population: Population, choice: NDArray[np.integer], baselines: tuple[int, ...] = ()
    ) -> tuple[Floats, Floats]:
        """The mean score of the population under `choice`, then of each anchor on all of it; and their covariance.

        Scores already seen count as they are, and tell about the same request's others. `choice` negative: nobody.
        """
        return questions(self.posterior, population, choice, baselines, self.looked, self.tempered)


def fit(
    observations: Observations,
    population: Population,
    priors: Floats,
    *,
    start: Covariances | None = None,
    rounds: int = ROUNDS,
    past: PastScores | None = None,
) -> Predictor:
    """`priors`: shape (endpoints,), NaN where nothing is known. `start`: covariances of an earlier fit, to go on from."""
    means = np.where(np.isnan(priors), UNKNOWN, priors)
    known = ~np.isnan(priors)
    covariances = start or Covariances.first(len(priors), population.text.shape[1], population.tasks, known)
    looked = looked_at(observations, population, len(priors))
    every = _with_past(looked, population, len(priors), past)
    for _ in range(rounds if len(every.row) else 0):
        covariances = improve(every, condition(every, covariances, means), covariances)
    if pairs := asked_after_failing(every):
        luck = possible_luck(every, condition(every, covariances, means), covariances.residual, pairs)
        covariances = replace(covariances, residual=luck)
    tempered = replace(covariances, residual=covariances.residual * RESIDUAL_INFLATION)
    return Predictor(condition(every, tempered, means), looked, covariances, tempered, past)


def _with_past(
    looked: ScoredObservations, population: Population, endpoints: int, past: PastScores | None
) -> ScoredObservations:
    if past is None or not len(past.score):
        return looked
    own = np.arange(len(past.score)) if past.request is None else past.request
    _, first, rows = np.unique(own, return_index=True, return_inverse=True)
    text = np.zeros((len(first), population.text.shape[1]), np.float32)  # of the average request
    before = Population(past.task[first], text, population.tasks)
    return looked.plus(looked_at(Observations(rows, past.endpoint, past.score), before, endpoints))


def without(
    predictor: Predictor, observations: Observations, population: Population, priors: Floats
) -> Predictor:
    """The same beliefs on how scores vary, with other observations: for folds that must not know some scores."""
    means = np.where(np.isnan(priors), UNKNOWN, priors)
    looked = looked_at(observations, population, len(priors))
    every = _with_past(looked, population, len(priors), predictor.past)
    return replace(predictor, looked=looked, posterior=condition(every, predictor.tempered, means))


def telling(observations: Observations, population: Population, priors: Floats) -> Population:
    """The population with its text, if the scores are likelier with it than without; else without."""
    return learnt(observations, population, priors)[1]


def learnt(
    observations: Observations,
    population: Population,
    priors: Floats,
    *,
    past: PastScores | None = None,
    before: Predictor | None = None,
) -> tuple[Predictor, Population]:
    """The prediction, and the population it is for: with its text or, where that tells nothing, without. `before`: a
    prediction from fewer observations of the same endpoints, to go on from; whether text tells is not asked again."""
    plain = population.plain()
    if before is not None and len(before.covariances.ability) == len(priors):
        same = plain if before.looked.common.shape[1] == 1 else population
        return fit(observations, same, priors, start=before.covariances, rounds=MORE_ROUNDS, past=past), same
    without_text = fit(observations, plain, priors, past=past)
    if not population.text.shape[1] or len(np.unique(observations.row)) < FEW:
        return without_text, plain
    with_text = fit(observations, population, priors, past=past)
    tells = with_text.posterior.evidence - without_text.posterior.evidence > CLEAR
    return (with_text, population) if tells else (without_text, plain)


def crossed(
    predictor: Predictor,
    observations: Observations,
    population: Population,
    priors: Floats,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Quality of all requests; for those with scores, from a fit that does not know them."""
    quality = predictor.predict(population)
    rows = np.unique(observations.row)
    fold = rng.permutation(len(population)) % FOLDS
    for k in range(FOLDS if len(rows) else 0):
        others = without(predictor, observations.where(fold[observations.row] != k), population, priors)
        held = rows[fold[rows] == k]
        quality[held] = others.predict(population, held)
    return quality


def apart(
    predictor: Predictor,
    observations: Observations,
    population: Population,
    priors: Floats,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Quality of all requests by one rule: each from a fit that knows no score of its own fold, whether it has a score or
    not. So requests with scores are served as those without are, and a random sample of them stands for all."""
    quality = np.empty((len(population), len(priors)), np.float32)
    fold = rng.permutation(len(population)) % FOLDS
    for k in range(FOLDS):
        others = without(predictor, observations.where(fold[observations.row] != k), population, priors)
        rows = np.flatnonzero(fold == k)
        quality[rows] = others.predict(population, rows)
    return quality
