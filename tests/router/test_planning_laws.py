"""What must hold of every plan, whatever the problem: to the plan's own gap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.planning_cases import check, random_problem
from thirdshift.router.planning import Infeasible, Option, Plan, Problem, solve
from thirdshift.router.planning.solve import cheapest

SEEDS = st.integers(min_value=1_000, max_value=100_000)
few = settings(max_examples=25, deadline=None, derandomize=True)


def floored(seed: int) -> Problem:
    """Without Infeasible at the start: a floor that the problem's other terms allow is searched for by the
    caller."""
    return random_problem(seed)


def never_dearer(easier: Problem, harder: Problem) -> None:
    """What is asked less of never costs more, and is never impossible where the harder is possible."""
    hard = cheapest(harder)
    if hard is None:
        return
    easy = cheapest(easier)
    assert easy is not None
    assert easy.bound_usd <= hard.cost_usd * (1 + 1e-6)
    assert easy.cost_usd <= hard.cost_usd * (1 + easy.gap) * (1 + 1e-6) + 1e-12


@few
@given(seed=SEEDS, less=st.floats(0.0, 0.2))
def test_a_higher_floor_never_costs_less(seed: int, less: float) -> None:
    problem = random_problem(seed)
    floor = problem.terms.floor or 0.6
    higher = problem.under(replace(problem.terms, floor=floor))
    never_dearer(problem.under(replace(problem.terms, floor=floor - less)), higher)


@few
@given(seed=SEEDS, more=st.floats(1.0, 4.0))
def test_more_time_never_costs_more(seed: int, more: float) -> None:
    problem = random_problem(seed)
    seconds = problem.terms.seconds or 3000.0
    tight = problem.under(replace(problem.terms, seconds=seconds))
    never_dearer(problem.under(replace(problem.terms, seconds=seconds * more)), tight)
    never_dearer(problem.under(replace(problem.terms, seconds=None)), tight)


@few
@given(seed=SEEDS, more=st.floats(1.0, 4.0))
def test_more_budget_never_costs_more(seed: int, more: float) -> None:
    problem = random_problem(seed)
    cap = problem.terms.cap_usd or float(problem.cost[np.isfinite(problem.cost)].mean() * problem.n)
    tight = problem.under(replace(problem.terms, cap_usd=cap))
    never_dearer(problem.under(replace(problem.terms, cap_usd=cap * more)), tight)


@few
@given(seed=SEEDS)
def test_one_endpoint_more_never_costs_more(seed: int) -> None:
    problem = random_problem(seed)
    less = problem.cost.copy()
    less[:, -1] = np.inf
    still = np.isfinite(less).any(axis=1).all()
    if still and problem.eligible is None:
        never_dearer(problem, replace(problem, cost=less))


@few
@given(seed=SEEDS, row=st.integers(0, 2))
def test_one_policy_rule_less_never_costs_more(seed: int, row: int) -> None:
    problem = random_problem(seed)
    if problem.eligible is None or not problem.eligible.any(axis=1).all():
        return
    fewer = problem.eligible.copy()
    fewer[row % len(fewer)] = True
    if np.isfinite(problem.cost).all():
        never_dearer(replace(problem, eligible=fewer), problem)


@few
@given(seed=SEEDS)
def test_the_nearest_values_of_an_impossible_problem_are_possible(seed: int) -> None:
    problem = random_problem(seed)
    answer = solve(problem)
    if isinstance(answer, Plan):
        assert not check(problem, answer.choice, dict(answer.workers)).problems
        return
    terms, nearest = problem.terms, answer.nearest
    assert answer.reasons
    assert all(reason.message for reason in answer.reasons)
    if nearest.floor is not None and terms.floor is not None:
        assert nearest.floor < terms.floor
        assert cheapest(problem.under(replace(terms, floor=nearest.floor))) is not None
    if nearest.cap_usd is not None and terms.cap_usd is not None:
        assert nearest.cap_usd > terms.cap_usd
        assert cheapest(problem.under(replace(terms, cap_usd=nearest.cap_usd))) is not None
    if nearest.seconds is not None and terms.seconds is not None:
        assert nearest.seconds > terms.seconds
        assert cheapest(problem.under(replace(terms, seconds=nearest.seconds))) is not None


@few
@given(seed=SEEDS)
def test_the_same_arguments_give_the_same_plan(seed: int) -> None:
    first, again = cheapest(random_problem(seed)), cheapest(random_problem(seed))
    assert (first is None) == (again is None)
    if first is not None and again is not None:
        assert (first.choice == again.choice).all()
        assert (first.runner_up == again.runner_up).all()
        assert first.workers == again.workers


def test_among_equals_the_first_name_is_taken_whatever_the_order() -> None:
    n = 3000
    rng = np.random.default_rng(5)
    cost = np.repeat(rng.uniform(1, 2, (n, 1)), 3, axis=1)
    quality = np.full((n, 3), 0.5, dtype=np.float32)
    ones = np.ones(n)
    for names in (("b", "a", "c"), ("c", "b", "a")):
        options = tuple(Option(name, name, name) for name in names)
        problem = Problem(options, ("t",), np.zeros(n, int), ones.astype(int), cost, quality, ones, ones)
        plan = solve(problem)
        assert not isinstance(plan, Infeasible)
        assert {names[e] for e in plan.choice} == {"a"}
        assert {names[e] for e in plan.runner_up} == {"b"}


@pytest.mark.parametrize("n", [0, 1])
def test_hardly_any_requests_are_no_special_case(n: int) -> None:
    options = (Option("a", "a", "v"), Option("b", "b", "w"))
    columns = np.ones(n)
    problem = Problem(
        options, ("t",), np.zeros(n, int), np.ones(n, int), np.tile([1.0, 2.0], (n, 1)), np.tile([0.5, 0.9],
        (n, 1)), columns, columns,
    )  # fmt: skip
    plan = solve(problem)
    assert isinstance(plan, Plan)
    assert plan.cost_usd == n
    assert plan.gap == 0
