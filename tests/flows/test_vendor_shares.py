"""Vendors' shares of what is served in the end."""

from __future__ import annotations

import numpy as np
import pytest

from thirdshift.flows.planning.assignment import Assignment
from thirdshift.flows.quality.vendor_shares import keep_shares

VENDOR = np.array([0, 1, 1, 2])


def served_by(*endpoint: int) -> Assignment:
    """What is planned is answered, and nothing else."""
    target = np.array(endpoint, np.int32)
    assignment = Assignment(target, np.zeros(len(target)), np.full(len(VENDOR), -1, np.int32))
    assignment.answered[np.arange(len(target)), target] = True
    return assignment


def shares(assignment: Assignment, weight: np.ndarray) -> list[int]:
    return np.bincount(VENDOR[assignment.served], weight, minlength=3).astype(int).tolist()


def test_what_loses_least_is_served_by_another_that_has_room() -> None:
    assignment, weight = served_by(1, 1, 2, 2, 0, 3), np.ones(6, np.int32)
    worth = np.full((6, 4), 0.5)
    for row, other, score in ((0, 0, 0.0), (1, 0, 1.0), (2, 3, 0.5), (3, 2, 1.0)):
        assignment.answered[row, other], worth[row, other] = True, score
    keep_shares(assignment, weight, VENDOR, 2, worth)
    assert shares(assignment, weight) == [2, 2, 2]
    assert assignment.served.tolist() == [1, 0, 3, 2, 0, 3]


def test_nothing_is_changed_where_shares_are_kept_or_nothing_else_is_held() -> None:
    assignment, weight = served_by(1, 1, 2, 0), np.ones(4, np.int32)
    assignment.answered[:, 0] = True
    keep_shares(assignment, weight, VENDOR, 3, np.ones((4, 4)))
    assert assignment.served.tolist() == [1, 1, 2, 0]
    alone = served_by(1, 1, 2, 0)
    keep_shares(alone, weight, VENDOR, 2, np.ones((4, 4)))
    assert alone.served.tolist() == [1, 1, 2, 0]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_put_back_as_it_was_keeps_every_share(seed: int) -> None:
    """Before a repair shares were kept, and those answers are held still."""
    rng = np.random.default_rng(seed)
    before = rng.integers(0, 4, 200)
    weight = rng.integers(1, 4, 200).astype(np.int32)
    assignment = served_by(*before.tolist())
    most = int(np.bincount(VENDOR[before], weight).max())
    rows = np.flatnonzero(rng.random(200) < 0.5)
    repaired = rng.integers(0, 4, len(rows)).astype(np.int32)
    assignment.answered[rows, repaired] = True
    assignment.override(rows, repaired)
    keep_shares(assignment, weight, VENDOR, most, rng.random((200, 4)))
    assert max(shares(assignment, weight)) <= most
    assert assignment.answered[np.arange(200), assignment.served].all()
