from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thirdshift.router.certification.bounds import _stakes, betting, exact, powered
from thirdshift.router.certification.certificate import (
    Claim,
    Method,
    ScoredSample,
    certify,
    certify_people,
    certify_relative,
    labels_needed,
    round_confidence,
)
from thirdshift.router.certification.scorers import Basis

CLAIM = Claim(0.9, 0.95, Basis.REFERENCE, "exact")
FALSE_AT_MOST = 73
"""Of 1,000: what a bound that is false in 5 % of cases stays below with probability 0.999."""
NOTHING = np.zeros(0)


def population(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    return {
        "right or wrong": lambda: (rng.random(n) < 0.87).astype(float),
        "nearly all right": lambda: (rng.random(n) < 0.99).astype(float),
        "few values": lambda: rng.choice([0.0, 0.25, 0.5, 1.0], n, p=[0.1, 0.1, 0.2, 0.6]),
        "heavy at the ends": lambda: rng.beta(0.15, 0.05, n),
        "in the middle": lambda: rng.beta(8, 4, n),
        "one in a hundred zero": lambda: np.where(rng.random(n) < 0.01, 0.0, 0.95),
    }[kind]()


@pytest.mark.parametrize(
    "kind", ["right or wrong", "few values", "heavy at the ends", "one in a hundred zero"]
)
def test_a_bound_is_false_in_few_of_a_thousand_audits(kind: str) -> None:
    rng = np.random.default_rng(7)
    everyone = population(kind, 1500, rng)
    drawn = [rng.permutation(everyone)[:150] for _ in range(1000)]
    assert sum(betting(scores, 0.95, 1500) > everyone.mean() for scores in drawn) <= FALSE_AT_MOST


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(st.floats(0, 1), min_size=2, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    part=st.sampled_from([20, 60, 200]),
)
def test_a_bound_holds_whatever_the_scores(values: list[float], seed: int, part: int) -> None:
    """200 audits of any distribution Hypothesis finds: at 0.95, more than 25 false ones are a chance of one in 10^5."""
    rng = np.random.default_rng(seed)
    everyone = rng.choice(values, 400, p=rng.dirichlet(np.ones(len(values))))
    false = sum(
        betting(rng.permutation(everyone)[:part], 0.95, 400) > everyone.mean() + 1e-9 for _ in range(200)
    )
    assert false <= 25


def test_the_betting_bound_holds_at_every_size_at_once() -> None:
    """Whoever stops at the best moment is misled no more often: the least of eight looks is still covered."""
    rng = np.random.default_rng(3)
    false = 0
    for _ in range(300):
        everyone = (rng.random(600) < 0.8).astype(float)
        order = rng.permutation(everyone)
        stakes_known = [betting(order[:n], 0.95, 600) for n in (40, 80, 120, 160, 200, 240, 280, 320)]
        false += max(stakes_known) > everyone.mean()
    assert false <= 21  # of 300 at 0.95: what chance allows once in twenty times


def test_a_stake_does_not_know_how_long_the_audit_will_be() -> None:
    scores = np.random.default_rng(4).random(3000)
    for n in (10, 256, 257, 1500):
        assert np.array_equal(_stakes(scores[:n], 0.05, 5000), _stakes(scores, 0.05, 5000)[:n])


@pytest.mark.parametrize("right", [0, 100, 170, 190, 200])
def test_the_exact_bound_is_the_smallest_population_that_does_not_surprise(right: int) -> None:
    from scipy import stats

    bound = exact(right, 200, 0.95, 1000)
    holds = round(bound * 1000)
    assert stats.hypergeom.sf(right - 1, 1000, holds, 200) > 0.05 or right == 0
    assert right in (0, holds) or stats.hypergeom.sf(right - 1, 1000, holds - 1, 200) <= 0.05
    assert exact(right, 200, 0.95) <= bound + 1e-12, "a finite population is never known less well"


def test_where_all_is_scored_the_bound_is_the_mean() -> None:
    scores = np.array([1.0, 0.0, 1.0, 1.0])
    certificate = certify(CLAIM, ScoredSample(4, scores[:1], scores[1:]))
    assert (certificate.method, certificate.lower_bound, certificate.mean, certificate.certified) == (
        Method.CENSUS,
        0.75,
        0.75,
        False,
    )


def test_nothing_scored_certifies_nothing() -> None:
    certificate = certify(CLAIM, ScoredSample(10, NOTHING, NOTHING))
    assert (certificate.method, certificate.scored, certificate.certified) == (Method.NONE, 0, False)


def test_what_the_pilot_chose_does_not_leak_into_the_bound() -> None:
    """300 answers of the pilot, all right because it chose them, say nothing of the 700 others."""
    rng = np.random.default_rng(5)
    false = 0
    for _ in range(400):
        others = (rng.random(700) < 0.6).astype(float)
        certificate = certify(
            CLAIM, ScoredSample(1000, np.ones(300), rng.permutation(others)[:100], binary=True)
        )
        false += certificate.lower_bound > (300 + others.sum()) / 1000
    assert false <= 35


def test_a_certificate_names_its_sample_and_its_basis() -> None:
    judge = Claim(0.8, 0.95, Basis.JUDGE, "judge opus, rubric 3f2a")
    certificate = certify(judge, ScoredSample(6010, NOTHING, np.ones(300)))
    assert certificate.certified
    assert certificate.sentence().startswith("judge opus, rubric 3f2a: ≥ 0.9")
    assert "300 of 6,010 scored" in certificate.sentence()


def test_all_rounds_together_keep_the_confidence() -> None:
    spent = sum(1 - round_confidence(0.95, k) for k in range(1, 60))
    assert spent == pytest.approx(0.05)
    assert round_confidence(0.95, 1) > 0.95


def test_a_floor_that_is_met_to_the_last_digit_is_not_missed_by_rounding() -> None:
    scores = np.array([0.7, 0.8, 0.9])
    assert scores.mean() < 0.8
    claim = Claim(0.8, 0.95, Basis.REFERENCE, "fields")
    census = certify(claim, ScoredSample(3, scores, NOTHING, binary=False))
    assert census.certified
    assert census.lower_bound == census.mean == 0.8
    assert not certify(claim, ScoredSample(3, scores - 1e-9, NOTHING, binary=False)).certified


def test_a_relative_floor_is_tested_on_paired_differences() -> None:
    """Served and anchor right on the same requests: their difference is known far better than either mean."""
    rng = np.random.default_rng(1)
    baseline = (rng.random(400) < 0.6).astype(float)
    claim = Claim(0.9, 0.95, Basis.REFERENCE, "exact")
    alike = certify_relative(claim, baseline, baseline, 100_000)
    apart = certify_relative(claim, rng.permutation(baseline), baseline, 100_000)
    assert alike.certified
    assert alike.mean == 1.0
    assert not apart.certified


def test_a_relative_bound_is_false_in_few_of_a_thousand() -> None:
    rng = np.random.default_rng(11)
    false = 0
    for _ in range(500):
        hard = rng.random(1200)
        baseline, served = ((hard < t + 0.3 * rng.random(1200)).astype(float) for t in (0.7, 0.6))
        rows = rng.permutation(1200)[:200]
        certificate = certify_relative(CLAIM, served[rows], baseline[rows], 1200)
        false += certificate.lower_bound > served.mean() / baseline.mean()
    assert false <= 42


@pytest.mark.parametrize("flaw", ["lenient", "blind", "noisy"])
def test_people_correct_a_judge_that_errs(flaw: str) -> None:
    """300 labels by people beside a judge's scores of everything: the truth is covered, whatever the judge's flaw."""
    rng = np.random.default_rng(13)
    false = 0
    for _ in range(400):
        truth = (rng.random(2000) < 0.8).astype(float)
        judge = {
            "lenient": lambda t=truth: np.maximum(t, rng.random(2000) < 0.5),
            "blind": lambda: rng.random(2000),
            "noisy": lambda t=truth: np.clip(t + rng.normal(0, 0.3, 2000), 0, 1),
        }[flaw]()
        rows = rng.permutation(2000)[:300]
        certificate = certify_people(CLAIM, truth[rows], judge[rows], judge, 2000)
        false += certificate.lower_bound > truth.mean()
    assert false <= 35


def test_what_people_show_is_a_mean_from_0_to_1() -> None:
    """Corrections that lead beyond: the judge was harsher in what people saw than elsewhere, and milder."""
    judge = np.tile([1.0, 0.0], 100)
    harsh, mild = judge[1::2][:60], judge[0::2][:60]
    high = certify_people(CLAIM, np.ones(60), harsh, judge, 200)
    assert (high.mean, high.method) == (1.0, Method.POWERED)
    low = certify_people(CLAIM, np.zeros(60), mild, judge, 200)
    assert low.mean == low.lower_bound == 0.0
    half = certify_people(CLAIM, np.ones(60), mild, judge, 200)
    assert half.lower_bound >= 0.3  # what people gave to sixty is certain


def test_people_who_score_every_answer_make_a_census() -> None:
    people = np.array([1.0, 1.0, 0.0, 1.0])
    certificate = certify_people(CLAIM, people, np.zeros(4), np.zeros(4), 4)
    assert certificate.mean == certificate.lower_bound == 0.75
    assert (certificate.method, certificate.scored) == (Method.CENSUS, 4)


def test_a_good_judge_makes_the_bound_tighter_than_people_alone() -> None:
    rng = np.random.default_rng(17)
    truth = (rng.random(5000) < 0.8).astype(float)
    judge = np.clip(truth + rng.normal(0, 0.1, 5000), 0, 1)
    alone = betting(truth[:300], 0.95)
    together = powered(truth[:300], judge[:300], float(judge.mean()), 0.95)
    assert truth.mean() - together < 0.7 * (truth.mean() - alone)


def test_labels_needed_are_enough_and_not_far_too_many() -> None:
    rng = np.random.default_rng(19)
    needed = labels_needed(0.9, 0.93, 0.95, 5000)
    assert needed is not None
    assert needed < 1500
    shown = 0
    for _ in range(200):
        scores = (rng.random(needed) < 0.93).astype(float)
        shown += certify(CLAIM, ScoredSample(5000, NOTHING, scores, binary=True)).certified
    assert 130 <= shown <= 195


def test_a_floor_above_the_predicted_mean_cannot_be_certified() -> None:
    assert labels_needed(0.9, 0.89, 0.95, 5000) is None
    assert labels_needed(0.9, 0.9001, 0.95, 5000) == pytest.approx(5000, rel=0.05)


@given(st.integers(1, 400), st.floats(0.5, 0.99))
def test_more_confidence_never_raises_a_bound(right: int, confidence: float) -> None:
    assert exact(right, 400, confidence + 0.009, 900) <= exact(right, 400, confidence, 900)
