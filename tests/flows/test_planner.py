"""The router's decisions on a batch's columns: sequences with workers, what one batch can hold, what waits."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest

from thirdshift.flows.planning.assignment import Assignment
from thirdshift.flows.planning.cascading import decide_for, followers, with_fewer_starts
from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.planning.measured.latency import with_latencies
from thirdshift.flows.planning.measured.run_queries import NO_TOKEN_USAGE, CallFigures
from thirdshift.flows.planning.paid_hours import short_of, withheld, worth_starting
from thirdshift.flows.planning.pilot_time import falls_in
from thirdshift.flows.planning.planner import Decision, Market, market, problem
from thirdshift.flows.quality.repair_rounds import due_of
from thirdshift.router.learning.quality_target import QualityTarget
from thirdshift.router.learning.repair import Mended, mend
from thirdshift.router.planning.options import Throughput, options_for
from thirdshift.router.planning.problem import NOBODY, Infeasible, Nearest, Plan, Terms
from thirdshift.router.prediction.observations import Observations, Population, no_observations, no_past
from thirdshift.router.pricing.caches import CacheableTokens
from thirdshift.router.pricing.pricebook import hourly
from thirdshift.router.values import Endpoint, Limits, Mode, OffPeak, Price, PriceSchedule, WorkerSpec

NOW = datetime(2026, 11, 29, tzinfo=UTC)
ROWS, TOKENS = 400, 200
EVEN = 0.5


def priced(name: str, usd: float, mode: Mode = Mode.REALTIME, **limits: int) -> Endpoint:
    price = PriceSchedule(Price(Decimal(str(usd)), Decimal(str(4 * usd))))
    return Endpoint(
        name, f"openai/{name}", price, mode=mode, limits=Limits(**limits), turnaround_seconds=600.0
    )


def pool(minimum_minutes: int) -> Endpoint:
    spec = WorkerSpec("cpu", 1, "python", minimum_minutes=minimum_minutes)
    return Endpoint("house", "m/house", hourly(Decimal(1)), workers=spec)


def columns_of(endpoints: tuple[Endpoint, ...]) -> RequestColumns:
    tokens = np.full(ROWS, TOKENS, np.int32)
    none = np.zeros(ROWS, np.int32)
    population = Population(np.zeros(ROWS, np.int32), np.zeros((ROWS, 0), np.float32), 1, np.ones(ROWS))
    return RequestColumns(
        np.arange(ROWS), np.ones(ROWS, np.int32), population, np.full(ROWS, 256, np.int32),
        (tokens,) * len(endpoints), np.ones((ROWS, len(endpoints)), bool), (CacheableTokens(none, None),) * len(endpoints),
        np.arange(ROWS), ("default",),
    )  # fmt: skip


def market_of(columns: RequestColumns, endpoints: tuple[Endpoint, ...]) -> Market:
    return market(columns, endpoints, NO_TOKEN_USAGE, None, {}, now=NOW, deadline=None)


def decided(endpoints: tuple[Endpoint, ...], priors: list[float], floor: float) -> tuple[Decision, Market]:
    columns = columns_of(endpoints)
    offered = market_of(columns, endpoints)
    aim = QualityTarget(floor, (), EVEN)
    decision = decide_for(
        columns, offered, no_observations(), np.array(priors), Terms(), aim, no_past(), sends_on=True
    )
    assert isinstance(decision.plan, Plan)
    return decision, offered


def test_a_plan_makes_up_for_the_answers_that_are_kept() -> None:
    endpoints = priced("cheap", 1.0), priced("dear", 1.2)
    columns = columns_of(endpoints)
    kept = np.arange(ROWS // 4)
    offered = market_of(columns, endpoints).with_kept(kept, np.zeros(len(kept), np.int32))
    aim = QualityTarget(0.8, (), EVEN)
    priors = np.array([0.6, 0.9])
    plan = decide_for(columns, offered, no_observations(), priors, Terms(), aim, no_past()).plan
    assert isinstance(plan, Plan)
    assert (plan.choice[kept] == 0).all()
    assert priors[plan.choice].mean() == pytest.approx(0.8, abs=1 / ROWS)


def test_where_scores_are_free_workers_by_the_hour_serve_in_a_sequence_too() -> None:
    decision, offered = decided((priced("dear", 20.0), pool(0)), [0.98, 0.7], 0.8)
    plan, found = decision.plan, decision.cascades
    assert isinstance(plan, Plan)
    assert found is not None
    first = offered.endpoint[plan.choice]
    assert (first == 1).mean() > 0.5
    assert plan.workers == {"house": 1}
    assert plan.cost_usd < 0.7 * float(offered.by_endpoint()[:, 0].sum())


@pytest.mark.parametrize(("minimum_minutes", "starts"), [(0, True), (600, False)])
def test_no_worker_is_started_for_what_others_failed_at_unless_that_is_worth_its_start(
    minimum_minutes: int, starts: bool
) -> None:
    endpoints = (priced("cheap", 0.05), priced("dear", 60.0), pool(minimum_minutes))
    decision, offered = decided(endpoints, [0.7, 0.97, 0.97], 0.85)
    plan, found = decision.plan, decision.cascades
    assert isinstance(plan, Plan)
    assert found is not None
    first = offered.endpoint[plan.choice]
    asked = set(first.tolist()) | set(found.follower[np.arange(ROWS), first].tolist())
    assert (2 in asked) is starts


@pytest.mark.parametrize(
    ("weak", "floor", "started", "sent_on"),
    [
        (
            0.7,
            0.78,
            {"weak": 1},
            {NOBODY, 2},
        ),  # with what the API mends it is cheaper than the strong one alone
        (0.75, 0.76, {"strong": 1}, {NOBODY}),  # the few that it fails at are not worth a second start
    ],
)
def test_of_two_pools_one_is_started_where_a_share_of_each_start_would_make_both_look_cheap(
    weak: float, floor: float, started: dict[str, int], sent_on: set[int]
) -> None:
    pools = [replace(pool(60 * hours), name=name, model=name) for name, hours in (("weak", 1), ("strong", 2))]
    decision, offered = decided((*pools, priced("api", 20.0)), [weak, 0.9, 0.7], floor)
    plan, found = decision.plan, decision.cascades
    assert isinstance(plan, Plan)
    assert found is not None
    assert plan.workers == started
    assert set(found.follower[np.arange(ROWS), offered.endpoint[plan.choice]].tolist()) == sent_on


def test_starts_are_left_out_one_after_the_other_as_long_as_that_is_cheaper() -> None:
    usd = {(): 10.0, (0,): 12.0, (1,): 8.0, (2,): 11.0, (0, 1): 7.0, (1, 2): 9.0, (0, 1, 2): np.inf}

    def without(left_out: frozenset[int]) -> tuple[int, ...]:
        return tuple(sorted(left_out))

    def used(made: tuple[int, ...]) -> set[int]:
        return {0, 1, 2} - set(made)

    starts = {0: 1.0, 1: 2.0, 2: 3.0}
    assert with_fewer_starts((), without, used, usd.__getitem__, starts) == (0, 1)
    small = dict.fromkeys(starts, 0.01)
    assert with_fewer_starts((), without, used, usd.__getitem__, small) == (), "so little is not weighed"


def test_an_answer_that_a_models_other_tier_has_given_has_its_price_and_what_is_held_has_none() -> None:
    """Scores of one tier are the other's too; the answer is there once, and a second one would be the same."""
    endpoints = (priced("day", 2.0), priced("night", 1.0, Mode.BATCH))
    columns, rows = columns_of(endpoints), np.arange(ROWS // 2)
    held = rows, np.ones(len(rows), np.int32)
    offered = market(columns, endpoints, NO_TOKEN_USAGE, None, {}, now=NOW, deadline=None, held=held)
    score = (rows % 3 > 0).astype(np.float64)
    seen = Observations(np.tile(rows, 2), np.repeat([0, 1], len(rows)), np.tile(score, 2))
    decision = decide_for(
        columns, offered, seen, np.array([0.7, 0.7]), Terms(), QualityTarget(0.99, (), EVEN), no_past(), sends_on=True
    )  # fmt: skip
    for day, night in zip(*decision.problem.cost[rows].T, strict=True):
        assert day > night == 0.0


@pytest.mark.parametrize(
    ("rpm", "seconds", "first", "later"),
    [
        (1000, 1150.0, False, True),
        (6, 1150.0, True, False),
        (12, 1250.0, True, True),
        (1000, 590.0, False, False),
    ],
)
def test_a_batch_is_planned_after_another_only_where_the_deadline_has_time_for_both(
    rpm: int, seconds: float, *, first: bool, later: bool
) -> None:
    """A turnaround is 600 s: a plan that counts on two in 1,150 s pays for real time in the end."""
    endpoints = (priced("weak", 0.2, rpm=rpm), priced("tier", 1.0, Mode.BATCH), priced("dear", 8.0))
    columns, deadline = columns_of(endpoints), NOW + timedelta(seconds=seconds)
    offered = market(columns, endpoints, NO_TOKEN_USAGE, None, {}, now=NOW, deadline=deadline)
    decision = decide_for(
        columns, offered, no_observations(), np.array([0.6, 0.75, 0.9]), Terms(seconds=seconds),
        QualityTarget(0.8, (), EVEN), no_past(), sends_on=True,
    )  # fmt: skip
    plan, found = decision.plan, decision.cascades
    assert isinstance(plan, Plan)
    assert found is not None
    asked = offered.endpoint[plan.choice]
    assert (asked == 1).any() == first
    assert (found.follower[np.arange(ROWS), asked] == 1).any() == later == (1 in followers(decision))


@pytest.mark.parametrize("seconds", [None, 700.0, 500.0])
def test_a_plan_does_not_count_on_the_price_of_a_batch_that_would_come_after_the_deadline(
    seconds: float | None,
) -> None:
    """A turnaround is 600 s. By its price the strong endpoint would be asked about all that fails."""
    endpoints = (priced("cheap", 0.5), priced("strong", 10.0), priced("tier", 0.6, Mode.BATCH))
    columns = columns_of(endpoints)
    deadline = None if seconds is None else NOW + timedelta(seconds=seconds)
    offered = market(columns, endpoints, NO_TOKEN_USAGE, None, {}, now=NOW, deadline=deadline)

    def sent_on(priced: Market) -> tuple[set[int], set[int]]:
        decision = decide_for(
            columns, priced, no_observations(), np.array([0.6, 0.9, 0.9]), Terms(seconds=seconds),
            QualityTarget(0.8, (), EVEN), no_past(), sends_on=True,
        )  # fmt: skip
        assert isinstance(decision.plan, Plan)
        assert decision.cascades is not None
        asked = priced.endpoint[decision.plan.choice]
        return set(asked.tolist()), set(decision.cascades.follower[np.arange(ROWS), asked].tolist())

    late = seconds is not None and seconds < 600
    assert (sent_on(offered) == sent_on(offered.without([2]))) is late


def test_where_all_are_paid_by_the_hour_the_pilot_starts_those_that_the_plan_would_serve_from() -> None:
    """A look at another costs its start and its minimum: twice the night, where one pool serves it all."""
    endpoints = (replace(pool(30), name="weak"), replace(pool(30), name="strong"))
    offered, may, never = (
        market_of(columns_of(endpoints), endpoints), np.ones((ROWS, 2), bool), np.zeros(2, bool)
    )  # fmt: skip
    assert withheld(offered, may, never, None, lambda: {1}) == [0]
    assert withheld(offered, may, never, None) == [], "nobody knows which of them would serve"
    assert withheld(offered, may, np.array([True, True]), None, lambda: {1}) == [], "they are up"
    half = may.copy()
    half[::2, 1] = False
    assert withheld(offered, half, never, None, lambda: {1}) == [], "half of the requests have nobody else"


def test_a_worker_that_is_believed_too_weak_is_not_started_for_what_others_must_mend_anyway() -> None:
    """At half the others' bill, of which they are paid two thirds all the same."""
    priors = np.array([0.3, 0.9])
    house = replace(pool(0), name="house")
    endpoints = (house, priced("api", 20.0))
    offered, may, never = (
        market_of(columns_of(endpoints), endpoints), np.ones((ROWS, 2), bool), np.zeros(2, bool)
    )  # fmt: skip
    usd = offered.by_endpoint().sum(axis=0)
    dearer = replace(offered, cost_usd=offered.cost_usd * np.array([1.0, 2.0 * usd[0] / usd[1]]))
    short = short_of(0.9, priors, ())
    assert short == pytest.approx([2 / 3, 0.0])
    assert withheld(dearer, may, never, None) == []
    assert withheld(dearer, may, never, None, short=short) == [0]


def test_a_start_is_worth_a_look_where_the_plan_saves_more_by_it() -> None:
    every = np.ones(ROWS, np.int16)

    def plan(usd: float) -> Plan:
        return Plan(every, every, usd, 0.9, usd, 0.0)

    assert worth_starting(1.0, plan(2.0), without=plan(3.1))
    assert not worth_starting(1.0, plan(2.0), without=plan(2.9)), "as often as not it is too weak"
    assert worth_starting(1.0, plan(2.0), without=Infeasible((), Nearest()))


def test_a_worker_that_costs_more_than_one_that_earlier_nights_tell_of_is_not_started_to_be_looked_at() -> (
    None
):
    endpoints = (replace(pool(30), name="known"), replace(pool(60), name="new"), priced("api", 20.0))
    offered, may, never = (
        market_of(columns_of(endpoints), endpoints), np.ones((ROWS, 3), bool), np.zeros(3, bool)
    )  # fmt: skip
    assert withheld(offered, may, never, None, told=[0]) == [1]
    assert 0 not in withheld(offered, may, never, None, told=[1]), "a cheaper one may save its start"


def test_of_two_workers_that_may_serve_one_is_started_and_the_other_weighed_by_what_that_tells() -> None:
    endpoints = (replace(pool(60), name="second"), replace(pool(30), name="first"), priced("api", 20.0))
    offered, may, never = (
        market_of(columns_of(endpoints), endpoints), np.ones((ROWS, 3), bool), np.zeros(3, bool)
    )  # fmt: skip
    assert withheld(offered, may, never, None) == [0]
    assert 1 not in withheld(offered, may, np.array([False, True, False]), None), "it is up"


def test_a_worker_waits_for_what_a_guess_of_the_others_may_be_wrong_by() -> None:
    endpoints = (replace(pool(0), name="house"), priced("api", 20.0))
    offered, may, never = (
        market_of(columns_of(endpoints), endpoints), np.ones((ROWS, 2), bool), np.zeros(2, bool)
    )  # fmt: skip
    usd = offered.by_endpoint().sum(axis=0)
    for times, waits in ((1.5, [0]), (2.5, [])):
        priced_so = replace(offered, cost_usd=offered.cost_usd * np.array([1.0, times * usd[0] / usd[1]]))
        assert withheld(priced_so, may, never, None) == []
        assert withheld(priced_so, may, never, None, guessed=True) == waits


def test_how_far_an_endpoint_falls_short_is_by_what_is_believed_of_it_and_of_the_baseline() -> None:
    assert short_of(0.5, np.array([0.6, np.nan]), ()).tolist() == [0.0, 0.0]
    assert short_of(0.9, np.array([0.4, 0.8]), (1,)) == pytest.approx([0.32 / 0.8, 0.0])


@pytest.mark.parametrize(("running", "asked"), [(1, 1), (0, 0)])
def test_what_failed_goes_to_a_worker_only_while_it_is_up(running: int, asked: int) -> None:
    """One that has stopped since the plan was made would be started, and paid for, anew."""
    endpoints = (pool(0), priced("api", 20.0))
    columns = columns_of(endpoints)
    pace = Throughput(500.0, 100.0, startup_seconds=300.0, running=running)
    offered = market(columns, endpoints, NO_TOKEN_USAGE, None, {"house": pace}, now=NOW, deadline=None)
    held = np.zeros((ROWS, 2), bool)
    held[:, 1] = True
    held[0] = False
    quality = np.ones((ROWS, 2), np.float32)
    posed = problem(columns, offered, quality, Terms(floor=1.0))
    served, none = np.where(held[:, 1], 1, -1).astype(np.int32), np.zeros(ROWS, bool)
    found = mend(posed, offered.endpoint, ["house", "openai"], quality, held, served, fixed=none)
    assert found is not None
    assert found.new.tolist() == [True] + [False] * (ROWS - 1)
    assert int((found.endpoint[found.new] == 0).sum()) == asked


@pytest.mark.parametrize(("minutes", "start_usd"), [(300, 0.0), (5, 1.0)])
def test_a_deadline_asks_for_more_workers_only_where_those_that_are_up_would_be_late(
    minutes: int, start_usd: float
) -> None:
    """What one that is up answers costs no second start: its hour is paid."""
    (house,) = endpoints = (replace(pool(60), workers=WorkerSpec("cpu", 2, "python", minimum_minutes=60)),)
    assert house.workers is not None
    pace = Throughput(500.0, 100.0, startup_seconds=60.0, running=1)
    deadline = NOW + timedelta(minutes=minutes)
    offered = market(
        columns_of(endpoints), endpoints, NO_TOKEN_USAGE, None, {"house": pace}, now=NOW, deadline=deadline
    )
    (offer,) = offered.offered
    assert offer.option.workers is not None
    assert offer.option.workers.start_usd == start_usd


def test_a_batch_holds_what_the_cap_can_be_reserved_for_and_whole_requests() -> None:
    endpoints = (priced("tier", 1.0, Mode.BATCH, enqueued_tokens=30_000),)
    columns = columns_of(endpoints)
    offered, quality = market_of(columns, endpoints), np.ones((ROWS, 1), np.float32)
    reserved = float(offered.most_usd[0])
    capped = problem(columns, offered, quality, Terms(cap_usd=125.5 * reserved))
    assert capped.options[0].queue_requests == 100
    assert reserved >= (TOKENS * 1.0 + 256 * 4.0) / 1e6
    free = problem(columns, offered, quality, Terms())
    assert free.options[0].queue_requests is None
    assert free.options[0].queue_tokens == pytest.approx(30_000 - TOKENS)


def test_a_turnaround_is_what_was_seen_where_batches_took_longer_than_stated() -> None:
    tier = priced("tier", 1.0, Mode.BATCH)

    def rounds(throughput: Throughput | None, seconds: float) -> float:
        (offer,) = options_for(tier, now=NOW, deadline=None, throughput=throughput)
        return offer.option.rounds(seconds)

    sooner = Throughput(turnaround_seconds=580.0, refill_seconds=400.0)
    later = Throughput(turnaround_seconds=900.0, refill_seconds=800.0)
    assert [rounds(None, s) for s in (599, 600, 1200)] == [0, 1, 2]
    assert [rounds(sooner, s) for s in (599, 600, 1000, 1400)] == [0, 1, 2, 3]
    assert [rounds(later, s) for s in (899, 900, 1699, 1700)] == [0, 1, 1, 2]


@pytest.mark.parametrize("both", [True, False])
def test_what_is_mended_at_a_price_that_falls_later_waits_for_that_and_holds_up_nothing_else(
    both: bool,
) -> None:
    later = OffPeak(Decimal("0.5"), "UTC", frozenset({7}), frozenset(range(7)))
    cheap, dear = priced("cheap", 0.05), priced("dear", 20.0)
    endpoints = (cheap, replace(dear, price=replace(dear.price, off_peak=(later,))))
    decision, offered = decided(endpoints, [0.7, 0.98], 0.7)
    assert isinstance(decision.plan, Plan)
    names = [offer.option.name for offer in offered.offered]
    assert names == ["cheap", "dear", "dear@07:00"]
    assignment = Assignment.of(
        decision.plan, offered, realtime_counterpart=np.array([-1, -1]), ordered=False, now=NOW
    )  # fmt: skip
    assignment.answered[:, 0] = True
    new = np.arange(ROWS) < 20
    option = np.where(new, 2, NOBODY).astype(np.int16)
    option[:5] = 1 if both else 2
    found = Mended(np.where(new, 1, 0).astype(np.int32), new, True, 1.0, option)
    due = due_of(found, assignment, offered, NOW.timestamp())
    assert due.position.tolist() == ([0, 1, 2, 3, 4] if both else [])
    assert due.opens_at == (None if both else NOW.timestamp() + 7 * 3600)


def test_the_pilot_waits_for_a_lower_price_where_the_whole_plan_does() -> None:
    later = OffPeak(Decimal("0.5"), "UTC", frozenset({7}), frozenset(range(7)))
    cheap, dear = priced("cheap", 0.05), priced("dear", 20.0)
    at_night = replace(dear, price=replace(dear.price, off_peak=(later,)))
    alone, _ = decided((at_night,), [0.98], 0.9)
    assert falls_in(alone) == 7 * 3600
    both, _ = decided((cheap, at_night), [0.7, 0.98], 0.7)
    assert falls_in(both) is None, "what is cheap anyway is sent now"


@pytest.mark.parametrize(
    ("took", "turnaround", "refill"),
    [
        (1200.0, 1260.0, (600.0 + 1260.0) / 2),  # longer than is stated
        (300.0, 600.0, (600.0 + 315.0) / 2),
    ],
)
def test_a_batch_tiers_turnaround_is_corrected_by_what_this_nights_batches_took(
    took: float, turnaround: float, refill: float
) -> None:
    tier = priced("tier", 1.0, Mode.BATCH)
    one = np.ones(1)
    calls = CallFigures(np.zeros(1, np.int32), np.full(1, 50), took * one, one, 0 * one)
    found = with_latencies({}, (tier,), np.full((ROWS, 1), 50, np.float32), calls)["tier"]
    assert (found.turnaround_seconds, found.refill_seconds) == (turnaround, refill)
    few = replace(calls, answers=np.full(1, 2))
    assert "tier" not in with_latencies({}, (tier,), np.full((ROWS, 1), 50, np.float32), few)
    offered = market(
        columns_of((tier,)), (tier,), NO_TOKEN_USAGE, None, {}, now=NOW, deadline=None, calls=calls
    )
    assert offered.offered[0].option.turnaround_seconds == turnaround
