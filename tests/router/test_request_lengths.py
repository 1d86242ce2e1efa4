"""What a request's answers tell of the length of its next one."""

from __future__ import annotations

import numpy as np

from thirdshift.router.tokens.output_lengths import Observed, fit
from thirdshift.router.tokens.request_lengths import PRIOR_ALIKE, RequestAnswers, expected_factor

SHARE, SIGMA = 0.6, 0.7


def deviations(requests: int, answers: int) -> tuple[np.ndarray, np.ndarray]:
    """[requests x answers] requests and the deviations of their answers, of which SHARE of the variance is alike."""
    rng = np.random.default_rng(1)
    own = rng.normal(0.0, np.sqrt(SHARE), requests)
    found = own[:, None] + rng.normal(0.0, np.sqrt(1 - SHARE), (requests, answers))
    return np.repeat(np.arange(requests), answers), found.ravel()


def test_the_share_is_what_answers_have_in_common_and_the_prior_where_none_was_answered_twice() -> None:
    request, deviation = deviations(4000, 3)
    assert abs(RequestAnswers.of(request, deviation).share(np.tile(np.arange(3), 4000)) - SHARE) < 0.03
    assert RequestAnswers.of(np.arange(50), np.ones(50)).share(np.zeros(50, int)) == PRIOR_ALIKE
    _, apart = deviations(4000, 1)
    assert abs(RequestAnswers.of(np.arange(4000) // 2, apart).share(np.tile([0, 1], 2000))) < 0.05


def test_the_expected_factor_is_right_in_the_mean_and_where_the_first_answers_were_short() -> None:
    request, deviation = deviations(40_000, 3)
    first, last = deviation.reshape(-1, 3)[:, :2], deviation.reshape(-1, 3)[:, 2]
    told = expected_factor(np.full(len(first), 2), first.sum(axis=1), SHARE, SIGMA)
    true = np.exp(SIGMA * last - SIGMA**2 / 2)
    short = first.sum(axis=1) < -1.0
    assert abs(told.mean() - 1.0) < 0.02
    assert abs(told[short].mean() / true[short].mean() - 1.0) < 0.03
    alone = expected_factor(np.zeros(1, int), np.zeros(1), SHARE, SIGMA)
    assert alone.tolist() == [1.0]
    others = RequestAnswers.of(request, deviation).told_by_others(SHARE, np.full(len(request), SIGMA))
    assert np.allclose(others.reshape(-1, 3)[:, 2], told)


def test_who_was_asked_about_short_requests_alone_is_not_taken_to_be_brief() -> None:
    """The first endpoint answers all, the second those that were short there: a night that sends the cheap ones on."""
    rng = np.random.default_rng(2)
    count = 4000
    own = rng.normal(0.0, np.sqrt(SHARE) * SIGMA, count)
    logs = 4.6 + own[:, None] + rng.normal(0.0, np.sqrt(1 - SHARE) * SIGMA, (count, 2))
    tokens = np.exp(logs).astype(np.int64) + 1
    short = np.flatnonzero(tokens[:, 0] < 80)
    every = np.arange(count)
    request = np.concatenate([every, short])
    endpoint = np.repeat([0, 1], [count, len(short)])
    seen = np.concatenate([tokens[:, 0], tokens[short, 1]])
    most = np.full(count, 4096)
    plain = Observed(np.zeros(len(seen), int), endpoint, seen, most[request])
    known = Observed(np.zeros(len(seen), int), endpoint, seen, most[request], request=request)
    task, true = np.zeros(count, int), tokens[:, 1].mean()

    def mean(observed: Observed) -> float:
        return float(fit(observed, tasks=1, endpoints=2, max_tokens=most).mean(task, most, 1).mean())

    assert abs(mean(known) / true - 1.0) < 0.5 * abs(mean(plain) / true - 1.0)


def test_a_request_that_was_answered_at_length_is_taken_to_be_long_elsewhere_and_never_above_its_ceiling() -> (
    None
):
    usual = np.full((3, 2), 100.0, np.float32)
    most = np.array([500, 500, 110])
    told = usual.copy()
    answers = RequestAnswers.of(np.array([1, 2]), np.array([-1.0, 2.0]))
    answers.have_told(told, most, SHARE, np.array([SIGMA, 0.3]))
    assert told[0].tolist() == [100.0, 100.0]  # nobody has answered it
    assert told[1, 0] < told[1, 1] < 100.0
    assert told[2].tolist() == [110.0, 110.0]
