"""Whether and how far a night looks is decided by what can be saved."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from tests.support.outcomes import outcomes
from thirdshift.router.backtesting.backtest import backtest
from thirdshift.router.backtesting.played_night import BacktestSettings
from thirdshift.router.learning.baseline_looks import FEW, SIDE, rivals_looks
from thirdshift.router.learning.first_looks import SEED, SHARE, first_counts, worth_looking
from thirdshift.router.learning.pilot import next_round
from thirdshift.router.learning.quality_target import QualityTarget, Standing
from thirdshift.router.learning.situation import Situation, survey
from thirdshift.router.learning.value_of_information import cheapest_sure, look_out, rivals
from thirdshift.router.prediction.observations import Observations, PastScores, Population, no_observations
from thirdshift.router.prediction.predict import fit

N = 400
PLAIN = Population(np.zeros(N, np.int32), np.zeros((N, 0), np.float32), 1)
COST = np.tile([1.0, 90.0, 100.0], (N, 1))


def some_scores(counts: list[int], means: list[float]) -> Observations:
    """The first requests, looked at on each endpoint so often, with so many of them right."""
    row = np.concatenate([np.arange(count) for count in counts])
    endpoint = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    score = np.concatenate(
        [(np.arange(c) % 10 < 10 * m).astype(float) for c, m in zip(counts, means, strict=True)]
    )
    return Observations(row, endpoint, score)


@pytest.mark.parametrize("rows", [1, 30, 200, 500, 6000, 1_000_000])
def test_the_dearer_an_endpoint_the_fewer_its_first_looks(rows: int) -> None:
    counts = first_counts(np.array([[1.0, 10.0, 100.0]]), rows)
    assert (np.diff(counts) <= 0).all()
    assert 1 <= counts[2] <= max(1, SHARE * rows)
    assert counts[0] <= min(SEED, max(1, 0.2 * rows))


@pytest.mark.parametrize("rows", [30, 200, 2000, 200_000])
def test_where_scores_are_dear_all_are_tried_on_the_same_requests_and_on_the_fewer_the_dearer(
    rows: int,
) -> None:
    cost = np.array([[1.0, 10.0, 100.0]])
    tried = [first_counts(cost, rows, score_usd) for score_usd in (1.0, 100.0, 10_000.0, 1e9)]
    assert all((counts == counts[0]).all() for counts in tried)
    assert [counts[0] for counts in tried] == sorted((counts[0] for counts in tried), reverse=True)
    assert tried[0][0] <= max(1, min(SEED, 0.2 * rows))
    assert tried[-1][0] == max(1, min(SEED, round(0.005 * rows)))


def test_what_is_worth_looking_at_is_least_in_what_looks_and_doubt_cost_together() -> None:
    def together(looks: int, rows: int) -> float:
        return looks * 3 * (100.0 + 300.0) + 3.0 * rows * 100.0 / np.sqrt(looks)

    for rows in (2000, 20_000):
        found = worth_looking(np.full((1, 3), 100.0), rows, 300.0)
        assert together(found, rows) <= min(together(found // 2, rows), together(2 * found, rows))


def test_a_pilot_whose_scores_cost_ends_where_looking_is_not_worth_them_and_earlier_scores_count() -> None:
    """Endpoints that differ, so that without the scores' price it would go on."""
    situation = replace(a_situation(no_observations()), aim=QualityTarget(0.9), rounds=0, score_usd=300.0)
    worth = 3 * worth_looking(COST, N, 300.0)
    rng, means, looked = np.random.default_rng(0), np.array([0.5, 0.85, 0.95]), []
    while (found := next_round(situation, np.random.default_rng(situation.rounds))) is not None:
        looked.append(found)
        score = (rng.random(len(found)) < means[found.endpoint]).astype(float)
        seen = situation.observations.plus(Observations(found.row, found.endpoint, score))
        situation = replace(situation, observations=seen, rounds=situation.rounds + 1)
    assert 0 < len(situation.observations) <= worth
    rows = [set(situation.observations.row[situation.observations.endpoint == e].tolist()) for e in range(3)]
    assert rows[0] == rows[1] == rows[2]
    assert len(looked[0]) < len(situation.observations), "what it costs was a guess before the first"
    seen = situation.observations
    past = PastScores(np.zeros(len(seen), np.int32), seen.endpoint, seen.score, seen.row)
    later = replace(situation, observations=no_observations(), past=past, rounds=0)
    again = next_round(later, rng)
    assert again is None or len(again) <= len(seen) / 5, "each night's audit tells whether it still holds"
    assert next_round(replace(later, rounds=1), rng) is None


def test_what_nobody_knows_the_price_of_is_tried_on_next_to_nothing() -> None:
    counts = first_counts(np.full((500, 3), np.nan), 500)
    assert counts.tolist() == [2, 2, 2]


def test_no_plan_costs_more_than_the_dearest_endpoint_that_may_be_the_best() -> None:
    """Two dear endpoints alike: sure it would be with many answers of both, at twice the bill of either."""
    seen = some_scores([200, 40, 40], [0.5, 0.9, 0.9])
    predictor = fit(seen, PLAIN, np.full(3, np.nan))
    aim = QualityTarget(0.999, (0, 1, 2))
    cost = COST.copy()
    cost[seen.row, seen.endpoint] = 0.0
    paid = np.array([200.0, 3600.0, 4000.0])
    path = look_out(predictor, PLAIN, predictor.predict(PLAIN), cost, aim, paid_usd=paid)
    still = cost[np.arange(N), path.choice].sum()
    assert not path.sure
    assert still + paid.sum() <= 100.0 * N * (1 + 1e-9)
    assert path.cost_of(2.0) == path.outright_usd <= 100.0 * N - paid.sum() + 1e-6


def test_where_nothing_is_sure_enough_the_surest_is_chosen_and_not_the_dearest() -> None:
    seen = some_scores([300, 30, 30], [0.5, 0.9, 0.6])
    predictor = fit(seen, PLAIN, np.full(3, np.nan))
    quality = predictor.predict(PLAIN)
    path = look_out(predictor, PLAIN, quality, COST, QualityTarget(0.97))
    assert not path.sure
    assert (path.choice == 1).all()


def test_what_is_known_to_be_enough_is_not_given_up_for_dearer_answers_that_are_likely_to_be() -> None:
    """From step 40 on the floor is cleared. All scores are known there; the further up, the more of them are not."""

    def at(step: int, spread: float = 0.04) -> Standing:
        quality, spread = 0.7 + 0.0004 * (step - 40), spread * max(step - 40, 0) ** 0.5 / 10.0
        sure = float(quality >= 0.7) if spread == 0.0 else NormalDist(quality, spread).cdf(2 * quality - 0.7)
        return Standing(quality, 0.7, spread, 0.7 - quality + 1.645 * spread, sure)

    assert at(200).short > 0
    assert at(400).short <= 0
    assert cheapest_sure(at, 400) == 40
    assert cheapest_sure(lambda step: at(step, 0.001), 400) == 40
    surer = cheapest_sure(lambda step: replace(at(step), short=0.7 - at(step).quality + 0.05), 400)
    assert surer == 165, "where less than that is known, as far up as it takes"


def test_a_dear_endpoint_of_which_too_little_is_known_is_not_ruled_out() -> None:
    unlucky = fit(some_scores([300, 200, 2], [0.5, 0.9, 0.0]), PLAIN, np.full(3, np.nan))
    likeliest, others = rivals(unlucky, PLAIN, np.zeros(N, np.int32), np.array([1.0, 90.0, 100.0]))
    assert (likeliest, others) == (1, [2])
    known = fit(some_scores([300, 200, 40], [0.5, 0.9, 0.1]), PLAIN, np.full(3, np.nan))
    assert rivals(known, PLAIN, np.zeros(N, np.int32), np.array([1.0, 90.0, 100.0])) == (1, [])


def a_situation(seen: Observations) -> Situation:
    return Situation(
        PLAIN, COST, None, np.full(3, np.nan), QualityTarget(0.95, (0, 1, 2)), seen, N, 10 * N, 2
    )


def test_what_may_be_the_best_is_looked_at_twice_as_often_and_other_rivals_for_little() -> None:
    seen = some_scores([300, 30, 20], [0.5, 0.9, 0.9])
    situation = a_situation(seen)
    outlook = survey(situation)
    looks = rivals_looks(situation, outlook, np.random.default_rng(0))
    counts = np.bincount(looks.endpoint, minlength=3)
    likeliest = int(counts.argmax())
    assert likeliest in (1, 2)
    assert counts[0] == 0
    assert counts[likeliest] in (20, 30)
    other = 3 - likeliest
    assert COST[0, other] * (counts[other] + (seen.endpoint == other).sum()) <= SIDE * 100.0 * N
    assert not np.isin(looks.row * 3 + looks.endpoint, seen.row * 3 + seen.endpoint).any()


def test_where_the_likeliest_has_answered_everything_its_rivals_are_looked_at_as_far_as_the_bill_goes() -> (
    None
):
    seen = some_scores([N, N, 60], [0.5, 0.7, 0.7])
    last = seen.endpoint == 2
    seen = replace(
        seen, score=np.where(last, np.roll(seen.score, 5), seen.score)
    )  # right where others are wrong
    situation = a_situation(seen)
    outlook = replace(survey(situation), outright_usd=3_000.0)
    looks = rivals_looks(situation, outlook, np.random.default_rng(0))
    counts = np.bincount(looks.endpoint, minlength=3)
    assert counts[2] == 30  # what is left of the bill
    within = rivals_looks(replace(situation, pilot=0), outlook, np.random.default_rng(0))
    assert len(within) == 30
    assert np.isin(within.row, seen.row).all()
    nothing = replace(outlook, outright_usd=0.0)
    assert not len(rivals_looks(situation, nothing, np.random.default_rng(0)))
    assert FEW > 0


def test_a_small_night_keeps_its_floor_and_costs_no_more_than_the_best_endpoint_alone() -> None:
    """150 requests: a pilot of 80 on every endpoint would be half of the dearest one's bill."""
    night = backtest(outcomes(150), BacktestSettings(0.85))[0]["mean"]
    assert night["met"]
    assert night["cost_usd"] <= night["cost_best_single"]
    cheap = backtest(outcomes(150), BacktestSettings(0.55))[0]["mean"]
    assert cheap["met"]
    assert cheap["cost_usd"] <= 0.15 * cheap["cost_best_single"]


def test_nothing_seen_nothing_is_ruled_out() -> None:
    blank = fit(no_observations(), PLAIN, np.full(3, np.nan))
    likeliest, others = rivals(blank, PLAIN, np.zeros(N, np.int32), np.array([1.0, 90.0, 100.0]))
    assert sorted([likeliest, *others]) == [0, 1, 2]
