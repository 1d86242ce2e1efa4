"""What a run knows of the answers that its votes compared."""

from __future__ import annotations

import numpy as np
import pytest

from thirdshift.flows.planning.voting import KnownAnswers
from thirdshift.flows.quality.votes_held import VotesHeld
from thirdshift.router.learning.votes import NOTHING, Seen, Vote
from thirdshift.router.prediction.observations import Observations, no_observations, no_past

N, FIRST, SECOND, THIRD = 40, 0, 1, 2
PREDICTED = np.tile(np.array([0.6, 0.65, 0.9], np.float32), (N, 1))


def held(scores: Observations, *, by_one_rule: bool = False) -> VotesHeld:
    """One vote has served all; of even requests the two answers agree."""
    agreed = np.arange(N) % 2 == 0
    none = np.zeros(0)
    nothing = Seen(
        np.zeros((0, 3)),
        np.full((0, 3), NOTHING, np.int32),
        np.zeros((0, 3), bool),
        np.zeros((0, 3), np.int32),
        none,
    )
    return VotesHeld(
        (Vote(FIRST, SECOND, THIRD),), (np.arange(N),), agreed, no_observations(), np.full(4, np.nan),
        no_past(),
        KnownAnswers(none.astype(np.int64), none.astype(np.int64), none.astype(np.int32), nothing), scores, by_one_rule,
    )  # fmt: skip


@pytest.mark.parametrize("by_one_rule", [False, True])
def test_two_answers_that_agree_are_worth_the_same_whichever_was_scored(by_one_rule: bool) -> None:
    row = np.array([0, 2, 4, 4, 1])
    endpoint = np.array([FIRST, SECOND, FIRST, SECOND, SECOND], np.int32)
    scores = Observations(row, endpoint, np.array([0.0, 0.0, 1.0, 1.0, 0.0]))
    told = held(scores, by_one_rule=by_one_rule).told(PREDICTED, PREDICTED)
    assert (told[::2, FIRST] == told[::2, SECOND]).all(), "none is served instead of its equal"
    assert (told[1::2, FIRST] != told[1::2, SECOND]).all()
    if not by_one_rule:
        assert told[[0, 2, 4], FIRST].tolist() == [0.0, 0.0, 1.0]
        assert told[1, SECOND] == 0.0
        assert told[1, FIRST] > 0.0
