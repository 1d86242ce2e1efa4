"""What it is expected to cost to show a floor, where each score is paid for and what falls short can be mended.

The audit of answers far above the floor is short, of answers just above it almost a census, and below it ends in mending.
What is believed of the quality may be off, so each cost is a mean over what it may truly be. What remains is a choice that
is the same before anything is served and in the middle of an audit: to look on, or to raise the quality and look then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from thirdshift.router.certification.bounds import Floats
from thirdshift.router.certification.certificate import POWER, round_confidence

FEWEST = 30
"""Scores that are asked for at first, and that show how far off a quality below the floor is."""
ERRORS = np.array([NormalDist().inv_cdf((k + 0.5) / 15) for k in range(15)])
"""What a belief may be off by, in standard deviations; each as likely as the others."""
AIMS = 12
"""Qualities between what is served and the best there is at which mending may aim."""
WORTH = 0.9
"""Mending must be expected to cost less than this share of going on: it cannot be taken back."""


@dataclass(frozen=True, slots=True)
class ProofCosts:
    """What scores and better answers cost in a run with an absolute floor."""

    floor: float
    confidence: float
    population: int
    """Requests that the certificate is about."""
    score_usd: float
    allowed: float
    """Scores that may yet be asked for; infinite: as many as it takes."""
    best_quality: float
    """What the best endpoint is believed to score."""
    best_usd: float
    """Its whole bill."""

    def scores(self, quality: Floats | float, audit_round: int = 1) -> Floats:
        """Return how many scores show the floor at this quality; all of them where it is not above the floor."""
        level = round_confidence(self.confidence, audit_round)
        width = math.sqrt(2.0 * math.log(1.0 / (1.0 - level))) + NormalDist().inv_cdf(POWER)
        above = np.asarray(quality, np.float64) - self.floor
        with np.errstate(divide="ignore"):
            infinite = np.where(above > 0.0, width**2 * quality * (1.0 - quality) / above**2, np.inf)
        count = self.population
        needed: Floats = count / (1.0 + count / np.maximum(infinite, min(FEWEST, count)))
        return needed

    def expected_usd(
        self, quality: float, spread: float, *, scored: int = 0, audit_round: int = 1, mends: bool = True
    ) -> float:
        """Return the mean cost of showing the floor for answers served at this quality.

        `spread`: by how much that belief may be off; `scored`: how many scores of this audit there are; `mends`: whether
        what falls short can be mended yet.
        """
        true = np.clip(quality + spread * ERRORS, 0.0, 1.0)
        needed = np.maximum(self.scores(true, audit_round) - scored, 1.0)
        usd = np.where((true > self.floor) & (needed <= self.allowed), needed * self.score_usd, np.inf)
        looked = max(FEWEST, scored) * self.score_usd  # to know better takes as many scores again
        anew = (
            looked + self.best_usd + float(self.scores(self.best_quality, audit_round + 1)) * self.score_usd
        )
        if mends:
            mended = [self._mended(quality, each - quality, audit_round) for each in true.tolist()]
            usd = np.minimum(usd, looked + np.array(mended))
        return float(np.minimum(usd, anew).mean())

    def _mended(self, quality: float, error: float, audit_round: int) -> float:
        """Return the least cost of mending and showing it, once it is known by how much the belief is off."""
        aims = self._aims(quality)
        true = np.clip(aims + error, 0.0, 1.0)
        usd = self._raising(quality, aims) + self.scores(true, audit_round + 1) * self.score_usd
        return float(np.where(true > self.floor, usd, np.inf).min(initial=np.inf))

    def aim(self, quality: float, spread: float, scored: int, audit_round: int) -> float | None:
        """Return the quality to which mending at once costs less than looking on; None: looking on costs less."""
        aims = self._aims(quality)
        if not len(aims):
            return None
        costs = self._raising(quality, aims) + np.array(
            [
                self.expected_usd(each, spread, audit_round=audit_round + 1, mends=False)
                for each in aims.tolist()
            ]
        )
        on = self.expected_usd(quality, spread, scored=scored, audit_round=audit_round)
        return float(aims[costs.argmin()]) if costs.min() < WORTH * on else None

    def _aims(self, quality: float) -> Floats:
        if self.best_quality <= quality:
            return np.zeros(0)
        return np.linspace(quality, self.best_quality, AIMS + 1)[1:]

    def _raising(self, quality: float, aims: Floats) -> Floats:
        """US dollars for as many answers of the best endpoint as it takes; those that they replace stay paid."""
        return self.best_usd * (aims - quality) / (self.best_quality - quality)
