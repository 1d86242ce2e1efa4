"""What showing a floor is expected to cost, and when better answers cost less than more scores."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from thirdshift.router.certification.bounds import betting
from thirdshift.router.certification.certificate import labels_needed, round_confidence
from thirdshift.router.certification.proof_costs import FEWEST, ProofCosts

COSTS = ProofCosts(
    floor=0.85,
    confidence=0.95,
    population=2000,
    score_usd=0.001,
    allowed=math.inf,
    best_quality=0.95,
    best_usd=0.1,
)
"""A score costs as much as twenty of the best endpoint's answers."""


@pytest.mark.parametrize("quality", [0.88, 0.9, 0.93])
def test_as_many_scores_are_reckoned_with_as_the_audit_will_ask_for(quality: float) -> None:
    needed = labels_needed(0.85, quality, 0.95, 2000, spread=quality * (1.0 - quality))
    assert needed is not None
    assert float(COSTS.scores(quality)) == pytest.approx(needed, rel=0.02)


def test_the_nearer_the_floor_the_dearer_its_proof_and_below_it_everything_is_looked_at() -> None:
    usd = [COSTS.expected_usd(quality, 0.0, mends=False) for quality in (0.95, 0.92, 0.89, 0.87)]
    assert usd == sorted(usd)
    assert float(COSTS.scores(0.85)) == 2000
    assert float(COSTS.scores(0.999)) == pytest.approx(FEWEST, rel=0.05)


def test_a_doubtful_quality_is_dearer_to_show_than_a_sure_one() -> None:
    usd = [COSTS.expected_usd(0.95, spread) for spread in (0.0, 0.02, 0.05)]
    assert usd == sorted(usd)


def test_what_falls_short_costs_no_more_than_to_be_answered_anew_by_the_best() -> None:
    anew = COSTS.best_usd + (FEWEST + float(COSTS.scores(COSTS.best_quality, 2))) * COSTS.score_usd
    assert COSTS.expected_usd(0.5, 0.0, mends=False) == pytest.approx(anew)
    assert COSTS.expected_usd(0.86, 0.05) <= anew


def test_scores_that_may_not_be_asked_for_show_nothing() -> None:
    few = replace(COSTS, allowed=60.0)
    assert few.expected_usd(0.92, 0.0, mends=False) > COSTS.expected_usd(0.92, 0.0, mends=False)
    assert few.expected_usd(0.95, 0.0) == COSTS.expected_usd(0.95, 0.0)


def test_an_audit_that_costs_more_than_mending_ends_and_one_that_costs_less_goes_on() -> None:
    assert (aimed := COSTS.aim(0.865, 0.02, 200, 1)) is not None
    assert 0.865 < aimed <= COSTS.best_quality
    assert COSTS.aim(0.93, 0.02, 100, 1) is None, "it has all but shown the floor"
    assert replace(COSTS, best_usd=100.0).aim(0.865, 0.02, 200, 1) is None, "better answers are dearer"
    assert replace(COSTS, best_quality=0.865).aim(0.865, 0.02, 200, 1) is None, "there are no better ones"


def test_the_bound_holds_where_an_audit_is_ended_for_what_it_costs() -> None:
    """Below its floor: the first audit is ended by its estimate at any size, the answers are no better then, and a second
    audit is held to what is left of the doubt."""
    floor, population, nights = 0.85, 300, 100
    costs = replace(COSTS, floor=floor, population=population)
    right = np.arange(population) < int(floor * population) - 1
    rng, false = np.random.default_rng(20261130), 0
    for _ in range(nights):
        shown = False
        for audit_round in (1, 2):
            scores = rng.permutation(right).astype(np.float64)
            for size in (30, 58, 113):
                mean = float(scores[:size].mean())
                bound = betting(scores[:size], round_confidence(0.95, audit_round), population)
                shown |= bound >= floor
                if shown or costs.aim(mean, math.sqrt(mean * (1.0 - mean) / size), size, audit_round):
                    break
            if shown:
                break
        false += shown
    assert false / nights <= 0.05 + 2.0 * math.sqrt(0.05 * 0.95 / nights)
