"""Lower confidence bounds on the mean of bounded scores, valid at every sample size: no normal approximation.

Two families. `exact` inverts the hypergeometric (finite population) or binomial test: the tightest for scores that are 0 or
1, at one look. `betting` is the one-sided betting confidence sequence for sampling without replacement (Waudby-Smith and
Ramdas, "Estimating means of bounded random variables by betting", 2024): valid for any distribution in its range and at
every moment at once, so that an audit may be extended until it is enough.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BET_CAP = 0.75
"""A bet stakes at most this share of what it can lose; 1 would let a single score of 0 end the game."""
HORIZON = 256
"""Scores that an audit is first expected to need: what a floor a few points below the mean takes."""
STEPS = 40
"""Bisections; the bound is exact to the range / 2^40."""


def exact(successes: int, scored: int, confidence: float, population: int | None = None) -> float:
    """The lower bound on the share of successes; `population` None: infinite (Clopper and Pearson)."""
    if successes <= 0 or scored <= 0:
        return 0.0
    alpha = 1.0 - confidence
    if population is None:
        from scipy.special import betaincinv

        return float(betaincinv(successes, scored - successes + 1, alpha))
    low, high = successes, population - (scored - successes)  # what the sample leaves possible
    while low < high:  # the smallest number of successes in the population that does not surprise
        middle = (low + high) // 2
        surprise = chance_of_as_many(successes, population, middle, scored)
        low, high = (low, middle) if surprise > alpha else (middle + 1, high)
    return low / population


def chance_of_as_many(successes: int, population: int, right: int, scored: int) -> float:
    """The chance of at least so many successes among `scored` drawn from a population with `right` (hypergeometric)."""
    count = np.arange(successes, min(scored, right) + 1, dtype=np.float64)
    log_chance = (
        _log_choose(right, count)
        + _log_choose(population - right, scored - count)
        - _log_choose(population, np.float64(scored))
    )
    return min(float(np.exp(log_chance).sum()), 1.0)


def _log_choose(whole: int, part: Floats | np.float64) -> Floats:
    """log(whole over part); minus infinity where there are not so many."""
    from scipy.special import gammaln

    logarithm: Floats = gammaln(whole + 1.0) - gammaln(part + 1.0) - gammaln(whole - part + 1.0)
    return np.where(part > whole, -np.inf, logarithm)


def betting(
    scores: Floats, confidence: float, population: int | None = None, *, low: float = 0.0, high: float = 1.0
) -> float:
    """The lower bound on the mean of scores in [low, high], drawn at random in this order without replacement.

    A gambler stakes on the next score being above m; where he could have become 1/alpha times richer, m is refuted.
    The stakes depend on earlier scores and their number only.
    """
    if not len(scores):
        return low
    unit = (np.asarray(scores, dtype=np.float64) - low) / (high - low)
    stakes = _stakes(unit, 1.0 - confidence, population)
    bottom, top = 0.0, float(unit.mean())
    for _ in range(STEPS):
        middle = (bottom + top) / 2
        refuted = _richest(unit, stakes, middle, population) >= -math.log(1.0 - confidence)
        bottom, top = (middle, top) if refuted else (bottom, middle)
    return low + (high - low) * bottom


def _stakes(unit: Floats, alpha: float, population: int | None) -> Floats:
    """sqrt(2 log(1/alpha) / (horizon variance)): best for a sample of `horizon`, by the variance of what came before.

    The horizon is 256, 1,024, 4,096, …: the next of them at each score. So a stake does not know how long the audit will
    be, and an audit may be extended for what it has shown; most are as long as one of them, or a little shorter.
    """
    count = np.arange(1, len(unit) + 1)
    mean = (0.5 + np.cumsum(unit)) / (count + 1)
    spread = (0.25 + np.cumsum((unit - mean) ** 2)) / (count + 1)
    before = np.concatenate([[0.25], spread[:-1]])
    horizon = HORIZON * 4.0 ** np.ceil(np.log(np.maximum(count / HORIZON, 1.0)) / math.log(4.0) - 1e-9)
    left = 1.0 - np.minimum(horizon / population, 1.0) if population else np.ones(len(unit))
    wanted: Floats = np.sqrt(2.0 * math.log(1.0 / alpha) / (horizon * before * np.maximum(left, 0.05)))
    return wanted  # of drawing without replacement, less is unknown: `left`


def _richest(unit: Floats, stakes: Floats, mean: float, population: int | None) -> float:
    """The log of the most the gambler ever had, were `mean` the population's."""
    expected = np.full(len(unit), mean)
    if population is not None:
        drawn = np.arange(len(unit))
        seen = np.concatenate([[0.0], np.cumsum(unit)[:-1]])
        expected = (population * mean - seen) / (population - drawn)
        if (expected <= 0.0).any():  # more was seen than the population would hold
            return math.inf if (expected < 0.0).any() else _wealth(unit, stakes, np.maximum(expected, 1e-300))
    return _wealth(unit, stakes, expected)


def _wealth(unit: Floats, stakes: Floats, expected: Floats) -> float:
    stake = np.minimum(stakes, BET_CAP / np.maximum(expected, 1e-300))
    return float(np.cumsum(np.log1p(stake * (unit - expected))).max())


def powered(people: Floats, judged: Floats, judge_mean: float, confidence: float) -> float:
    """The lower bound on the mean that people would give, with a judge's scores of the same answers to help.

    `people`, `judged`: shape (n,), the two scores of the answers that people scored, drawn at random, in order.
    `judge_mean`: the judge's mean over all answers, or a lower bound of it (and then its error adds to this one's).
    Each score of people is corrected by how far the judge's is off its mean, times a weight learnt from earlier pairs
    (0 where the judge tells nothing, and then the bound is people's alone): still unbiased, less spread.
    """
    weight = weights(people, judged)
    corrected = people - weight * (judged - judge_mean)
    return max(0.0, betting(corrected, confidence, None, low=-1.0 + judge_mean, high=1.0 + judge_mean))


def weights(people: Floats, judged: Floats) -> Floats:
    """The regression slope of people's on the judge's scores before each pair, shrunk to 0, within 0 and 1."""
    n = np.arange(1, len(people) + 1)
    covariance = np.cumsum(people * judged) / n - np.cumsum(people) / n * np.cumsum(judged) / n
    spread = np.cumsum(judged**2) / n - (np.cumsum(judged) / n) ** 2
    slope = np.clip(covariance * n / (spread * n + 2.0), 0.0, 1.0)
    before: Floats = np.concatenate([[0.0], slope[:-1]])
    return before
