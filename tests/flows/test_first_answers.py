"""What is answered before there is a plan, where a plan would go by a guess of how long answers are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.learners import learner
from thirdshift.flows.planning.first_answers import FEW, SEEN, first_answers, looks_worth
from thirdshift.flows.planning.history import PastAnswers
from thirdshift.flows.planning.learner import Learner
from thirdshift.router.planning.problem import Infeasible
from thirdshift.router.tokens.output_lengths import Observed

CHEAP = {"price": {"input": 1, "output": 4}, "quality_prior": 0.6}
SAME = {"price": {"input": 1.2, "output": 4.8}, "quality_prior": 0.6}
DEAR = {"price": {"input": 20, "output": 80}, "quality_prior": 0.9}
BATCH = {"price": {"input": 0.5, "output": 2}, "quality_prior": 0.6, "mode": "batch", "turnaround": "1h"}


def test_a_few_requests_go_first_to_whatever_may_be_the_bargain(tmp_path: Path) -> None:
    with learner(tmp_path, 300, {"cheap": CHEAP, "same": SAME, "dear": DEAR}) as before_the_plan:
        tasks = before_the_plan.columns.population.tasks
        found = dict(first_answers(before_the_plan))
    assert found.keys() == {"cheap"}
    looks = len(np.unique(found["cheap"]))
    assert looks == pytest.approx(tasks * looks_worth(300 // tasks), abs=1)
    assert looks < FEW


@pytest.mark.parametrize(
    ("rows", "endpoints", "keys"),
    [
        (300, {"cheap": CHEAP}, {}),  # nothing is to be chosen
        (60, {"cheap": CHEAP, "dear": DEAR}, {}),  # there is little to save
        (
            300,
            {"cheap": CHEAP, "dear": DEAR},
            {"quality": {"floor": 0.5, "scorer": "numeric", "references": "sample"}},
        ),  # a pilot tells
        (300, {"batch": BATCH, "dear": DEAR}, {}),  # a batch takes hours
    ],
)
def test_nothing_goes_first_where_it_tells_nothing_that_matters(
    tmp_path: Path, rows: int, endpoints: dict[str, dict[str, Any]], keys: dict[str, Any]
) -> None:
    with learner(tmp_path, rows, endpoints, **keys) as before_the_plan:
        assert first_answers(before_the_plan) == []


def test_of_a_model_that_is_to_serve_in_batches_its_endpoint_in_real_time_is_asked(tmp_path: Path) -> None:
    one = {"model": "openai/one"}
    with learner(tmp_path, 300, {"live": CHEAP | one, "batch": BATCH | one, "dear": DEAR}) as before_the_plan:
        found = dict(first_answers(before_the_plan))
        assert found.keys() == {"live"}
        assert len(np.unique(found["live"])) < FEW
        seen_of(before_the_plan, FEW // 2, 3)
        assert first_answers(before_the_plan) == [], (
            "what is known is not worth more answers at twice the price"
        )


def test_what_an_endpoint_is_to_serve_itself_tells_more_of_it_at_no_cost(tmp_path: Path) -> None:
    with learner(tmp_path, 300, {"cheap": CHEAP, "same": SAME, "dear": DEAR}) as before_the_plan:
        seen_of(before_the_plan, 2 * FEW // 3, 3)  # as many as are worth what they may cost
        found = dict(first_answers(before_the_plan))
        assert found.keys() == {"cheap"}
        assert len(found["cheap"]) == FEW - 2 * FEW // 3
        seen_of(before_the_plan, 2 * FEW, 3)
        assert first_answers(before_the_plan) == []


@pytest.mark.parametrize(("usd", "looked_at"), [(1.6, True), (2.3, False)])
def test_what_a_bargain_would_save_pays_for_a_look_at_a_model_that_is_dearer_by_a_guess(
    tmp_path: Path, usd: float, *, looked_at: bool
) -> None:
    """Even where the one that serves was seen a few times, and may be a little cheaper than it seems as well."""
    unknown = {"price": {"input": usd, "output": 4 * usd}, "quality_prior": 0.6}
    with learner(tmp_path, 2000, {"known": CHEAP, "unknown": unknown}) as before_the_plan:
        tasks = before_the_plan.columns.population.tasks
        seen_of(before_the_plan, tasks * looks_worth(2000 // tasks + 40), 1)
        found = dict(first_answers(before_the_plan))
    assert found.keys() == ({"unknown"} if looked_at else set())
    if looked_at:
        assert SEEN <= len(found["unknown"]) < FEW


@pytest.mark.parametrize(("usd", "looked_at"), [(0.7, True), (3.0, False)])
def test_an_unknown_model_that_may_be_the_bargain_is_looked_at_beside_one_that_is_known(
    tmp_path: Path, usd: float, *, looked_at: bool
) -> None:
    """What is guessed of its lengths is what is known of the other's, or more."""
    unknown = {"price": {"input": usd, "output": 4 * usd}, "quality_prior": 0.6}
    with learner(tmp_path, 400, {"known": CHEAP, "unknown": unknown}) as before_the_plan:
        seen_of(before_the_plan, 2 * FEW, 1)
        found = dict(first_answers(before_the_plan))
    assert found.keys() == ({"unknown"} if looked_at else set())


def test_where_scores_are_free_the_pilot_leaves_lengths_to_be_told_of_who_was_not_in_it(
    tmp_path: Path,
) -> None:
    quality = {"floor": 0.5, "scorer": "numeric"}
    endpoints = {"cheap": CHEAP, "same": SAME | {"price": {"input": 0.7, "output": 2.8}}}
    with learner(tmp_path, 300, endpoints, quality=quality) as after_the_pilot:
        seen_of(after_the_pilot, 2 * FEW, 1)
        assert dict(first_answers(after_the_pilot)).keys() == {"same"}
        seen_of(after_the_pilot, 2 * FEW, 2)
        assert first_answers(after_the_pilot) == []


def seen_of(before_the_plan: Learner, answers: int, endpoints: int) -> None:
    """Have an earlier night tell of so many answers of each of the first endpoints, all alike, of every task."""
    tasks = before_the_plan.columns.population.tasks
    endpoint = np.repeat(np.arange(endpoints), answers)
    task = np.arange(len(endpoint)) % tasks
    lengths = Observed(task, endpoint, np.full(len(endpoint), 20), np.full(len(endpoint), 512))
    none = np.zeros(len(endpoint))
    before_the_plan.past = PastAnswers(lengths, endpoint.astype(np.int32), none, none, none + np.nan)


def test_a_cap_that_is_too_small_by_a_guess_does_not_keep_lengths_from_being_learnt(tmp_path: Path) -> None:
    budget = {"cap_usd": 0.02}
    with learner(tmp_path, 300, {"cheap": CHEAP, "same": SAME}, budget=budget) as before_the_plan:
        plan = before_the_plan.decide(before_the_plan.market(), before_the_plan.context.terms()).plan
        assert isinstance(plan, Infeasible)
        assert before_the_plan.guesses_lengths
        assert dict(first_answers(before_the_plan)).keys() == {"cheap"}


@pytest.mark.parametrize(("seen", "looked_at"), [(SEEN - 1, True), (FEW, False)])
def test_a_task_of_which_an_endpoint_has_hardly_answered_anything_is_looked_at_too(
    tmp_path: Path, seen: int, looked_at: bool
) -> None:
    with learner(tmp_path, 400, {"cheap": CHEAP, "same": SAME}) as before_the_plan:
        tasks = before_the_plan.columns.population.tasks
        assert tasks > 1
        task = np.repeat(np.arange(tasks), [FEW] * (tasks - 1) + [seen])
        both = np.concatenate([np.zeros(len(task), int), np.ones(len(task), int)])
        lengths = Observed(np.tile(task, 2), both, np.full(2 * len(task), 20), np.full(2 * len(task), 512))
        none = np.zeros(2 * len(task))
        before_the_plan.past = PastAnswers(lengths, both.astype(np.int32), none, none, none + np.nan)
        found = dict(first_answers(before_the_plan))
        assert found.keys() == ({"cheap"} if looked_at else set())
        if looked_at:
            rows = before_the_plan.columns.positions(found["cheap"])
            assert set(before_the_plan.columns.population.task[rows].tolist()) == {tasks - 1}
            assert SEEN <= len(rows) < FEW
