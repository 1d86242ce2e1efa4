"""Where a request goes that its endpoint gave up, and where one under a vote does."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from thirdshift.flows.planning.assignment import Assignment, PendingRows, plan_sentence
from thirdshift.flows.planning.measured.run_queries import FinalReplies
from thirdshift.flows.planning.voting import keep_votes
from thirdshift.router.planning import Option, Problem, Terms
from thirdshift.router.planning.solve import cheapest
from thirdshift.router.values import Endpoint, Price, PriceSchedule

N = 100
PRICED = PriceSchedule(Price(Decimal(1), Decimal(4)))
SMALL, OTHER, LARGE = range(3)
OF = np.array([SMALL, OTHER, LARGE], np.int32)


def placed(target: int) -> Assignment:
    return Assignment(np.full(N, target, np.int32), np.zeros(N), np.full(3, -1, np.int32))


def problem(share: float | None) -> Problem:
    options = tuple(
        Option(name, name, vendor) for name, vendor in (("small", "a"), ("other", "a"), ("large", "b"))
    )
    return Problem(
        options,
        ("t",),
        np.zeros(N, np.int32),
        np.ones(N, np.int64),
        np.tile([0.1, 0.2, 1.0], (N, 1)),
        np.tile([0.8, 0.8, 0.9], (N, 1)).astype(np.float32),
        np.full(N, 10.0),
        np.full((N, 3), 10.0),
        terms=Terms(max_vendor_share=share),
    )


@pytest.mark.parametrize("aimed", [True, False])
def test_a_plan_for_no_floor_predicts_no_quality(aimed: bool) -> None:
    """Of endpoints that nothing is known of it takes a half, which nobody believes."""
    endpoints = [Endpoint(name, f"openai/{name}", PRICED) for name in ("small", "other", "large")]
    plan = cheapest(problem(None))
    assert plan is not None
    said = plan_sentence(plan, placed(SMALL), np.ones(N, np.int32), endpoints, aimed=aimed)
    assert said.startswith("plan: 100 to small; expected $")
    assert ("quality" in said) is aimed


@pytest.mark.parametrize(("share", "large"), [(None, 0), (0.7, 30)])
def test_what_was_given_up_goes_to_the_cheapest_that_is_as_good_within_the_shares_of_vendors(
    share: float | None, large: int
) -> None:
    assignment = placed(SMALL)
    assignment.mark_failed(np.arange(N), SMALL)
    pending = assignment.next_to_send(problem(share), OF, now=0.0)
    assert len(pending) == N
    assert (pending.endpoint == LARGE).sum() == large
    assert (pending.endpoint == OTHER).sum() == N - large


def test_what_no_vendor_may_take_any_more_is_not_sent() -> None:
    assignment = placed(LARGE)
    assignment.target[:60] = SMALL
    assignment.mark_failed(np.arange(60, N), LARGE)  # b failed at its forty; a may take ten more
    pending = assignment.next_to_send(problem(0.7), OF, now=0.0)
    assert len(pending) == 70
    assert not np.isin(pending.endpoint, [LARGE]).any()


def test_what_failed_everywhere_is_answerable_no_longer_and_what_was_never_sent_is() -> None:
    assignment, allowed = placed(SMALL), np.ones((N, 3), bool)
    for endpoint in (SMALL, OTHER, LARGE):
        assignment.mark_failed(np.arange(10), endpoint)
    assignment.mark_failed(np.arange(10, 20), SMALL)
    answerable = assignment.answerable(allowed)
    assert not answerable[:10].any(), "these have an error for a result, whatever stops the run"
    assert answerable[10:].all()


def test_what_a_batch_left_undone_once_goes_there_again_where_all_others_have_failed() -> None:
    assignment = placed(SMALL)
    assignment.mark_not_run(np.arange(N), SMALL)
    pending = assignment.next_to_send(problem(None), OF, now=0.0)
    assert (pending.endpoint == OTHER).all()
    assignment.mark_failed(np.arange(N), OTHER)
    assignment.mark_failed(np.arange(10), LARGE)
    assert (assignment.next_to_send(problem(None), OF, now=0.0).endpoint[10:] == LARGE).all()
    assert (assignment.target[:10] == SMALL).all()
    assignment.mark_not_run(np.arange(10), SMALL)
    assert (assignment.next_to_send(problem(None), OF, now=0.0).position == np.arange(10, N)).all()


def test_what_would_wait_for_an_endpoint_that_is_out_goes_to_another() -> None:
    assignment = placed(SMALL)
    assignment.out_until[SMALL] = 3600.0
    pending = assignment.next_to_send(problem(None), OF, now=0.0)
    assert (pending.endpoint == OTHER).all()
    assert len(pending) == N
    assert pending.opens_at is None


def test_where_all_are_out_the_one_that_is_back_first_is_waited_for() -> None:
    assignment = placed(SMALL)
    assignment.out_until[:] = 3600.0, 7200.0, 1800.0
    assignment.mark_failed(np.arange(10), LARGE)
    pending = assignment.next_to_send(problem(None), OF, now=0.0)
    assert len(pending) == 0
    assert pending.opens_at == 1800.0
    pending = assignment.next_to_send(problem(None), OF, now=1800.0)
    assert (pending.position == np.arange(10, N)).all()
    assert (pending.endpoint == LARGE).all()
    assignment.answered[10:, LARGE] = True
    assert assignment.next_to_send(problem(None), OF, now=1800.0).opens_at == 3600.0
    pending = assignment.next_to_send(problem(None), OF, now=3600.0)
    assert (pending.position == np.arange(10)).all()
    assert (pending.endpoint == SMALL).all()


def test_a_price_window_that_opens_after_a_wait_is_over_is_kept() -> None:
    assignment = placed(SMALL)
    assignment.opens[:] = 7200.0
    assignment.out_until[SMALL] = 3600.0
    assert assignment.next_to_send(problem(None), OF, now=0.0).opens_at == 7200.0
    assert (assignment.target == SMALL).all()


# --- votes

NAMES = ["small", "other", "large"]


def under_votes(count: int) -> Assignment:
    assignment = placed(SMALL)
    assignment.vote[:count] = (SMALL, OTHER, LARGE)
    return assignment


def even_agree(
    position: NDArray[np.int64], first: NDArray[np.int16], second: NDArray[np.int16]
) -> NDArray[np.bool_]:
    return (position % 2 == 0) & (first == SMALL) & (second == OTHER)


def test_both_are_asked_at_once_and_only_where_they_differ_the_third() -> None:
    assignment = under_votes(60)
    first = assignment.next_to_send(problem(None), OF, now=0.0)
    second = assignment.second_to_ask(first)
    assert len(first) == N
    assert second.position.tolist() == list(range(60))
    assert set(second.endpoint.tolist()) == {OTHER}
    assignment.answered[:, SMALL] = assignment.answered[:60, OTHER] = True
    assignment.settle(0.0, even_agree)
    pending = assignment.next_to_send(problem(None), OF, now=0.0)
    assert pending.position.tolist() == list(range(1, 60, 2))
    assert set(pending.endpoint.tolist()) == {LARGE}
    assert not len(assignment.second_to_ask(pending))
    assert (assignment.served == SMALL).all(), "an answer is better than none, until the third has come"
    assignment.answered[pending.position, LARGE] = True
    assert (assignment.served[pending.position] == LARGE).all()
    assert np.flatnonzero(assignment.by_vote).tolist() == list(range(60))


def test_a_second_who_fails_agrees_with_nobody_and_a_first_who_fails_ends_the_vote() -> None:
    assignment = under_votes(20)
    assignment.answered[:10, SMALL] = True
    assignment.mark_failed(np.arange(10), OTHER)
    assignment.mark_failed(np.arange(10, 20), SMALL)
    assignment.settle(0.0, even_agree)
    assert (assignment.target[:10] == LARGE).all()
    pending = assignment.next_to_send(problem(None), OF, now=0.0)
    assert set(pending.endpoint[(pending.position >= 10) & (pending.position < 20)].tolist()) == {OTHER}
    assert not len(assignment.second_to_ask(PendingRows(np.arange(N), np.zeros(N, np.int32))))


def test_a_resumed_run_goes_on_with_the_votes_that_it_has_begun(tmp_path: Path) -> None:
    columns = cast(
        "Any", SimpleNamespace(rows=np.arange(N), positions=lambda rows: np.searchsorted(np.arange(N), rows))
    )
    none = np.zeros(0, np.int64)
    nothing = FinalReplies(none, none.astype(np.int32), *(np.zeros(0, bool) for _ in range(4)))
    keep_votes(tmp_path, under_votes(60), nothing, columns, NAMES)
    begun, yes = np.array([1, 2, 80]), np.ones(3, bool)
    replies = FinalReplies(begun, np.zeros(3, np.int32), yes, ~yes, yes, ~yes)
    anew = placed(SMALL)
    anew.vote[79:82] = (SMALL, OTHER, LARGE)  # a plan of a later hour
    keep_votes(tmp_path, anew, replies, columns, ["large", *NAMES[:2]])
    assert np.flatnonzero(anew.vote[:, 0] >= 0).tolist() == [1, 2, 79, 81]
    assert anew.vote[1].tolist() == [1, 2, 0], "by name: the job's endpoints have another order now"


def test_an_answer_that_came_by_a_repair_is_served_instead_of_one_that_was_held() -> None:
    assignment, row = placed(SMALL), np.zeros(1, np.int64)
    columns = cast("Any", SimpleNamespace(positions=lambda rows: rows))
    yes = np.ones(1, bool)
    assignment.record_replies(FinalReplies(row, np.array([SMALL], np.int32), yes, ~yes, yes, ~yes), columns)
    assignment.answered[0, OTHER] = True
    assignment.override(row, np.array([OTHER], np.int32))
    assert assignment.served[0] == OTHER
    repaired = FinalReplies(row, np.array([LARGE], np.int32), yes, yes, ~yes, ~yes)
    assignment.record_replies(repaired, columns)
    assert assignment.served[0] == LARGE
    assignment.override(row, np.array([OTHER], np.int32))
    assignment.record_replies(repaired, columns)
    assert assignment.served[0] == OTHER, "nothing has come since"


def test_a_second_answer_that_was_bought_is_compared_by_a_resumed_run_whatever_it_plans(
    tmp_path: Path,
) -> None:
    """The first was the pilot's, so that nothing was sent of these requests but the second."""
    columns = cast("Any", SimpleNamespace(rows=np.arange(N), positions=lambda rows: rows))
    row, endpoint = np.repeat(np.arange(20), 2), np.tile(np.array([SMALL, OTHER], np.int32), 20)
    pilot = np.arange(20, 30)  # of these nobody has asked a second
    row, endpoint = np.concatenate([row, pilot]), np.concatenate([endpoint, np.full(10, SMALL, np.int32)])
    yes = np.ones(len(row), bool)
    held = FinalReplies(row, endpoint, yes, ~yes, ~yes, ~yes)
    keep_votes(tmp_path, under_votes(60), replace(held, answered=~yes), columns, NAMES)
    anew = placed(OTHER)  # by a plan of a later hour
    keep_votes(tmp_path, anew, held, columns, NAMES)
    anew.record_replies(held, columns)
    anew.settle(0.0, even_agree)
    assert np.flatnonzero(anew.vote[:, 0] >= 0).tolist() == list(range(20))
    assert (anew.target[:20:2] == SMALL).all()
    assert (anew.target[1:20:2] == LARGE).all(), "whose two answers differ goes to the third"
    assert (anew.target[20:] == OTHER).all()
