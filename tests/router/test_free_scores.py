"""Nights whose scores are free: serve, look, send on what failed, stop at the floor."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from tests.support.outcomes import FIGURES, outcomes
from thirdshift.router.backtesting.backtest import backtest, figures, play, population_of
from thirdshift.router.backtesting.played_night import BacktestSettings
from thirdshift.router.backtesting.recorded_outcomes import Outcomes, read
from thirdshift.router.learning import cascade_columns
from thirdshift.router.learning.cascades import WIDE, Barred, cascades, known_scores
from thirdshift.router.learning.quality_target import QualityTarget
from thirdshift.router.prediction.observations import Observations, PastScores, Population, no_observations
from thirdshift.router.prediction.predict import fit

TABLE = outcomes(n=900)


def hindsight_usd(known: Outcomes, floor: float) -> float:
    """The cheapest cascade of endpoints: failures are sent on in random order until the floor."""
    n, width = known.score.shape
    best = np.inf
    for order in (order for size in range(1, width + 1) for order in permutations(range(width), size)):
        held, spent = known.score[:, order[0]].copy(), float(known.cost_usd[:, order[0]].sum())
        for endpoint in order[1:]:
            missing, failed = floor * n - held.sum(), held < 1
            gain = (known.score[:, endpoint] * failed).sum()
            if missing <= 0 or gain <= 0:
                break
            share = min(1.0, missing / gain)
            spent += share * float(known.cost_usd[failed, endpoint].sum())
            held = held + share * known.score[:, endpoint] * failed
        if held.sum() >= floor * n - 1e-9:
            best = min(best, spent)
    return best


@pytest.mark.parametrize("floor", [0.6, 0.8, 0.93])
def test_a_night_of_free_scores_is_about_as_cheap_as_the_best_cascade_in_hindsight(floor: float) -> None:
    known, _ = read(TABLE)
    answer, _ = backtest(TABLE, BacktestSettings(floor, free=True), repeat=12)
    for night in answer["repeats"]:
        assert set(night) == FIGURES
        assert night["met"]
        assert night["certified"]
    assert answer["mean"]["cost_usd"] <= 1.3 * hindsight_usd(known, floor)


def test_a_night_of_free_scores_stops_at_the_floor() -> None:
    answer, _ = backtest(TABLE, BacktestSettings(0.8, free=True))
    assert 0.8 <= answer["mean"]["quality"] < 0.82


def test_a_relative_floor_is_met_though_nobody_tells_which_endpoint_is_the_best() -> None:
    answer, _ = backtest(TABLE, BacktestSettings(0.95, relative=True, free=True), repeat=4)
    assert all(night["met"] for night in answer["repeats"])
    assert answer["mean"]["cost_usd"] < 0.5 * answer["mean"]["cost_best_single"]


def test_a_floor_per_task_is_met_in_every_task() -> None:
    known, _ = read(TABLE)
    population = population_of(known, np.random.default_rng(0))
    settings = BacktestSettings(0.8, free=True, per_task=True)
    played = play(known, population, settings, np.random.default_rng(0))
    served = known.score[np.arange(len(known)), played.choice]
    for task in range(len(known.tasks)):
        assert served[known.task == task].mean() >= 0.8
    assert figures(known, settings, played)["met"]


def test_nothing_but_what_was_bought_reaches_a_night_of_free_scores() -> None:
    known, _ = read(TABLE)
    population = population_of(known, np.random.default_rng(0))
    settings = BacktestSettings(0.9, free=True)
    first = play(known, population, settings, np.random.default_rng(1))
    turned = replace(
        known,
        score=np.where(first.paid, known.score, 1.0 - known.score),
        cost_usd=np.where(first.paid, known.cost_usd, 3.0 * known.cost_usd),
    )
    second = play(turned, population, settings, np.random.default_rng(1))
    assert (first.paid == second.paid).all()
    assert (first.choice == second.choice).all()


def test_a_floor_that_nobody_reaches_ends_with_every_answer_bought_that_could_help() -> None:
    answer, _ = backtest(TABLE.slice(0, 300), BacktestSettings(1.0, free=True))
    assert not answer["mean"]["met"]


def test_a_cascade_costs_its_first_step_and_what_fails_of_it_the_next() -> None:
    known, _ = read(TABLE)
    population = population_of(known, np.random.default_rng(0)).plain()
    priors = np.array([0.5, 0.5, 0.9])
    predictor = fit(no_observations(), population, priors)
    score = known_scores(no_observations(), known.score.shape)
    (part,) = cascades(
        predictor,
        population,
        score,
        known.cost_usd,
        np.ones(known.score.shape, bool),
        np.random.default_rng(0),
    )
    assert part.steps[0] == ()
    assert np.isinf(part.cost_usd[:, 0]).all()  # nothing is held that could be left as it is
    for place, order in enumerate(part.steps[1:], 1):
        assert len(set(order)) == len(order)
        assert (part.cost_usd[:, place] >= known.cost_usd[part.row, order[0]] - 1e-12).all()
        assert (part.cost_usd[:, place] <= known.cost_usd[part.row][:, list(order)].sum(axis=1) + 1e-12).all()
        assert (part.quality[:, place] >= priors[list(order)].max() - 0.05).all()


def test_of_many_endpoints_those_are_put_in_order_that_are_somebodys_best() -> None:
    """Forty have 59,280 orders of three: a night of as many would never begin."""
    known, _ = read(TABLE)
    population = population_of(known, np.random.default_rng(0)).plain()
    worth = np.concatenate(
        [np.linspace(0.4, 0.9, 20), np.full(20, 0.3)]
    )  # the latter dearer than any, and worse
    cost = np.repeat(known.cost_usd[:, :1], 40, axis=1) * np.concatenate(
        [np.linspace(1, 30, 20), np.full(20, 50)]
    )
    predictor = fit(no_observations(), population, worth)
    (part,) = cascades(
        predictor,
        population,
        np.full(cost.shape, np.nan),
        cost,
        np.ones(cost.shape, bool),
        np.random.default_rng(0),
    )
    assert {order[0] for order in part.steps if len(order) == 1} == set(range(40))
    further = {endpoint for order in part.steps if len(order) > 1 for endpoint in order}
    assert 1 < len(further) <= WIDE
    assert further <= set(range(20))


def test_what_failed_is_expected_to_fail_elsewhere_more_often_than_what_was_not_tried() -> None:
    known, _ = read(TABLE)
    population = population_of(known, np.random.default_rng(0)).plain()
    rows, both = np.arange(300), known.score[:300].copy()
    both[::2] *= both[::2, :1]  # where the first fails, the others fail in every other row
    seen = Observations(np.repeat(rows, 3), np.tile(np.arange(3, dtype=np.int32), 300), both.ravel())
    predictor = fit(seen, population, np.full(3, np.nan))
    some = np.arange(400, 650)
    score = known_scores(Observations(some, np.zeros(250, np.int32), np.zeros(250)), known.score.shape)
    allowed, rng = np.ones(score.shape, bool), np.random.default_rng(0)
    failed, fresh = cascades(predictor, population, score, known.cost_usd, allowed, rng, depth=1)
    if 400 in fresh.row:
        failed, fresh = fresh, failed
    for task in range(len(known.tasks)):
        mended = failed.quality[known.task[failed.row] == task, failed.steps.index((2,))]
        untried = fresh.quality[known.task[fresh.row] == task, fresh.steps.index((2,))]
        assert mended.mean() < untried.mean()


def test_requests_that_are_alike_are_reckoned_once_and_cost_the_same_as_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, kinds, priors = 400, 40, np.array([0.5, 0.9])
    kind = np.arange(rows) % kinds
    population = Population((kind % 3).astype(np.int32), np.zeros((rows, 0), np.float32), 3)
    cost = np.stack([0.01 + 0.001 * kind, 0.1 + 0.01 * kind], axis=1)
    cost[kind == 7, 0] = np.inf
    predictor = fit(no_observations(), population, priors)
    given = predictor, population, no_observations(), cost, QualityTarget(0.8)
    weighed: list[int] = []
    real = cascade_columns._columns
    monkeypatch.setattr(cascade_columns, "SAMPLE", rows - 1)
    monkeypatch.setattr(cascade_columns, "FEW_KINDS", kinds - 1)
    monkeypatch.setattr(
        cascade_columns,
        "_columns",
        lambda given, some, *more: (weighed.append(len(some)), real(given, some, *more)),
    )
    together = cascade_columns.cascade_columns(*given, np.random.default_rng(0), told=False)
    monkeypatch.setattr(cascade_columns, "_distinct", lambda _, some: (np.arange(rows), np.arange(rows)))
    one_by_one = cascade_columns.cascade_columns(*given, np.random.default_rng(0), told=False)
    assert weighed == [kinds, rows]
    np.testing.assert_array_equal(together.prices, one_by_one.prices)
    price = one_by_one.prices[population.task][
        :, None
    ]  # who has just this price may as well be left as sent on
    net = [found.cost_usd - price * found.quality for found in (together, one_by_one)]
    np.testing.assert_allclose(
        *net, rtol=1e-5, atol=1e-6
    )  # prices of requests alike are told apart by so much
    marginal = (together.follower != one_by_one.follower).any(axis=1)
    assert len(set(kind[marginal])) <= 1


@pytest.mark.parametrize("sample", [20_000, 500])
def test_of_requests_that_are_alike_as_many_are_sent_on_as_the_floor_needs(
    monkeypatch: pytest.MonkeyPatch, sample: int
) -> None:
    """Neither none, so that others would be asked at once at ten times the price, nor all."""
    monkeypatch.setattr(cascade_columns, "SAMPLE", sample)
    rows = 2_000
    population = Population(np.zeros(rows, np.int32), np.zeros((rows, 0), np.float32), 1)
    predictor = fit(no_observations(), population, np.array([0.6, 0.95]))
    cost = np.tile([0.01, 0.1], (rows, 1))
    found = cascade_columns.cascade_columns(
        predictor,
        population,
        no_observations(),
        cost,
        QualityTarget(0.75),
        np.random.default_rng(0),
        told=False,
    )
    reached = found.quality[:, 0].mean()
    assert reached == pytest.approx(0.75, abs=0.01)
    assert 0 < (found.follower[:, 0] == 1).mean() < 1


@pytest.mark.parametrize(
    ("barred", "follows"), [(Barred(first=frozenset({1})), True), (Barred(later=frozenset({1})), False)]
)
def test_who_is_barred_first_may_still_be_asked_about_what_failed_and_the_other_way_round(
    barred: Barred, *, follows: bool
) -> None:
    population = Population(np.zeros(40, np.int32), np.zeros((40, 0), np.float32), 1)
    predictor = fit(no_observations(), population, np.array([0.6, 0.95]))
    cost = np.tile([0.01, 0.1], (40, 1))
    found = cascade_columns.cascade_columns(
        predictor, population, no_observations(), cost, QualityTarget(0.9), np.random.default_rng(0),
        told=False, barred=barred,
    )  # fmt: skip
    assert np.isfinite(found.cost_usd[:, 0]).all()
    assert (np.isfinite(found.cost_usd[:, 1]) != follows).all()
    assert (found.follower[:, 0] == 1).any() == follows


def test_the_high_figure_knows_that_a_night_of_few_requests_may_be_a_hard_one() -> None:
    """What the endpoints are worth is known from 4,000 earlier requests; which 300 come tonight is luck."""
    rng, rows = np.random.default_rng(5), 300
    worth, price, floor = np.array([0.6, 0.9]), np.array([0.1, 1.0]), 0.75
    past = PastScores(
        np.zeros(8_000, np.int32), np.tile(np.arange(2, dtype=np.int32), 4_000),
        (rng.random((4_000, 2)) < worth).astype(float).ravel(), request=np.repeat(np.arange(4_000), 2),
    )  # fmt: skip
    population = Population(np.zeros(rows, np.int32), np.zeros((rows, 0), np.float32), 1)
    predictor = fit(no_observations(), population, worth, past=past)
    found = cascade_columns.cascade_columns(
        predictor, population, no_observations(), np.tile(price, (rows, 1)), QualityTarget(floor), rng
    )
    expected = dict(found.points)
    low, high = max(f for f in expected if f <= floor), min(f for f in expected if f >= floor)
    bill = float(np.interp(floor, [low, high], [expected[low], expected[high]]))
    bills = []
    for _ in range(400):
        right = rng.random((rows, 2)) < worth
        held, failed = int(right[:, 0].sum()), np.flatnonzero(~right[:, 0])
        gained = held + np.cumsum(right[failed, 1])
        asked = 0 if held >= floor * rows else int(np.searchsorted(gained, floor * rows)) + 1
        bills.append(rows * price[0] + asked * price[1])
    within = np.mean(np.array(bills) <= found.high * bill)
    assert 0.88 < within < 1.0
