"""How good the anchor of a relative floor can be at most, where every served answer is scored and the anchor's are not.

The anchor's scores come to light in three ways. Some requests were drawn at random and tried on it before anything was
decided (`drawn`: the pilot; by task in proportion, which spreads less than drawing freely). Some it served (`known`): no
sample, but certain. Of all others a random part is asked after everything was served (`audit`), and there the scores that
others got on the same requests help, because their mean over all the rest is known. Nothing is concluded from whose
answers were served on `drawn`: those were held, hence free, hence served more often than elsewhere.

A bet on the anchor's failures runs through `drawn` and then `audit`; were its failures so few in all, and had the gambler
become 1/alpha times richer, so few are refuted (Waudby-Smith and Ramdas 2024, without replacement). The ceiling is about
the anchor alone: it holds whatever is served in the end, so that repair may go on after the audit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from thirdshift.router.certification.bounds import BET_CAP, STEPS, Floats
from thirdshift.router.certification.bounds import weights as slopes
from thirdshift.router.certification.certificate import Certificate, Claim, Method, issued

NOTHING = np.zeros(0)


@dataclass(frozen=True, slots=True)
class Baseline:
    """What came to light of the anchor's scores on a population of requests."""

    population: int
    drawn: Floats
    """Scores on requests drawn at random from all, in the order drawn."""
    known: Floats
    """Scores on requests that are known for another reason."""
    audit: Floats
    """Scores on requests drawn at random from all others, in the order drawn."""
    beside: Floats
    """What others scored on the same requests as `audit`."""
    beside_rest: float
    """The mean of that over all the others."""

    @property
    def rest(self) -> int:
        """Requests from which the audit is drawn."""
        return self.population - len(self.drawn) - len(self.known)

    @property
    def mean(self) -> float:
        """The estimate: what was drawn from all and what the audit says, each by its size, and half a score as long as
        there is hardly any. What is known otherwise is no sample."""
        known_sum = float(self.drawn.sum() + self.known.sum())
        if not self.rest:
            return known_sum / max(self.population, 1)
        audited = 0.0
        if len(self.audit):
            weight = float(slopes(self.audit, self.beside)[-1])
            rest = float(self.audit.mean()) - weight * float(self.beside.mean() - self.beside_rest)
            audited = (known_sum + self.rest * rest) / self.population
        count = len(self.drawn) + len(self.audit)
        estimated = (float(self.drawn.sum()) + len(self.audit) * audited + 0.5) / (count + 1)
        return min(max(estimated, known_sum / self.population), (known_sum + self.rest) / self.population)


def ceiling(baseline: Baseline, confidence: float) -> float:
    """The anchor's mean is at most that, with `confidence`."""
    n, known_sum = baseline.population, float(baseline.drawn.sum() + baseline.known.sum())
    most = (known_sum + baseline.rest) / max(n, 1)
    if baseline.rest == 0 or not len(baseline.drawn) + len(baseline.audit):
        return most
    bet = _Bet.of(baseline, confidence)
    bottom, top = 1.0 - most, 1.0 - min(baseline.mean, most)
    for _ in range(STEPS):
        middle = (bottom + top) / 2
        bottom, top = (middle, top) if bet.refutes(middle) else (bottom, middle)
    return 1.0 - bottom


def expected_ceiling(baseline: Baseline, confidence: float, more: int) -> float:
    """What the ceiling will be about, if `more` of the rest are asked: by the bet's asymptotic width."""
    n, rest = baseline.population, baseline.rest
    known_sum = float(baseline.drawn.sum() + baseline.known.sum())
    most = (known_sum + rest) / max(n, 1)
    first, then = _reach(n, n, len(baseline.drawn)), _reach(n, rest, min(len(baseline.audit) + more, rest))
    worth = float((first**2).sum() + (then**2).sum())
    if worth == 0.0 or more >= rest:
        return most if more < rest else baseline.mean
    spread = max(baseline.mean * (1.0 - baseline.mean), 0.01)
    return min(most, baseline.mean + math.sqrt(2.0 * math.log(1.0 / (1.0 - confidence)) * spread / worth))


def _reach(population: int, rest: int, count: int) -> Floats:
    """By how much the mean of what is left moves when that of all does, before each of `count` draws from `rest`."""
    left: Floats = population / (rest - np.arange(count, dtype=np.float64))
    return left


@dataclass(frozen=True, slots=True)
class _Bet:
    """On failures, step by step: stage one from all, stage two from the rest."""

    population: int
    gain: Floats
    """What each draw shows: its failure, less the weighted failure of others there over its mean."""
    seen: Floats
    """The failures known before each draw."""
    left: Floats
    """The requests not known before each draw."""
    stake: Floats
    lowest: Floats
    """The least that `gain` can be."""
    rich: float

    @staticmethod
    def of(baseline: Baseline, confidence: float) -> _Bet:
        n, rest = baseline.population, baseline.rest
        first, then = 1.0 - baseline.drawn, 1.0 - baseline.audit
        weight = slopes(then, 1.0 - baseline.beside) if len(then) else NOTHING
        other = 1.0 - baseline.beside
        drawn = np.arange(len(then))
        before = np.concatenate([[0.0], np.cumsum(other)[:-1]]) if len(then) else NOTHING
        others_left = (rest * (1.0 - baseline.beside_rest) - before) / np.maximum(rest - drawn, 1)
        gain = np.concatenate([first, then - weight * (other - others_left)])
        known = float(first.sum() + (1.0 - baseline.known).sum())
        so_far = [
            np.concatenate([[0.0], np.cumsum(part)[:-1]]) if len(part) else part for part in (first, then)
        ]
        left = np.concatenate([n - np.arange(len(first)), rest - drawn]).astype(np.float64)
        lowest = np.concatenate([np.zeros(len(first)), -weight * (1.0 - others_left)])
        reach = n / left
        level = math.log(1.0 / (1.0 - confidence))
        spread = np.concatenate([_spread_before(first), _spread_before(gain[len(first) :])])
        stake = reach * np.sqrt(2.0 * level / ((reach**2).sum() * spread))
        return _Bet(n, gain, np.concatenate([so_far[0], known + so_far[1]]), left, stake, lowest, level)

    def refutes(self, failing: float) -> bool:
        """Whether a mean failure of `failing` is refuted as too low."""
        expected = (self.population * failing - self.seen) / self.left
        if (expected < 0.0).any():  # more failures were seen than there would be
            return True
        stake = np.minimum(self.stake, BET_CAP / np.maximum(expected - self.lowest, 1e-300))
        return float(np.cumsum(np.log1p(stake * (self.gain - expected))).max()) >= self.rich


def _spread_before(scores: Floats) -> Floats:
    """The variance of what came before each score, from a first guess of 1/4."""
    count = np.arange(1, len(scores) + 1)
    mean = (0.5 + np.cumsum(scores)) / (count + 1)
    spread = (0.25 + np.cumsum((scores - mean) ** 2)) / (count + 1)
    return np.concatenate([[0.25], spread[:-1]]) if len(scores) else spread


def certify(claim: Claim, served: Floats, baseline: Baseline) -> Certificate:
    """The share of the anchor's mean that is shown. `served`: all scores of what was served, none is missing."""
    mean, sampled = float(served.mean()), len(baseline.drawn) + len(baseline.audit)
    if not sampled and baseline.rest:
        return issued(claim, len(served), 0, 0.0, 0.0, Method.NONE)
    estimate, most = max(baseline.mean, 1e-12), max(ceiling(baseline, claim.confidence), 1e-12)
    method, scored = (Method.POWERED, sampled) if baseline.rest else (Method.CENSUS, len(served))
    return issued(claim, len(served), scored, mean / estimate, mean / most, method)
