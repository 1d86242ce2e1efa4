"""Lengths of answers: learnt from a pilot, honest about what was not seen, cut where answers are cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thirdshift.router.tokens.output_lengths import Observed, OutputModel, cost_high, fit

CAP = 1024


def lognormal(rng: np.random.Generator, n: int, level: float = 5.0, sigma: float = 0.7) -> np.ndarray:
    return np.minimum(np.exp(rng.normal(level, sigma, n)).astype(np.int64) + 1, CAP)


def learn(tokens: np.ndarray, task: np.ndarray | None = None, tasks: int = 1) -> OutputModel:
    n = len(tokens)
    task = np.zeros(n, np.int64) if task is None else task
    caps = np.full(n, CAP)
    seen = Observed(task, np.zeros(n, np.int64), tokens, caps)
    return fit(seen, tasks=tasks, endpoints=2, max_tokens=caps)


@pytest.mark.parametrize("level", [5.0, 6.2])
@pytest.mark.parametrize("tasks", [1, 5])
def test_a_pilot_of_200_foretells_the_total_and_its_high_figure(level: float, tasks: int) -> None:
    near = passed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        task = rng.integers(0, tasks, 4_000)
        tokens = lognormal(rng, 4_000, level)
        pilot = rng.choice(4_000, 200, replace=False)
        total = learn(tokens[pilot], task[pilot], tasks).total(task, np.full(4_000, CAP), 0)
        near += abs(total.mean / tokens.sum() - 1) <= 0.10
        passed += tokens.sum() > total.high
    assert near >= 32
    assert passed <= 5


def test_lengths_that_are_no_lognormal_at_all_are_foretold_too() -> None:
    rng = np.random.default_rng(1)
    tokens = np.where(rng.random(5_000) < 0.9, 3, 800)
    pilot = tokens[:400]
    total = learn(pilot).total(np.zeros(5_000, np.int64), np.full(5_000, CAP), 0)
    assert total.mean == pytest.approx(tokens.sum(), rel=0.2)
    assert tokens.sum() < total.high


def test_answers_cut_at_the_ceiling_mean_that_a_higher_one_brings_more() -> None:
    rng = np.random.default_rng(2)
    lengths = np.exp(rng.normal(6, 0.7, 3_000))
    seen = np.minimum(lengths, 400).astype(np.int64)
    caps = np.full(3_000, 400)
    model = fit(
        Observed(np.zeros(3_000, int), np.zeros(3_000, int), seen, caps),
        tasks=1,
        endpoints=1,
        max_tokens=caps,
    )
    task = np.zeros(3_000, int)
    assert model.mean(task, caps, 0).sum() == pytest.approx(seen.sum(), rel=0.05)
    assert model.mean(task, np.full(3_000, 4_000), 0).sum() == pytest.approx(lengths.sum(), rel=0.10)


def test_a_task_seen_once_borrows_and_a_task_seen_often_does_not() -> None:
    rng = np.random.default_rng(3)
    task = np.repeat([0, 1], [100, 100])
    tokens = np.where(task == 0, lognormal(rng, 200, 3.0), lognormal(rng, 200, 6.0))
    model = learn(np.append(tokens, 1000), np.append(task, 2), tasks=4)
    means = model.mean(np.arange(4), np.full(4, CAP), 0)
    assert means[0] == pytest.approx(tokens[:100].mean(), rel=0.15)
    assert means[1] == pytest.approx(tokens[100:].mean(), rel=0.15)
    assert means[0] < means[3] < means[1]
    assert means[2] > means[3]


def test_an_endpoint_never_tried_borrows_with_a_wider_doubt() -> None:
    model = learn(lognormal(np.random.default_rng(4), 200))
    task, caps = np.zeros(1_000, int), np.full(1_000, CAP)
    tried, untried = model.total(task, caps, 0), model.total(task, caps, 1)
    assert untried.mean == pytest.approx(tried.mean, rel=0.5)
    assert untried.sd > 3 * tried.sd


def test_tasks_beyond_counting_share_one_level_and_the_often_seen_keep_theirs() -> None:
    rng = np.random.default_rng(8)
    task = np.concatenate([np.zeros(100, np.int64), rng.integers(1, 50_000, 100)])
    tokens = np.where(task == 0, 10, 400)
    model = learn(tokens, task, tasks=50_000)
    means = model.mean(np.array([0, 1, 49_999]), np.full(3, CAP), 0)
    assert means[0] < 20
    assert means[1:] == pytest.approx(400, rel=0.3)


def test_a_look_up_by_task_and_ceiling_is_the_same_as_one_by_one() -> None:
    rng = np.random.default_rng(9)
    model = learn(lognormal(rng, 200), rng.integers(0, 3, 200), tasks=3)
    task, caps = rng.integers(0, 3, 500), rng.choice([8, 100, CAP], 500)
    singly = [model.mean(task[i : i + 1], caps[i : i + 1], 0)[0] for i in range(500)]
    assert model.mean(task, caps, 0) == pytest.approx(singly, rel=1e-6)


def test_a_wordy_endpoint_is_expected_to_be_wordy_on_a_task_it_was_not_tried_on() -> None:
    rng = np.random.default_rng(10)
    task, endpoint = np.repeat([0, 1, 2, 3, 0, 1, 2], 40), np.repeat([0, 0, 0, 0, 1, 1, 1], 40)
    tokens = np.exp(3 + 2.0 * endpoint + rng.normal(0, 0.3, len(task))).astype(np.int64)
    caps = np.full(len(task), 4 * CAP)
    model = fit(Observed(task, endpoint, tokens, caps), tasks=4, endpoints=2, max_tokens=caps)
    terse, wordy = (model.mean(np.array([3]), np.array([4 * CAP]), e)[0] for e in (0, 1))
    assert wordy / terse == pytest.approx(np.exp(2.0), rel=0.35)


def test_before_any_answer_there_is_a_prior_and_it_knows_little() -> None:
    caps = np.full(1_000, CAP)
    model = fit(None, tasks=2, endpoints=2, max_tokens=caps)
    total = model.total(np.zeros(1_000, int), caps, 1)
    assert 0 < total.mean < total.high <= caps.sum()
    assert total.sd > 0.3 * total.mean
    assert model.mean(np.zeros(1, int), np.array([8]), 0)[0] <= 8


def test_earlier_nights_help_and_tonight_outweighs_them() -> None:
    rng = np.random.default_rng(5)
    caps = np.full(5_000, CAP)
    zeros = np.zeros(5_000, int)
    past = Observed(zeros, zeros, lognormal(rng, 5_000, 4.0), caps)
    now = Observed(zeros[:300], zeros[:300], lognormal(rng, 300, 6.0), caps[:300])
    before = fit(None, tasks=1, endpoints=1, max_tokens=caps, history=past)
    assert before.mean(zeros, caps, 0).mean() == pytest.approx(past.output_tokens.mean(), rel=0.1)
    both = fit(now, tasks=1, endpoints=1, max_tokens=caps, history=past)
    middle = (past.output_tokens.mean() + now.output_tokens.mean()) / 2
    assert both.mean(zeros, caps, 0).mean() > middle


def test_a_covariate_that_tells_the_length_is_used_and_noise_is_not() -> None:
    rng = np.random.default_rng(6)
    n = 2_000
    covariates = rng.normal(size=(n, 2))
    tokens = np.minimum(np.exp(4 + 0.6 * covariates[:, 0] + rng.normal(0, 0.3, n)), CAP).astype(np.int64) + 1
    caps, zeros = np.full(n, CAP), np.zeros(n, int)
    seen = Observed(zeros[:300], zeros[:300], tokens[:300], caps[:300], covariates[:300])
    model = fit(seen, tasks=1, endpoints=1, max_tokens=caps)
    assert model.slopes[0] == pytest.approx([0.6, 0.0], abs=0.07)
    told = model.mean(zeros[300:], caps[300:], 0, covariates[300:])
    assert np.corrcoef(told, tokens[300:])[0, 1] > 0.75


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 300)), max_size=30),
    st.integers(1, 200),
)
def test_no_figure_is_ever_beyond_what_can_be(answers: list[tuple[int, int, int]], cap: int) -> None:
    columns = np.array(answers, dtype=np.int64).reshape(-1, 3)
    seen = Observed(columns[:, 0], columns[:, 1], np.minimum(columns[:, 2], cap), np.full(len(columns), cap))
    model = fit(seen, tasks=4, endpoints=3, max_tokens=np.full(5, cap))
    for endpoint in range(3):
        mean = model.mean(np.arange(4), np.full(4, cap), endpoint)
        total = model.total(np.arange(4), np.full(4, cap), endpoint)
        assert (mean > 0).all()
        assert (mean <= cap).all()
        assert total.mean <= total.high + 1e-9
        assert total.high <= 4 * cap + 1e-6


def test_parts_of_a_bill_add_their_doubts_as_independent_ones() -> None:
    assert cost_high([10.0, 10.0], [3.0, 4.0]) == pytest.approx(20 * np.exp(1.96 * 5 / 20))
    assert cost_high([], []) == 0


def test_endpoints_of_one_model_share_what_one_of_them_has_shown() -> None:
    seen = lognormal(np.random.default_rng(3), 400)
    shared = learn(seen).of(np.array([0, 0]))
    task, cap = np.zeros(10, np.int64), np.full(10, CAP)
    assert np.array_equal(shared.mean(task, cap, 0), shared.mean(task, cap, 1))
    assert shared.mean(task, cap, 1).mean() == pytest.approx(seen.mean(), rel=0.05)
