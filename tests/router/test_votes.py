"""Votes: when two answers are the same, and what a vote takes of limits that endpoints have."""

from __future__ import annotations

import numpy as np
import pytest

from thirdshift.router.certification.equality import answer_key
from thirdshift.router.certification.scorers import Scorer
from thirdshift.router.learning.votes import NOTHING, Seen, Vote, candidates, cost_of, differing
from thirdshift.router.planning import Option, Problem, Terms
from thirdshift.router.planning.solve import cheapest

FIELDS = Scorer("fields", fields={"kind": "choice", "sum": "numeric", "note.text": "exact"})


@pytest.mark.parametrize(
    ("scorer", "one", "other", "same"),
    [
        (Scorer("choice"), "I think it is (B).", "b", True),
        (Scorer("choice"), "A", "B", False),
        (Scorer("choice"), "none", "none", False),
        (Scorer("numeric"), "$1,200.00", "it comes to 1200", True),
        (Scorer("numeric"), "1200", "1201", False),
        (Scorer("exact"), " yes ", "yes", True),
        (Scorer("exact"), "Yes", "yes", False),
        (Scorer("judge"), '{"b": 1.0, "a": [2]}', '{"a": [2], "b": 1}', True),
        (Scorer("judge"), "The  Same", "the same", True),
        (None, "", "", False),
        (FIELDS, '{"kind": "(a)", "sum": "1.0", "x": 1}', '{"kind": "A", "sum": 1}', True),
        (FIELDS, '{"kind": "a", "note": {"text": "Up"}}', '{"kind": "a", "note": {"text": "up"}}', False),
        (FIELDS, '{"kind": "a", "sum": null}', '{"kind": "a", "sum": "null"}', False),
        (FIELDS, "no JSON", "no JSON", False),
    ],
)
def test_answers_are_the_same_as_the_scorer_compares(
    scorer: Scorer | None, one: str, other: str, same: bool
) -> None:
    first, second = answer_key(scorer, one), answer_key(scorer, other)
    assert (first is not None and first == second) is same


def seen_of(agree: int, differ: int) -> Seen:
    """Requests on which two cheap endpoints agree and are right, then such as they differ on and the third is right."""
    n = agree + differ
    same = np.arange(n) < agree
    answer = np.stack([np.zeros(n), np.where(same, 0, 1), np.where(same, 0, 2)], axis=1).astype(np.int32)
    score = np.stack([same, same, np.ones(n)], axis=1).astype(np.float64)
    everyone = np.ones((n, 3), bool)
    return Seen(score, answer, everyone, np.full((n, 3), -1, np.int32), np.full(n, np.nan))


def test_a_vote_of_two_that_never_err_together_is_a_candidate_and_costs_what_they_differ_in() -> None:
    seen, price = seen_of(60, 20), np.tile([1.0, 1.0, 20.0], (100, 1))
    ((vote, doubt),) = candidates(seen, price, np.ones(price.shape, bool))
    assert (vote, doubt > 0) == (Vote(0, 1, 2), True)
    differ = differing(seen, vote, np.zeros(80, np.int32), 1)
    assert differ == pytest.approx([0.25], abs=0.01)
    assert cost_of(vote, price, np.repeat(differ, 100)) == pytest.approx(np.full(100, 7.0), abs=0.2)


def test_no_answer_agrees_with_none() -> None:
    seen = seen_of(60, 20)
    seen.answer[:, :2] = NOTHING
    found = candidates(seen, np.tile([1.0, 1.0, 20.0], (100, 1)), np.ones((100, 3), bool))
    assert not found


def with_a_vote(share: float | None, rate: float | None, floor: float = 0.9) -> Problem:
    """A vote of two vendors' endpoints and a third's, which is nearly as good as the third alone."""
    options = (
        Option("one", "one", "a"),
        Option("two", "two", "b", requests_per_second=rate),
        Option("dear", "dear", "c"),
        Option("one and two, else dear", "one", "a", calls=((0, 1.0), (1, 1.0), (2, 0.25))),
    )
    n = 200
    return Problem(
        options,
        ("t",),
        np.zeros(n, np.int32),
        np.ones(n, np.int64),
        np.tile([1.0, 1.0, 20.0, 7.0], (n, 1)),
        np.tile([0.7, 0.7, 0.95, 0.95], (n, 1)).astype(np.float32),
        np.full(n, 10.0),
        np.full((n, 4), 10.0),
        terms=Terms(floor=floor, max_vendor_share=share, seconds=100.0),
    )


def test_votes_take_of_the_limits_and_the_vendors_shares_of_all_that_they_ask() -> None:
    free = cheapest(with_a_vote(None, None))
    assert free is not None
    assert (free.choice == 3).sum() == pytest.approx(160, abs=2)
    rated = cheapest(with_a_vote(None, 0.5))  # `two` gives fifty answers in the time there is
    assert rated is not None
    assert ((rated.choice == 3) | (rated.choice == 1)).sum() <= 50
    shared = cheapest(with_a_vote(0.6, None, 0.84))
    assert shared is not None
    asked = np.array([(shared.choice == 0) | (shared.choice == 3), (shared.choice == 1) | (shared.choice == 3),
                      (shared.choice == 2) | (shared.choice == 3)]).sum(axis=1)  # fmt: skip
    assert (asked <= 120).all()
