"""The planner against the exact optimum of small problems of every kind of constraint."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.support.planning_cases import check, exact, random_problem
from thirdshift.router.planning import Option, Problem, Terms
from thirdshift.router.planning.solve import cheapest

BLOCKS = [range(start, start + 60) for start in range(0, 300, 60)]


def kinds(problem: Problem) -> set[str]:
    """Which kinds of constraint a problem has."""
    terms, options = problem.terms, problem.options
    there = {
        "floor": terms.floor is not None,
        "per task": terms.floor is not None and terms.per_task,
        "margin": terms.margin > 0,
        "cap": terms.cap_usd is not None,
        "share": terms.max_vendor_share is not None,
        "requests": any(o.requests_per_second for o in options) and terms.seconds is not None,
        "tokens": any(o.tokens_per_second for o in options) and terms.seconds is not None,
        "queue": any(o.queue_requests for o in options),
        "workers": any(o.workers for o in options),
        "minimum": any(o.workers and o.workers.minimum_seconds for o in options),
        "windows": any(o.windows for o in options),
        "policies": problem.eligible is not None,
        "weights": bool((problem.weight > 1).any()),
    }
    return {name for name, has in there.items() if has}


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_the_plan_is_feasible_wherever_one_is_and_a_request_from_the_optimum_at_most(block: range) -> None:
    for seed in block:
        problem = random_problem(seed)
        plan, optimum = cheapest(problem), exact(problem)
        if plan is None:
            assert optimum is None, f"seed {seed}: a plan costs {optimum}, none was found"
            continue
        used = check(problem, plan.choice, dict(plan.workers))
        assert not used.problems, f"seed {seed}"
        assert used.cost == pytest.approx(plan.cost_usd, rel=1e-9)
        assert used.worth == pytest.approx(plan.quality, rel=1e-9)
        assert optimum is not None, f"seed {seed}: the plan keeps every term, so there is one"
        one = plan.cost_usd / problem.n
        assert plan.cost_usd <= optimum + max(1e-3 * optimum, one) + 1e-12, f"seed {seed}"
        if optimum > 0:
            assert plan.gap >= plan.cost_usd / optimum - 1 - 1e-6, f"seed {seed}: the gap is understated"
        assert plan.bound_usd <= optimum * (1 + 1e-6) + 1e-12, f"seed {seed}"


def test_the_random_problems_have_every_kind_of_constraint_feasible_and_not() -> None:
    seen: Counter[str] = Counter()
    for block in BLOCKS:
        for seed in block:
            problem = random_problem(seed)
            seen.update(kinds(problem))
    assert len(seen) == 13
    assert min(seen.values()) >= 15, seen


@pytest.mark.parametrize("seed", [5, 9, 16, 24, 27, 31, 36])
def test_thousands_of_requests_are_planned_within_a_thousandth_and_keep_every_term(seed: int) -> None:
    problem = random_problem(seed, 2_500)
    plan = cheapest(problem)
    assert plan is not None
    used = check(problem, plan.choice, dict(plan.workers))
    assert not used.problems
    assert used.cost == pytest.approx(plan.cost_usd, rel=1e-9)
    assert plan.gap <= 1e-3
    assert plan.bound_usd <= plan.cost_usd


@pytest.mark.parametrize("floor", [0.8123, 0.85])
def test_a_floor_between_two_endpoints_is_met_where_all_requests_are_alike(floor: float) -> None:
    """Of so many equally near to a decision those that would raise the mean must be among the ones decided anew."""
    n = 200_000
    problem = Problem(
        options=(Option("cheap", "cheap", "one"), Option("dear", "dear", "other")),
        tasks=("default",),
        task=np.zeros(n, np.int32),
        weight=np.ones(n, np.int32),
        cost=np.tile([4.68e-5, 1.526e-3], (n, 1)),
        quality=np.tile(np.array([0.75, 0.93], np.float32), (n, 1)),
        input_tokens=np.full(n, 100),
        output_tokens=np.full(n, 20),
        terms=Terms(floor=floor),
    )
    plan = cheapest(problem)
    assert plan is not None
    dear = (floor - 0.75) / 0.18 * n
    assert floor - 2e-7 <= plan.quality
    assert plan.choice.sum() <= dear + 1
