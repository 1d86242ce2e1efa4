from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from thirdshift.router.learning.greedy_path import climb
from thirdshift.router.learning.pilot import PART, next_round, stratified
from thirdshift.router.learning.quality_target import QualityTarget, standing
from thirdshift.router.learning.situation import Situation
from thirdshift.router.learning.value_of_information import look_out
from thirdshift.router.prediction import features
from thirdshift.router.prediction.difficulty import difficulty
from thirdshift.router.prediction.drift import worse
from thirdshift.router.prediction.features import in_chunks, learn
from thirdshift.router.prediction.mixed_model import Covariances, condition, looked_at
from thirdshift.router.prediction.observations import Observations, PastScores, Population, no_observations
from thirdshift.router.prediction.predict import crossed, fit, telling

UNKNOWN = np.array([np.nan, np.nan, np.nan])


def some_population(n: int, tasks: int, width: int, rng: np.random.Generator) -> Population:
    text = rng.standard_normal((n, width)).astype(np.float32)
    return Population(rng.integers(0, tasks, n).astype(np.int32), text, tasks)


def some_pairs(n: int, width: int, count: int, rng: np.random.Generator) -> Observations:
    pairs = rng.permutation(n * width)[:count]
    return Observations(pairs // width, (pairs % width).astype(np.int32), rng.random(count))


def every_pair(rows: np.ndarray, score: np.ndarray) -> Observations:
    width = score.shape[1]
    row, endpoint = np.repeat(rows, width), np.tile(np.arange(width, dtype=np.int32), len(rows))
    return Observations(row, endpoint, score[row, endpoint])


def calibration_error(quality: np.ndarray, observations: Observations, bins: int = 10) -> float:
    """How far predictions are off on the average: over bins of predicted quality, |mean predicted - mean score|, by size.

    Chance alone gives about 0.4 / sqrt(scores a bin).
    """
    predicted = np.asarray(quality, dtype=np.float64)[observations.row, observations.endpoint]
    bucket = np.minimum((predicted * bins).astype(np.int64), bins - 1)
    off = np.bincount(bucket, predicted - observations.score, minlength=bins)
    return float(np.abs(off).sum() / len(observations))


def dense(population: Population, cov: Covariances, width: int) -> np.ndarray:
    """The covariance of all scores of all requests, written out."""
    n = len(population)
    row, e = np.repeat(np.arange(n), width), np.tile(np.arange(width), n)
    text = population.text.astype(float) @ population.text.astype(float).T
    both = np.ix_(e, e)
    same_task = population.task[row][:, None] == population.task[row]
    return (
        cov.ability[both]
        + cov.skill[both] * same_task
        + cov.slope[both] * text[np.ix_(row, row)]
        + cov.residual[both] * (row[:, None] == row)
    )


def test_means_and_their_error_are_those_of_the_dense_gaussian() -> None:
    """Tasks eliminated, patterns grouped, chunks summed: the same as conditioning on one large matrix."""
    rng = np.random.default_rng(0)
    n, width = 30, 3
    plain = some_population(n, 3, 2, rng)
    population = Population(plain.task, plain.text, 3, rng.random(n) + 0.5)
    seen = some_pairs(n, width, 25, rng)
    priors = np.array([0.4, 0.6, np.nan])
    predictor = fit(seen, population, priors, rounds=3)
    choice = rng.integers(-1, width, n)
    mean, covariance = predictor.means(population, choice, (0, 2))

    whole = dense(population, predictor.tempered, width)
    at = seen.row * width + seen.endpoint
    centre = np.tile([0.4, 0.6, 0.5], n)
    gain = np.linalg.solve(whole[np.ix_(at, at)], whole[at]).T
    expected, left = centre + gain @ (seen.score - centre[at]), whole - gain @ whole[at]
    asked = np.zeros((3, n, width))
    served = choice >= 0
    asked[0, np.flatnonzero(served), choice[served]] = population.weight[served]
    asked[1, :, 0] = asked[2, :, 2] = population.weight
    asked = asked.reshape(3, -1) / population.weight.sum()
    np.testing.assert_allclose(mean, asked @ expected, atol=1e-9)
    np.testing.assert_allclose(covariance, asked @ left @ asked.T, atol=1e-9)


def test_the_evidence_is_the_likelihood_of_the_scores() -> None:
    rng = np.random.default_rng(1)
    population, seen = some_population(12, 3, 2, rng), some_pairs(12, 3, 20, rng)
    cov = Covariances.first(3, 2, 3, np.zeros(3, dtype=bool))
    at = seen.row * 3 + seen.endpoint
    inside = dense(population, cov, 3)[np.ix_(at, at)]
    for abilities in (np.array([0.5, 0.6, 0.7]), np.zeros(3)):
        off = seen.score - abilities[seen.endpoint]
        right = -0.5 * (off @ np.linalg.solve(inside, off) + np.linalg.slogdet(inside)[1])
        assert condition(looked_at(seen, population, 3), cov, abilities).evidence == pytest.approx(right)


def a_world(rng: np.random.Generator, n: int = 3000, tasks: int = 20) -> tuple[Population, np.ndarray]:
    """Three endpoints, better and better; tasks of every difficulty; text that tells nothing."""
    population = some_population(n, tasks, 4, rng)
    hard = rng.normal(0, 1.5, tasks)[population.task] + rng.normal(0, 1, n)
    chance = 1 / (
        1
        + np.exp(hard[:, None] - np.array([0.0, 1.0, 2.0]) - rng.normal(0, 0.5, (tasks, 3))[population.task])
    )
    return population, (rng.random((n, 3)) < chance).astype(float)


def test_predictions_are_calibrated_and_better_than_the_means() -> None:
    rng = np.random.default_rng(2)
    population, score = a_world(rng)
    rows = stratified(population, 400, rng)
    quality = fit(every_pair(rows, score), population, UNKNOWN).predict(population).astype(float)
    rest = np.setdiff1d(np.arange(len(population)), rows)
    fixed = ((score[rows].mean(axis=0) - score[rest]) ** 2).mean()
    assert ((quality[rest] - score[rest]) ** 2).mean() < 0.9 * fixed
    assert calibration_error(quality, every_pair(rest, score)) < 0.06


def test_the_error_of_a_mean_is_honest() -> None:
    """Over 60 pilots the truth lies within 1.645 spreads below what is believed about as often as it should."""
    missed = 0
    for seed in range(60):
        rng = np.random.default_rng([3, seed])
        population, score = a_world(rng, 1500)
        predictor = fit(every_pair(stratified(population, 150, rng), score), population, UNKNOWN)
        at = standing(predictor, population, np.full(1500, 2), QualityTarget(0.0))
        missed += score[:, 2].mean() < at.quality - 1.645 * at.spread
    assert missed <= 9  # 3 expected; 10 or more is a chance of one in 1,000


def test_who_was_asked_where_another_failed_is_not_believed_to_be_better_than_always_right_elsewhere() -> (
    None
):
    """So a second night knows what mending costs: the first has asked the dear one about failed answers alone."""
    rng = np.random.default_rng(4)
    right = (rng.random((600, 2)) < [0.55, 0.84]).astype(float)
    failed = np.flatnonzero(right[:, 0] == 0.0)
    first = Observations(np.arange(600), np.zeros(600, np.int32), right[:, 0])
    then = Observations(failed, np.ones(len(failed), np.int32), right[failed, 1])
    population = some_population(600, 1, 0, rng)
    quality = fit(first.plus(then), population, np.array([0.55, 0.84])).predict(population)[0]
    mended = right[failed, 1].mean()
    assert quality[0] == pytest.approx(right[:, 0].mean(), abs=0.02)
    assert mended - 0.02 < quality[1] < quality[0] + (1.0 - quality[0]) * mended + 0.01


def test_text_is_used_where_it_tells_and_left_where_it_does_not() -> None:
    rng = np.random.default_rng(4)
    n = 2000
    population = some_population(n, 1, 6, rng)
    telltale = 1 / (1 + np.exp(-1.5 * population.text[:, 2] - np.array([[0.0], [0.5], [1.0]]))).T
    told = (rng.random((n, 3)) < telltale).astype(float)
    blind = (rng.random((n, 3)) < np.array([0.5, 0.6, 0.7])).astype(float)
    rows = stratified(population, 300, rng)
    assert telling(every_pair(rows, told), population, UNKNOWN).text.shape[1] == 6
    assert telling(every_pair(rows, blind), population, UNKNOWN).text.shape[1] == 0


def test_tasks_that_differ_widely_are_seen_to_and_others_are_not_made_to() -> None:
    """Whether endpoints have favourite tasks is learnt: from 100 requests of 50 tasks where they do, and from nothing but
    three tasks it is not supposed."""

    def favouring(tasks: int, spread: float, seed: int) -> float:
        """How far skills at a task are believed to differ between endpoints: a standard deviation."""
        rng = np.random.default_rng([18, seed])
        population = some_population(3000, tasks, 0, rng)
        skill = 0.5 + 0.2 * rng.standard_normal((tasks, 1)) + spread * rng.standard_normal((tasks, 5))
        score = (rng.random((3000, 5)) < skill[population.task]).astype(float)
        seen = every_pair(stratified(population, 100, rng), score)
        learnt = fit(seen, population, np.full(5, np.nan)).covariances.skill
        own = np.diag(learnt).mean() - learnt[~np.eye(5, dtype=bool)].mean()
        return float(np.sqrt(own))

    wide = np.mean([favouring(50, 0.2, seed) for seed in range(5)])
    none = np.mean([favouring(3, 0.0, seed) for seed in range(5)])
    assert wide > 0.09
    assert none < 0.055


def test_where_nothing_tells_the_plan_is_the_best_mix_of_fixed_endpoints() -> None:
    rng = np.random.default_rng(5)
    n = 4000
    population = some_population(n, 1, 0, rng)
    score = (rng.random((n, 3)) < np.array([0.5, 0.55, 0.9])).astype(float)
    cost = np.tile([1.0, 9.0, 10.0], (n, 1))  # the middle one is never a bargain
    predictor = fit(every_pair(stratified(population, 400, rng), score), population, UNKNOWN)
    outlook = look_out(predictor, population, predictor.predict(population), cost, QualityTarget(0.7))
    shares = np.bincount(outlook.choice, minlength=3) / n
    assert shares[1] == 0
    need = 0.7 + outlook.standing.margin
    quality = predictor.predict(population)[0].astype(float)
    assert shares[2] == pytest.approx((need - quality[0]) / (quality[2] - quality[0]), abs=0.03)


def test_no_request_is_predicted_with_its_own_scores() -> None:
    rng = np.random.default_rng(6)
    population, score = a_world(rng, 500)
    rows = stratified(population, 100, rng)
    seen = every_pair(rows, score)
    predictor = fit(seen, population, UNKNOWN)
    quality = crossed(predictor, seen, population, UNKNOWN, np.random.default_rng(0))
    turned = Observations(seen.row, seen.endpoint, np.where(seen.row == rows[0], 1 - seen.score, seen.score))
    again = crossed(predictor, turned, population, UNKNOWN, np.random.default_rng(0))
    np.testing.assert_array_equal(quality[rows[0]], again[rows[0]])
    assert (quality[rows[1:]] != again[rows[1:]]).any()


def test_features_tell_long_from_short_and_need_no_score() -> None:
    texts = [f"what is {i} plus {i * 7}?" * (1 + i % 5) for i in range(300)] + ["翻译成英文你好"] * 100
    text_map = learn(texts, np.random.default_rng(0))
    whole = text_map.transform(texts)
    assert whole.shape == (400, text_map.width)
    assert np.isfinite(whole).all()
    parts = in_chunks(text_map, [texts[:150], texts[150:]])
    np.testing.assert_allclose(whole, parts, atol=1e-4)
    assert abs(whole[300:].mean(axis=0) - whole[:300].mean(axis=0)).max() > 1
    assert text_map.transform(["", "\x00" * 10_000]).shape == (2, text_map.width)


def test_a_ladder_is_the_cheapest_at_every_step() -> None:
    rng = np.random.default_rng(8)
    cost, quality = rng.random((40, 4)), rng.random((40, 4))
    ladder = climb(cost, quality)
    line = np.arange(40)
    for steps in (0, 5, 20, len(ladder)):
        choice = ladder.at(steps)
        usd, mean = cost[line, choice].sum(), quality[line, choice].sum()
        for multiplier in np.logspace(-3, 3, 25):
            other = (cost - multiplier * quality).argmin(axis=1)
            assert not (quality[line, other].sum() >= mean + 1e-9 and cost[line, other].sum() < usd - 1e-9)
    assert (ladder.at(len(ladder)) == quality.argmax(axis=1)).all()


def test_a_request_allowed_nowhere_is_served_by_nobody() -> None:
    allowed = np.array([[True, True], [False, False], [False, True]])
    choice = climb(np.ones((3, 2)), np.array([[0.1, 0.9]] * 3), allowed)
    assert choice.at(len(choice)).tolist() == [1, -1, 1]


def a_situation(population: Population, seen: Observations, **other: object) -> Situation:
    cost = np.tile([1.0, 5.0, 100.0], (len(population), 1))
    given = {"pilot": 200, "looks": 10_000, "rounds": 1 if len(seen) else 0} | other
    return Situation(population, cost, None, UNKNOWN, QualityTarget(0.95, (0, 1, 2)), seen, **given)  # type: ignore[arg-type]


def test_a_pilot_ends_and_stays_within_what_is_allowed() -> None:
    rng = np.random.default_rng(9)
    population, score = a_world(rng)
    seen, rounds = no_observations(), 0
    while (looks := next_round(a_situation(population, seen, rounds=rounds, looks=700), rng)) is not None:
        pairs = looks.row * 3 + looks.endpoint
        assert len(np.unique(pairs)) == len(pairs)
        assert not np.isin(pairs, seen.row * 3 + seen.endpoint).any()
        seen = seen.plus(Observations(looks.row, looks.endpoint, score[looks.row, looks.endpoint]))
        rounds += 1
    assert 2 <= rounds <= 6
    assert len(seen) <= 700
    assert len(np.unique(seen.row)) <= 200


def test_the_first_round_is_drawn_from_what_can_be_looked_at() -> None:
    """Where one request in fifty has a reference, a draw of all would meet one or two of them."""
    for seed in range(10):
        rng = np.random.default_rng([18, seed])
        population, _ = a_world(rng)
        scorable = np.zeros((len(population), 3), bool)
        scorable[rng.permutation(len(population))[: len(population) // 50]] = True
        situation = a_situation(population, no_observations())
        looks = next_round(replace(situation, allowed=scorable), rng)
        assert looks is not None
        assert scorable[looks.row].all()
        assert len(looks) == np.minimum(situation.first, len(population) // 50).sum()


def test_a_pilot_cut_short_is_a_sample_of_the_whole_input() -> None:
    """Inputs come sorted, by task or by day: what a limit cuts off a round must not be the end of the file."""
    places = []
    for seed in range(20):
        rng = np.random.default_rng([17, seed])
        population, score = a_world(rng)
        seen = every_pair(stratified(population, 80, rng), score)
        looks = next_round(a_situation(population, seen, pilot=140), rng)
        assert looks is not None
        places.append(np.setdiff1d(looks.row, seen.row) / len(population))
    every = np.concatenate(places)
    assert abs(every.mean() - 0.5) < 4 * np.sqrt(1 / 12 / len(every))


def test_past_nights_replace_the_first_looks() -> None:
    rng = np.random.default_rng(15)
    population, score = a_world(rng)
    rows = rng.integers(0, len(population), 900)
    endpoint = (np.arange(900) % 3).astype(np.int32)
    past = PastScores(population.task[rows], endpoint, score[rows, endpoint])
    first = next_round(a_situation(population, no_observations(), past=past), rng)
    alone = next_round(a_situation(population, no_observations()), rng)
    assert alone is not None
    assert first is None or (first.endpoint == 2).sum() < (alone.endpoint == 2).sum()
    blank = fit(no_observations(), population, UNKNOWN).predict(population)
    taught = fit(no_observations(), population, UNKNOWN, past=past).predict(population)
    assert ((taught - score) ** 2).mean() < 0.95 * ((blank - score) ** 2).mean()


def test_dear_endpoints_are_tried_on_fewer_requests() -> None:
    rng = np.random.default_rng(10)
    population, score = a_world(rng)
    seen = every_pair(stratified(population, 40, rng), score)
    looks = next_round(a_situation(population, seen, pilot=2000), rng)
    assert looks is not None
    tried = np.bincount(looks.endpoint, minlength=3)
    assert tried[:2].sum() > tried[2]


def test_a_cheap_endpoint_that_was_unlucky_at_first_is_tried_again() -> None:
    """Belief is drawn from many times a round, so what may yet be the bargain gets its share; and scores are left over."""
    rng = np.random.default_rng(16)
    population = some_population(3000, 1, 0, rng)
    score = (rng.random((3000, 3)) < np.array([0.7, 0.66, 0.9])).astype(
        float
    )  # the second looks a little worse
    seen = every_pair(stratified(population, 80, rng), score)
    situation = a_situation(population, seen, pilot=1500, looks=700)
    situation = replace(situation, cost_usd=np.tile([1.0, 1.0, 100.0], (3000, 1)))
    looks = next_round(situation, np.random.default_rng(0))
    assert looks is not None
    fresh = looks.endpoint[~np.isin(looks.row, seen.row)]
    tried = np.bincount(fresh, minlength=3)
    assert min(tried[0], tried[1]) >= 10
    assert len(fresh[fresh < 2]) <= (700 - len(seen)) // 2 + 60


def test_a_pilot_looks_only_where_policy_allows() -> None:
    rng = np.random.default_rng(11)
    population, _ = a_world(rng, 400)
    allowed = np.ones((400, 3), dtype=bool)
    allowed[:, 2] = population.task < 10
    situation = Situation(
        population, np.ones((400, 3)), allowed, UNKNOWN, QualityTarget(0.5), no_observations(), 50, 10_000
    )
    looks = next_round(situation, rng)
    assert looks is not None
    assert allowed[looks.row, looks.endpoint].all()


def test_a_large_input_is_planned_on_a_part_that_stands_for_it() -> None:
    rng = np.random.default_rng(12)
    population, score = a_world(rng, PART * 3)
    seen = every_pair(stratified(population, 60, rng), score)
    looks = next_round(a_situation(population, seen, pilot=1000), rng)
    assert looks is not None
    assert looks.row.max() > PART


def test_a_model_that_got_worse_is_named_and_no_other() -> None:
    rng = np.random.default_rng(14)
    said = 0
    for _ in range(100):
        expected = rng.uniform(0.5, 0.95, 600)
        endpoint = np.repeat(np.arange(3, dtype=np.int32), 200)
        score = (rng.random(600) < expected).astype(float)
        seen = Observations(np.arange(600), endpoint, score)
        said += len(worse(("a", "b", "c"), seen, expected))
        fallen = np.where(endpoint == 1, (rng.random(600) < expected - 0.25).astype(float), score)
        found = worse(("a", "b", "c"), Observations(np.arange(600), endpoint, fallen), expected)
        assert "b" in [drift.endpoint for drift in found]
        assert "b got worse" in next(d for d in found if d.endpoint == "b").sentence()
    assert said <= 4


@pytest.mark.parametrize("seed", range(8))
def test_texts_that_are_nearly_alike_have_directions_too(seed: int) -> None:
    texts = [
        f"What is {n} plus {n * 7}?" for n in range(200)
    ]  # the sparse solver gives up on these, by the seed
    columns = features.learn(texts, np.random.default_rng(seed)).transform(texts)
    assert np.isfinite(columns).all()
    assert (columns.std(axis=0) > 0.5).sum() >= 16


def test_directions_by_either_solver_keep_as_much_of_the_texts() -> None:
    words = sparse.random(60, features.BUCKETS, 0.001, format="csr", dtype=np.float32, random_state=1)
    by_sparse = features._directions(words, np.random.default_rng(0))
    by_dense = features._dense_directions(words, features.DIRECTIONS)
    kept = [float(np.linalg.norm(words @ directions)) for directions in (by_sparse, by_dense)]
    assert kept[1] == pytest.approx(kept[0], rel=1e-3)


def wrong_is_harder(hard: np.ndarray, wrong: np.ndarray) -> float:
    """The chance that of two requests the one that was wrong is told to be the harder; ties count half."""
    more = hard[wrong][:, None] - hard[~wrong][None, :]
    return float((more > 0).mean() + 0.5 * (more == 0).mean())


def test_what_was_answered_in_the_pilot_is_not_told_to_be_the_harder() -> None:
    rng = np.random.default_rng(12)
    n, tasks = 4000, 8
    population = some_population(n, tasks, 4, rng)
    hard = rng.normal(0, 1.0, tasks)[population.task] + 1.2 * population.text[:, 1] + rng.normal(0, 0.5, n)
    score = (rng.random((n, 3)) < 1 / (1 + np.exp(hard[:, None] - np.array([0.0, 0.5, 1.0])))).astype(float)
    rows = stratified(population, 300, rng)
    seen = every_pair(rows, score)
    told = difficulty(seen, population, UNKNOWN)
    rest = np.setdiff1d(np.arange(n), rows)
    for some in (rows, rest):
        within = [
            wrong_is_harder(told[part], score[part, 1] < 0.5)
            for part in (some[population.task[some] == task] for task in range(tasks))
        ]
        assert np.mean(within) > 0.6, "within a task, too"
    plain = difficulty(seen, population.plain(), UNKNOWN)
    for task in range(tasks):
        assert len(np.unique(plain[population.task == task])) == 1, "a task's requests have one level"


def test_difficulty_is_unknown_where_nothing_tells_one_request_from_another() -> None:
    rng = np.random.default_rng(13)
    population = some_population(500, 1, 4, rng)
    score = (rng.random((500, 3)) < 0.5).astype(float)
    assert np.isnan(difficulty(every_pair(np.arange(200), score), population, UNKNOWN)).all()
    assert np.isnan(difficulty(no_observations(), some_population(500, 3, 4, rng), UNKNOWN)).all()
