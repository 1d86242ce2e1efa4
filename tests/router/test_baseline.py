"""What is claimed of the anchor of a relative floor, where all that is served is scored and the anchor's is not."""

from __future__ import annotations

import numpy as np
import pytest

from thirdshift.router.certification.baseline import Baseline, ceiling, certify, expected_ceiling
from thirdshift.router.certification.certificate import Claim, Method
from thirdshift.router.certification.scorers import Basis

NONE = np.zeros(0)
REQUESTS, TRIED, AUDITED = 1500, 100, 120


def night(rng: np.random.Generator) -> tuple[Baseline, float]:
    """The pilot's answers of the anchor are held and served, the easy rest too; others are drawn for the audit."""
    ease = rng.normal(size=REQUESTS)
    baseline = (ease + rng.normal(size=REQUESTS) > -0.6).astype(float)
    other = (ease + rng.normal(size=REQUESTS) > -0.3).astype(float)
    order = rng.permutation(REQUESTS)
    tried, left = order[:TRIED], order[TRIED:]
    rest = left[ease[left] < 0.8]
    drawn = rest[:AUDITED]
    known = baseline[left[ease[left] >= 0.8]]
    found = Baseline(
        REQUESTS, baseline[tried], known, baseline[drawn], other[drawn], float(other[rest].mean())
    )
    return found, float(baseline.mean())


def test_the_anchor_is_above_its_ceiling_in_no_more_nights_than_the_doubt() -> None:
    rng = np.random.default_rng(5)
    nights = [night(rng) for _ in range(300)]
    false = sum(ceiling(baseline, 0.9) < truth for baseline, truth in nights)
    assert false <= 42  # of 300 at 0.9; chance alone gives more in 1 of 100 tries
    assert np.mean([baseline.mean - truth for baseline, truth in nights]) == pytest.approx(0.0, abs=0.01)
    widths = [ceiling(baseline, 0.9) - truth for baseline, truth in nights]
    assert np.mean(widths) < 0.08


def test_what_more_answers_would_bring_is_foretold() -> None:
    rng = np.random.default_rng(6)
    found = [(ceiling(baseline, 0.95), baseline) for baseline, _ in (night(rng) for _ in range(40))]
    before = [Baseline(a.population, a.drawn, a.known, NONE, NONE, a.beside_rest) for _, a in found]
    foretold = np.mean([expected_ceiling(each, 0.95, AUDITED) for each in before])
    assert foretold == pytest.approx(np.mean([now for now, _ in found]), abs=0.03)
    assert expected_ceiling(before[0], 0.95, 0) > expected_ceiling(before[0], 0.95, 400)


def test_an_anchor_that_is_known_everywhere_needs_no_bound() -> None:
    claim = Claim(0.9, 0.95, Basis.REFERENCE, "exact")
    served, scores = np.array([1.0, 1.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0, 1.0])
    certificate = certify(claim, served, Baseline(4, NONE, scores, NONE, NONE, 0.0))
    assert (certificate.method, certificate.lower_bound) == (Method.CENSUS, 1.5)
    unknown = certify(claim, served, Baseline(4, NONE, NONE, NONE, NONE, 1.0))
    assert not unknown.certified
