"""One night in play on recorded outcomes: what was looked at, what was paid, what can be shown of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.backtesting.recorded_outcomes import Outcomes
from thirdshift.router.certification.bounds import betting
from thirdshift.router.certification.certificate import Certificate, Claim, ScoredSample, certify
from thirdshift.router.certification.scorers import Basis
from thirdshift.router.learning.quality_target import QualityTarget
from thirdshift.router.prediction.observations import Observations, Population, no_observations
from thirdshift.router.prediction.predict import fit

Floats = NDArray[np.float64]

LABELS_PER_ENDPOINT = 600
"""How many scores may be looked at, times the number of endpoints, if nothing else is said: the contract's."""
COST_FAITH = 4.0
"""Answers that a task's guessed mean cost is worth."""


@dataclass(frozen=True, slots=True)
class BacktestSettings:
    floor: float
    relative: bool = False
    labels: int | None = None
    """Scores that may be looked at; None: LABELS_PER_ENDPOINT for each endpoint."""
    confidence: float = 0.95
    free: bool = False
    """Every answer served is scored at once and at no cost."""
    per_task: bool = False
    """The floor holds for every task on its own."""


@dataclass(slots=True)
class PlayedNight:
    """One night in play: what was looked at, what was paid. `outcomes` is only read in `_look`."""

    outcomes: Outcomes
    population: Population
    settings: BacktestSettings
    rng: np.random.Generator
    seen: Observations
    paid: NDArray[np.bool_]
    spent: Observations
    """Costs of the answers paid for, in the place of scores."""
    costs: Floats | None = None
    """What answers are expected to cost, by those paid for until now; None: to be reckoned again."""
    first: int = 0
    """How many of `seen` are of the first round, on rows drawn before anything was scored."""

    @property
    def width(self) -> int:
        return len(self.outcomes.models)

    @property
    def labels(self) -> int:
        allowed = self.settings.labels
        return LABELS_PER_ENDPOINT * self.width if allowed is None else allowed

    @property
    def aim(self) -> QualityTarget:
        baselines = tuple(range(self.width)) if self.settings.relative else ()
        return QualityTarget(self.settings.floor, baselines, self.settings.confidence)

    @property
    def priors(self) -> Floats:
        return np.full(self.width, np.nan)

    def buy(self, row: NDArray[np.int64], endpoint: NDArray[np.int32]) -> None:
        """Answers are paid for once, and then their cost is known."""
        new = ~self.paid[row, endpoint]
        row, endpoint = row[new], endpoint[new]
        self.paid[row, endpoint] = True
        self.costs = None if len(row) else self.costs
        self.spent = self.spent.plus(Observations(row, endpoint, self.outcomes.cost_usd[row, endpoint]))

    def look(self, row: NDArray[np.int64], endpoint: NDArray[np.int32]) -> None:
        self.buy(row, endpoint)
        self.seen = self.seen.plus(Observations(row, endpoint, self.outcomes.score[row, endpoint]))


def start(
    outcomes: Outcomes, population: Population, settings: BacktestSettings, rng: np.random.Generator
) -> PlayedNight:
    paid = np.zeros(outcomes.score.shape, dtype=bool)
    return PlayedNight(outcomes, population, settings, rng, no_observations(), paid, no_observations())


def expected_costs(night: PlayedNight) -> Floats:
    """Return what each answer is expected to cost, reckoned anew only where more were paid for since."""
    if night.costs is None:
        night.costs = _expected_costs(night)
    return night.costs


def _expected_costs(night: PlayedNight) -> Floats:
    """What each answer is expected to cost, from those paid for: NaN where none was bought of an endpoint.

    Costs vary by factors (long answers are long everywhere), so their logarithms are what is shared between tasks and
    endpoints, and what one answer cost tells about others to the same request; a factor per endpoint then makes the sum
    of what was paid come out right.
    """
    bought, shape = night.spent, night.paid.shape
    if not len(bought):
        return np.full(shape, np.nan)
    logs = Observations(bought.row, bought.endpoint, np.log(np.maximum(bought.score, 1e-9)))
    counts = np.maximum(np.bincount(logs.endpoint, minlength=night.width), 1)
    centre = np.bincount(logs.endpoint, logs.score, night.width) / counts
    spread = max(float(np.std(logs.score - centre[logs.endpoint])), 1e-6)
    unit = Observations(logs.row, logs.endpoint, (logs.score - centre[logs.endpoint]) / spread)
    fitted = fit(unit, night.population, np.zeros(night.width), rounds=8)
    plain = np.exp(centre + spread * fitted.posterior.expected(night.population.task, night.population.text))
    paid = np.bincount(bought.endpoint, bought.score, night.width)
    guessed = np.bincount(bought.endpoint, plain[bought.row, bought.endpoint], night.width)
    factor = np.where(guessed > 0, paid / np.where(guessed > 0, guessed, 1.0), np.nan)
    expected, left = fitted.beside(night.population)
    return _by_task(night, np.exp(centre + spread * expected) * factor**left)


def _by_task(night: PlayedNight, guess: Floats) -> Floats:
    """The guess drawn towards what each task's answers cost on the mean: few are very long, and tasks differ in that."""
    bought, shape = night.spent, (night.population.tasks, night.width)
    paid, guessed, count = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    at = (night.population.task[bought.row], bought.endpoint)
    np.add.at(paid, at, bought.score)
    np.add.at(count, at, 1.0)
    np.add.at(guessed, (night.population.task,), np.nan_to_num(guess))
    mean = guessed / np.maximum(np.bincount(night.population.task, minlength=shape[0]), 1)[:, None]
    ratio = (paid + COST_FAITH * mean) / np.maximum((count + COST_FAITH) * mean, 1e-300)
    drawn: Floats = guess * ratio[night.population.task]
    return drawn


@dataclass(frozen=True, slots=True)
class Played:
    choice: NDArray[np.int32]
    looked: NDArray[np.bool_]
    """Shape (n,): requests looked at before the plan."""
    paid: NDArray[np.bool_]
    """Shape (n, endpoints)."""
    scores_used: int
    certificate: Certificate
    repairs: int


def certified(
    night: PlayedNight, choice: NDArray[np.int32], audit: NDArray[np.int64], audit_round: int
) -> Certificate:
    """What can be shown of the served answers: `audit` are the rows scored at random after the last plan, in order.

    Scores known before that plan count as what they are. A relative floor is shown against every endpoint, because it is
    not told which is the best, and by the looks alone that were drawn before anything was scored: what the pilot chose
    later may not bear on it. So it is seldom shown; a night that names its anchor buys pairs for it.
    """
    settings = night.settings
    score = np.full(night.paid.shape, np.nan)
    score[night.seen.row, night.seen.endpoint] = night.seen.score
    served = score[np.arange(len(choice)), choice]
    drawn = np.zeros(len(choice), dtype=bool)
    drawn[audit] = True
    sample = ScoredSample(len(choice), served[np.isfinite(served) & ~drawn], served[audit])
    if not settings.relative:
        claim = Claim(settings.floor, settings.confidence, Basis.REFERENCE, "score")
        return certify(claim, sample, audit_round=audit_round)
    doubt = (1.0 - settings.confidence) / 2.0  # half for what was served, half for the endpoints together
    own = certify(
        Claim(settings.floor, 1.0 - doubt, Basis.REFERENCE, "score"), sample, audit_round=audit_round
    )
    ceiling = max(_ceiling(night, endpoint, 1.0 - doubt / night.width) for endpoint in range(night.width))
    lower, mean = (value / max(ceiling, 1e-12) for value in (own.lower_bound, own.mean))
    return replace(own, confidence=settings.confidence, mean=mean, lower_bound=lower)


def _ceiling(night: PlayedNight, endpoint: int, confidence: float) -> float:
    """The upper bound on an endpoint's mean, by its looks of the first round."""
    early = night.seen.score[: night.first][night.seen.endpoint[: night.first] == endpoint]
    return 1.0 - betting(1.0 - early, confidence, len(night.outcomes))
