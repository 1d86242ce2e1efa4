"""What is claimed of a run's quality: a lower confidence bound on the mean score, and what it rests on.

What is known counts exactly, what is not is bounded by a random audit of it: rows whose served answer was scored for
another reason (the pilot) are a part of the population with a mean that needs no bound, and the audit is drawn from the
rest, after the plan is fixed. So nothing the pilot chose can leak into the bound, and where everything is scored the
bound is the mean (a census).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np

from thirdshift.router.certification.bounds import STEPS, Floats, betting, exact, powered
from thirdshift.router.certification.scorers import Basis

FIRST_ROUND = 0.75
"""The share of the doubt (1 - confidence) that the first audit spends, and each later one of what is left: most nights
need one, and it then costs a bound 8 % wider than if there never were a second."""
ROUNDING = 1e-12
"""What sums of a million scores may be off by, as a share."""
POWER = 0.8
"""`labels_needed` is enough in four nights of five, if the mean is as predicted."""


class Method(StrEnum):
    CENSUS = "census"
    EXACT = "exact"
    """Hypergeometric, for scores that are 0 or 1."""
    BETTING = "betting"
    PAIRED = "paired"
    """Betting on served minus share x anchor, row by row."""
    POWERED = "prediction-powered"
    """People's scores correct a judge's, or the anchor's scores a census of the served ones."""
    IDENTITY = "identity"
    """All was served by the endpoint that the floor is a share of: the share is 1, whatever its answers are worth."""
    NONE = "none"
    """Nothing was scored."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """For a relative floor `floor`, `mean` and `lower_bound` are shares of the anchor's mean."""

    task: str | None
    floor: float
    confidence: float
    basis: Basis
    scorer: str
    """As people read it: `exact`, or "judge opus, rubric 3f2a"."""
    population: int
    """Requests that the claim is about."""
    scored: int
    mean: float
    lower_bound: float
    method: Method
    requests: int | None = None
    """Accepted requests of the batch or the task; None: as many as `population`."""
    of_part: bool = False
    """Whether the floor is asked of no more than what can be scored."""

    @property
    def shown(self) -> bool:
        """Whether the bound clears the floor, of the population that it is about."""
        return self.lower_bound >= self.floor

    @property
    def whole(self) -> bool:
        """Whether the claim is about all that the floor is asked of."""
        return self.of_part or self.requests is None or self.population >= self.requests

    @property
    def certified(self) -> bool:
        return self.shown and self.whole

    @property
    def missed(self) -> bool:
        """Whether the estimate is below the floor, whatever the requests are worth that the claim is not about."""
        if not self.scored:
            return False
        if self.whole or self.requests is None:
            return self.mean < self.floor
        most = (self.mean * self.population + self.requests - self.population) / max(self.requests, 1)
        return most < self.floor

    def sentence(self) -> str:
        """`judge opus, rubric 3f2a: ≥ 0.91 (95 %, 300 of 6,010 scored)`."""
        how = "all" if self.method is Method.CENSUS else f"{self.confidence:.0%}"
        return (
            f"{self.scorer}: ≥ {math.floor(self.lower_bound * 1000) / 1000:.3f} "
            f"({how}, {self.scored:,} of {self.population:,} scored)"
        )


def population_sentence(population: int, requests: int | None) -> str:
    """What of a batch a claim is about, where that is not all: `128 of 900 requests can be scored; nothing is claimed of
    the other 772`. Empty where it is all."""
    if requests is None or population >= requests:
        return ""
    return (
        f"{population:,} of {requests:,} requests can be scored; nothing is claimed of the other "
        f"{requests - population:,}"
    )


@dataclass(frozen=True, slots=True)
class ScoredSample:
    """What was scored of a population of served answers."""

    population: int
    known: Floats
    """Scores of rows that were scored for another reason than the audit; each counts as it is."""
    audit: Floats
    """Scores of rows drawn at random from all others, in the order drawn."""
    binary: bool = False
    """Whether the scorer gives only 0 and 1 (told by the scorer, not by these scores)."""

    @property
    def scored(self) -> int:
        return len(self.known) + len(self.audit)

    @property
    def rest(self) -> int:
        """The population of the audit."""
        return self.population - len(self.known)


@dataclass(frozen=True, slots=True)
class Claim:
    """What is to be shown, of which requests, by whose opinion."""

    floor: float
    confidence: float
    basis: Basis
    scorer: str
    task: str | None = None


def round_confidence(confidence: float, audit_round: int) -> float:
    """The confidence that the audit of this round (1, 2, …) is held to, so that all rounds together keep `confidence`."""
    return 1.0 - (1.0 - confidence) * FIRST_ROUND * (1.0 - FIRST_ROUND) ** (audit_round - 1)


def certify(claim: Claim, sample: ScoredSample, *, audit_round: int = 1) -> Certificate:
    """The certificate of an absolute floor. The audit may have been extended within a round only if scores are not 0/1
    (the betting bound holds at every size; the exact one at a size fixed before)."""
    total = float(sample.known.sum())
    mean = _mean(total, sample)
    if not sample.scored:
        return issued(claim, sample.population, 0, mean, 0.0, Method.NONE)
    if sample.scored >= sample.population:
        return issued(claim, sample.population, sample.scored, mean, mean, Method.CENSUS)
    confidence = round_confidence(claim.confidence, audit_round)
    bound = _bound(sample.audit, confidence, sample.rest, sample.binary)
    lower = (total + sample.rest * bound) / sample.population
    method = Method.EXACT if sample.binary else Method.BETTING
    return issued(claim, sample.population, sample.scored, mean, lower, method)


def _mean(total: float, sample: ScoredSample) -> float:
    """The estimate; where nothing was audited, the known part's mean stands for the rest."""
    if len(sample.audit):
        return (total + sample.rest * float(sample.audit.mean())) / sample.population
    return total / len(sample.known) if len(sample.known) else 0.0


def _bound(scores: Floats, confidence: float, population: int, binary: bool) -> float:
    if binary and np.isin(scores, (0.0, 1.0)).all():
        return exact(round(float(scores.sum())), len(scores), confidence, population)
    return betting(scores, confidence, population)


def issued(
    claim: Claim, population: int, scored: int, mean: float, lower: float, method: Method
) -> Certificate:
    """A certificate whose bound is no higher than the mean, and at the floor where it misses that by rounding alone."""
    lower = min(lower, mean)
    if math.isclose(lower, claim.floor, rel_tol=ROUNDING):
        lower, mean = claim.floor, max(mean, claim.floor)
    return Certificate(
        claim.task,
        claim.floor,
        claim.confidence,
        claim.basis,
        claim.scorer,
        population,
        scored,
        mean,
        lower,
        method,
    )


def certify_relative(
    claim: Claim, served: Floats, baseline: Floats, population: int, *, audit_round: int = 1
) -> Certificate:
    """A relative floor on paired differences: the largest share r for which mean(served - r x anchor) >= 0 is shown.

    `served`, `anchor`: the scores of both on the same rows, drawn at random from the population, in order.
    """
    if not len(served):
        return issued(claim, population, 0, 0.0, 0.0, Method.NONE)
    ratio = float(served.mean()) / max(float(baseline.mean()), 1e-12)
    if len(served) >= population:
        return issued(claim, population, population, ratio, ratio, Method.CENSUS)
    confidence = round_confidence(claim.confidence, audit_round)
    bottom, top = 0.0, ratio
    for _ in range(STEPS // 2):  # shares to one in a million
        share = (bottom + top) / 2
        shown = betting(served - share * baseline, confidence, population, low=-share, high=1.0) >= 0.0
        bottom, top = (share, top) if shown else (bottom, share)
    return issued(claim, population, len(served), ratio, bottom, Method.PAIRED)


def certify_identity(claim: Claim, population: int) -> Certificate:
    """A relative floor where the anchor itself has served everything: nothing need be scored."""
    return issued(claim, population, 0, 1.0, 1.0, Method.IDENTITY)


def certify_people(
    claim: Claim,
    people: Floats,
    judged: Floats,
    judge_scores: Floats,
    population: int,
) -> Certificate:
    """People's scores correct a judge's: a bound on the mean that people would give.

    `people`, `judged`: both scores of the answers that people scored, drawn at random among the judged, in order.
    `judge_scores`: the judge's scores of all answers, or of a random part; then half the doubt goes to its mean.
    """
    given = float(people.sum())
    if len(people) >= population:
        return issued(claim, population, population, given / population, given / population, Method.CENSUS)
    doubt = 1.0 - claim.confidence
    judge_mean, confidence = float(judge_scores.mean()), claim.confidence
    if len(judge_scores) < population:
        confidence = 1.0 - doubt / 2.0
        judge_mean = betting(judge_scores, confidence, population)
    # what people gave is certain, and the rest is worth 0 to 1 each: a correction may lead beyond
    least, most = given / population, (given + population - len(people)) / population
    lower = max(powered(people, judged, judge_mean, confidence), least)
    mean = float(people.mean()) - float(judged.mean()) + float(judge_scores.mean())
    return issued(claim, population, len(people), min(max(mean, least), most), lower, Method.POWERED)


def labels_needed(
    floor: float, predicted_mean: float, confidence: float, population: int, *, spread: float | None = None
) -> int | None:
    """How many scores will certify this floor, if the mean is as predicted; None: not even all would.

    `spread`: the variance of one score; None: scores are 0 or 1, and the exact bound is used. A relative floor is asked
    as floor 0 of the paired difference, with its predicted mean and spread.
    """
    if predicted_mean < floor:
        return None
    level = round_confidence(confidence, 1)
    low, high = 1, population
    while low < high:
        middle = (low + high) // 2
        enough = _enough(floor, predicted_mean, level, population, middle, spread)
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def _enough(
    floor: float, mean: float, level: float, population: int, labels: int, spread: float | None
) -> bool:
    """Whether so many labels certify in `POWER` of cases (the betting bound by its asymptotic width)."""
    unlucky = NormalDist().inv_cdf(POWER)
    left = 1.0 - labels / population
    if spread is None:
        usual = labels * mean - unlucky * math.sqrt(labels * mean * (1.0 - mean) * left)
        return exact(math.floor(usual), labels, level, population) >= floor
    width = (math.sqrt(2.0 * math.log(1.0 / (1.0 - level))) + unlucky) * math.sqrt(spread * left / labels)
    return mean - width >= floor
