"""Plans with workers whose hours are rented: started hours, whole machines, times of day. By what the bill then is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest

from tests.support.workers import worker_endpoint
from thirdshift.router.planning.options import Throughput, options_for, workers_to_run
from thirdshift.router.planning.problem import Infeasible, Option, Plan, Problem, Terms, Workers
from thirdshift.router.planning.solve import cheapest
from thirdshift.router.pricing.pricebook import hourly, off_peak_rule
from thirdshift.router.values import ClusterSpec

HOUR = 3600.0
NOW = datetime(2026, 11, 29, 16, tzinfo=UTC)


def night(workers: Workers, seconds_each: float, api_usd: float, *, n: int = 400, **terms: float) -> Problem:
    """`n` requests that take a worker so many seconds each, or an API so much; both answer as well."""
    options = (Option("house", "house", "vllm", workers=workers), Option("api", "api", "vendor"))
    cost = np.zeros((n, 2))
    cost[:, 1] = api_usd
    read = np.full(n, seconds_each * workers.prefill_tokens_per_second)
    return Problem(
        options, ("t",), np.zeros(n, int), np.ones(n, int), cost, np.full((n, 2), 0.9), read, np.zeros(n),
        terms=Terms(**terms),
    )  # fmt: skip


def planned(problem: Problem) -> Plan:
    plan = cheapest(problem)
    assert plan is not None
    assert not isinstance(plan, Infeasible)
    return plan


def bill(problem: Problem, plan: Plan, workers: Workers) -> float:
    """What the plan costs when every worker is paid for its started hours, and has an equal part of the work."""
    ours = plan.choice == 0
    up = plan.workers.get("house", 0)
    busy = float(problem.input_tokens[ours].sum()) / workers.prefill_tokens_per_second
    paid = up * workers.paid_seconds(busy / up) if up else 0.0
    return paid / HOUR * workers.usd_per_hour + float(problem.cost[~ours, 1].sum())


WORKERS = Workers(2, 2.49, 1000.0, 1000.0, startup_seconds=120.0, increment_seconds=HOUR)


@pytest.mark.parametrize("seconds_each", [2.0, 8.0, 9.2, 13.0, 25.0])
@pytest.mark.parametrize("api_usd", [0.001, 0.006, 0.02])
def test_a_plan_costs_what_started_hours_will_be_billed(seconds_each: float, api_usd: float) -> None:
    problem = night(WORKERS, seconds_each, api_usd)
    plan = planned(problem)
    assert plan.cost_usd == pytest.approx(bill(problem, plan, WORKERS), rel=1e-6)
    by_the_second = planned(night(replace(WORKERS, increment_seconds=0.0), seconds_each, api_usd))
    assert plan.cost_usd <= bill(problem, by_the_second, WORKERS) * (1 + 1e-6)
    assert plan.bound_usd <= plan.cost_usd


def test_what_would_begin_another_hour_goes_to_the_api_where_that_is_cheaper() -> None:
    problem = night(replace(WORKERS, max_workers=1), 9.2, 0.01)
    plan = planned(problem)
    assert plan.worker_hours == {"house": pytest.approx(1.0)}
    assert 10 <= int((plan.choice == 1).sum()) <= 25
    dear = planned(night(replace(WORKERS, max_workers=1), 9.2, 0.5))
    assert dear.worker_hours == {"house": pytest.approx(2.0)}


def test_a_cap_with_room_for_one_hour_is_kept() -> None:
    problem = night(replace(WORKERS, max_workers=1), 9.2, 0.01, cap_usd=2.75)
    plan = planned(problem)
    assert plan.cost_usd <= 2.75
    assert plan.worker_hours == {"house": pytest.approx(1.0)}


def test_a_machine_rented_as_a_whole_is_one_worker_with_the_speed_of_all() -> None:
    house = worker_endpoint(usd_per_hour=Decimal(20), workers=8, node_price=True, minimum_minutes=60)
    speed = Throughput(prefill_tokens_per_second=1000.0, startup_seconds=0.0)
    (only,) = options_for(house, now=NOW, deadline=None, throughput=speed)
    workers = only.option.workers
    assert workers is not None
    assert (workers.max_workers, workers.usd_per_hour, workers.prefill_tokens_per_second) == (1, 20.0, 8000.0)
    plan = planned(night(workers, 9.0, 1.0))
    assert plan.cost_usd == pytest.approx(20.0)
    assert workers_to_run(house, {"house": 1}) == 8
    assert workers_to_run(house, {}) == 0


@pytest.mark.parametrize(("count", "machines", "each"), [(16, 2, 8), (20, 2, 8), (4, 1, 4)])
def test_a_clusters_machines_are_rented_one_by_one(count: int, machines: int, each: int) -> None:
    """Nodes have room for eight workers: what is left of another machine is not rented for less than eight."""
    cluster = ClusterSpec("auto", per_node=8)
    house = worker_endpoint(usd_per_hour=Decimal(20), workers=count, node_price=True, cluster=cluster)
    speed = Throughput(prefill_tokens_per_second=1000.0, startup_seconds=60.0, running=each + 1)
    (only,) = options_for(house, now=NOW, deadline=NOW + timedelta(hours=8), throughput=speed)
    workers = only.option.workers
    assert workers is not None
    assert (workers.max_workers, workers.usd_per_hour) == (machines, 20.0)
    assert workers.prefill_tokens_per_second == each * 1000.0
    assert workers_to_run(house, {"house": machines}) == machines * each


def test_workers_wait_for_the_hours_in_which_they_cost_less() -> None:
    schedule = hourly(Decimal(4), off_peak=(off_peak_rule(Decimal("0.25"), "UTC", ("18-23", "0-5"), ()),))
    house = replace(worker_endpoint(usd_per_hour=Decimal(4)), price=schedule)
    deadline = NOW + timedelta(hours=12)
    speed = Throughput(prefill_tokens_per_second=1000.0, startup_seconds=0.0)
    priced = options_for(house, now=NOW, deadline=deadline, throughput=speed)
    assert [one.option.name for one in priced] == ["house", "house@18:00"]
    n = 400
    problem = Problem(
        tuple(one.option for one in priced), ("t",), np.zeros(n, int), np.ones(n, int), np.zeros((n, 2)),
        np.full((n, 2), 0.9), np.full(n, 9000.0), np.zeros(n), terms=Terms(seconds=12 * HOUR),
    )  # fmt: skip
    plan = planned(problem)
    assert plan.cost_usd == pytest.approx(1.0)
    assert plan.waits == {"house@18:00": 7200.0}
    assert workers_to_run(house, plan.workers) == 1
