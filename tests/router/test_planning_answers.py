"""What the planner tells: why, what quality costs, what waits, what is impossible, how the work is cut."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thirdshift.router.planning.explain import columns, why
from thirdshift.router.planning.frontier import frontier
from thirdshift.router.planning.infeasibility import dollars, hours, solve
from thirdshift.router.planning.limits import margin
from thirdshift.router.planning.options import Throughput, options_for
from thirdshift.router.planning.problem import (
    NOBODY,
    Devices,
    Infeasible,
    Option,
    Plan,
    Problem,
    Terms,
    Workers,
)
from thirdshift.router.planning.shards import Cutting, batch_cutting, cut
from thirdshift.router.planning.solve import Compromise, cheapest, fallback
from thirdshift.router.values import Endpoint, Limits, Mode, OffPeak, Price, PriceSchedule, WorkerSpec


def three(n: int = 400, terms: Terms | None = None, seed: int = 3) -> Problem:
    """A small, a middle and a frontier model over requests of graded difficulty, in two tasks."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0, 1.5, n)
    quality = 1 / (1 + np.exp(difficulty[:, None] - np.array([0.0, 1.5, 3.5])))
    tokens, out = rng.uniform(100, 900, n), rng.uniform(20, 200, n)
    cost = (tokens[:, None] + 4 * out[:, None]) * np.array([0.1, 1.0, 10.0]) * 1e-6
    options = tuple(
        Option(name, name, lab) for name, lab in (("small", "a"), ("middle", "b"), ("frontier", "c"))
    )
    task = np.arange(n) % 2
    return Problem(
        options,
        ("easy", "hard"),
        task,
        np.ones(n, int),
        cost,
        quality,
        tokens,
        out,
        terms=terms or Terms(floor=0.85),
    )


def planned(problem: Problem) -> Plan:
    answer = solve(problem)
    assert isinstance(answer, Plan), answer
    return answer


# --- why


def test_why_takes_two_lines_that_fit_a_terminal_and_name_both_options() -> None:
    problem = three()
    plan = planned(problem)
    for row in range(0, problem.n, 7):
        lines = why(problem, plan, row)
        assert len(lines) == 2
        assert all("\n" not in line and len(line) <= 160 for line in lines)
        assert problem.options[plan.choice[row]].name in lines[0]
        assert problem.options[plan.runner_up[row]].name in lines[1]


def test_a_row_without_a_second_option_says_so() -> None:
    problem = three()
    cost = problem.cost.copy()
    cost[5, 1:] = np.inf
    plan = planned(replace(problem, cost=cost))
    assert plan.runner_up[5] == -1
    assert why(replace(problem, cost=cost), plan, 5)[1] == "no other endpoint may answer it"


def test_a_row_that_nobody_may_answer_is_told_and_left_out_of_the_mean() -> None:
    problem = three()
    cost = problem.cost.copy()
    cost[7] = np.inf
    plan = planned(replace(problem, cost=cost))
    assert np.flatnonzero(plan.choice == NOBODY).tolist() == [7]
    rest = np.flatnonzero(plan.choice >= 0)
    assert plan.quality == pytest.approx(problem.quality[rest, plan.choice[rest]].mean())


def test_the_columns_add_up_to_the_plan() -> None:
    problem = three()
    plan = planned(problem)
    told = columns(problem, plan)
    assert told.cost_usd.sum() == pytest.approx(plan.cost_usd)
    assert told.quality.mean() == pytest.approx(plan.quality)
    assert (told.runner_up_usd > 0).all()


# --- what quality costs


def test_the_frontier_rises_is_convex_and_agrees_with_plans() -> None:
    problem = three(1500)
    points = frontier(problem)
    assert len(points) == 20
    floors, costs = np.array([p.floor for p in points]), np.array([p.cost_usd for p in points])
    assert (np.diff(floors) > 0).all()
    assert (np.diff(costs) >= 0).all()
    assert (np.diff(np.diff(costs) / np.diff(floors)) >= -1e-9).all()
    for point in (points[3], points[10], points[17]):
        plan = planned(problem.under(Terms(floor=point.floor)))
        assert point.cost_usd == pytest.approx(plan.cost_usd, rel=0.02)


def test_a_margin_is_paid_for_in_cost() -> None:
    assert margin(0.02, 0.5) == 0.0
    assert margin(0.02, 0.95) == pytest.approx(0.02 * NormalDist().inv_cdf(0.95))
    plain = planned(three(terms=Terms(floor=0.85)))
    safe = planned(three(terms=Terms(floor=0.85, margin=margin(0.02, 0.95))))
    assert safe.quality >= 0.85 + margin(0.02, 0.95) - 1e-6
    assert safe.cost_usd > plain.cost_usd


def test_a_floor_per_task_holds_for_every_task() -> None:
    problem = three(3001, Terms(floor=0.85, per_task=True))
    plan = planned(problem)
    quality = problem.quality[np.arange(problem.n), plan.choice]
    for task in range(len(problem.tasks)):
        of_task = problem.task == task
        assert np.average(quality[of_task], weights=problem.weight[of_task]) >= 0.85 - 1e-6


# --- waiting, and the impossible


def half_price_later(seconds: float | None) -> Problem:
    """One endpoint, full price for two hours, then half price for six; 0.1 requests a second."""
    problem = three(300, Terms(seconds=seconds))
    day = Option("flash", "flash", "a", ((0, 7200),), requests_per_second=0.1)
    night = Option("flash@18:00", "flash", "a", ((7200, 28800),), requests_per_second=0.1)
    cost = np.stack([problem.cost[:, 1], problem.cost[:, 1] / 2], axis=1)
    return replace(problem, options=(day, night), cost=cost, quality=problem.quality[:, [1, 1]])


def test_with_time_enough_the_plan_waits_for_the_lower_price_and_says_so() -> None:
    plan = planned(half_price_later(28_800))
    assert set(plan.choice) == {1}
    assert plan.waits == {"flash@18:00": 7200}
    assert plan.finish_seconds == pytest.approx(7200 + 3000)


def test_with_a_tight_deadline_it_does_not_wait() -> None:
    plan = planned(half_price_later(7000))
    assert set(plan.choice) == {0}
    assert plan.waits == {}


def test_with_a_little_time_it_waits_for_as_much_as_fits() -> None:
    plan = planned(half_price_later(8200))
    assert Counter(plan.choice.tolist()) == {0: 200, 1: 100}


def test_the_impossible_names_each_term_and_what_would_do() -> None:
    problem = three(600)
    needed = planned(problem).cost_usd
    answer = solve(problem.under(replace(problem.terms, cap_usd=needed / 2)))
    assert isinstance(answer, Infeasible)
    assert [reason.constraint for reason in answer.reasons] == ["floor", "cap_usd"]
    assert answer.nearest.cap_usd == pytest.approx(needed, rel=1e-3)
    assert answer.nearest.floor is not None
    assert answer.nearest.floor < 0.85
    assert answer.nearest.seconds is None
    assert f"{answer.nearest.floor:.2f}"[:3] in answer.reasons[0].message


def test_a_deadline_that_is_too_near_says_when_it_would_do() -> None:
    problem = half_price_later(1000)
    answer = solve(problem)
    assert isinstance(answer, Infeasible)
    assert answer.nearest.seconds is not None
    assert 2990 <= answer.nearest.seconds <= 3010
    assert any(reason.constraint == "deadline" for reason in answer.reasons)


@pytest.mark.parametrize(
    ("terms", "constraints", "says"),
    [
        pytest.param(
            Terms(max_vendor_share=0.3, seconds=1e-3, cap_usd=5.0),
            ["deadline", "max_vendor_share"],
            "3 vendors cannot give all requests",
            id="share-and-deadline-hopeless-each",
        ),
        pytest.param(
            Terms(floor=0.83, cap_usd=1e-9, seconds=1e-3),
            ["cap_usd", "deadline"],
            "a floor of 0.83 takes $",
            id="cap-and-deadline-hopeless-each",
        ),
        pytest.param(
            Terms(floor=0.999, max_vendor_share=0.3, seconds=1e-3),
            ["floor"],
            "whatever the cap and the deadline the best floor is 0.9",
            id="floor-out-of-reach",
        ),
    ],
)
def test_where_no_term_moved_alone_makes_a_plan_each_that_cannot_be_kept_is_told(
    terms: Terms, constraints: list[str], says: str
) -> None:
    slow = three(terms=terms)
    slow = replace(slow, options=tuple(replace(o, requests_per_second=1.0) for o in slow.options))
    answer = solve(slow)
    assert isinstance(answer, Infeasible)
    assert [reason.constraint for reason in answer.reasons] == constraints
    assert says in " ".join(reason.message for reason in answer.reasons)


def test_a_floor_that_the_best_endpoint_just_reaches_is_not_at_fault_where_cap_and_deadline_are() -> None:
    """Stored in single precision, 0.83 is a hair less than the floor that it reaches."""
    problem = half_price_later(1000)
    problem = replace(problem, quality=np.full(problem.quality.shape, 0.83, np.float32))
    answer = solve(problem.under(replace(problem.terms, floor=0.83, cap_usd=1e-9)))
    assert isinstance(answer, Infeasible)
    assert [reason.constraint for reason in answer.reasons] == ["cap_usd", "deadline"]


def test_out_of_reach_the_best_quality_within_the_cap_is_run() -> None:
    problem = three(600, Terms(floor=0.999, cap_usd=0.2))
    done = fallback(problem)
    assert done is not None
    plan, kind = done
    assert kind is Compromise.FLOOR
    assert plan.cost_usd <= 0.2 * (1 + 1e-9)
    better = cheapest(problem.under(Terms(floor=plan.quality + 2e-3, cap_usd=0.2)))
    assert better is None


def test_where_not_all_can_be_paid_the_plan_is_the_one_without_a_stop() -> None:
    problem = three(600, Terms(floor=0.85, cap_usd=1e-6))
    done = fallback(problem)
    assert done is not None
    assert done[1] is Compromise.STOP
    assert done[0].cost_usd == pytest.approx(planned(three(600)).cost_usd)


def test_amounts_in_messages_are_never_less_than_it_takes() -> None:
    assert dollars(31.2001) == "$31.21"
    assert dollars(0.00123) == "$0.0013"
    assert [hours(s) for s in (45, 700, 27_001)] == ["45 s", "12 min", "7.6 h"]


# --- workers


def test_a_worker_is_started_only_where_it_pays() -> None:
    def plan(n: int) -> Plan:
        problem = three(n, Terms())
        worker = Option("house", "house", "vllm", workers=Workers(2, 2.49, 20_000, 2_500, 300))
        cost = np.stack([problem.cost[:, 1], np.zeros(n)], axis=1)
        return planned(
            replace(
                problem, options=(problem.options[1], worker), cost=cost, quality=problem.quality[:, [1, 1]]
            )
        )

    few, many = plan(50), plan(3000)
    assert not few.workers
    assert many.workers == {"house": 1}
    busy = many.worker_hours["house"] - 300 / 3600
    assert 0 < busy * 2.49 < many.cost_usd


# --- endpoints as options

SCHEDULE = PriceSchedule(
    Price(Decimal("0.3"), Decimal("1.2")),
    off_peak=(OffPeak(Decimal("0.5"), "UTC", frozenset(range(18, 24)), frozenset(range(7))),),
)
AFTERNOON = datetime(2026, 11, 23, 16, tzinfo=UTC)


@pytest.mark.parametrize(("here", "each"), [(1, 1), (4, 4), (2, 1)])
def test_models_that_take_turns_on_the_same_devices_share_the_night(here: int, each: int) -> None:
    """Each of two models could answer its half of the requests in forty minutes; the night is an hour. A third one, which
    takes long to start and answers nothing well, takes nothing of it."""
    n, night, start = 400, 3600.0, 120.0
    devices = Devices("cuda", each, here)
    pace = n / 2 * 1000 / 2400
    workers = [Workers(1, 1.0, pace, math.inf, start, devices=devices) for _ in range(2)]
    options = (
        Option("small", "small", "house", workers=workers[0]),
        Option("other", "other", "house", workers=workers[1]),
        Option("api", "api", "vendor"),
        Option("slow", "slow", "house", workers=replace(workers[0], startup_seconds=1800.0)),
    )
    half = np.arange(n) % 2 == 0
    quality = np.stack(
        [np.where(half, 0.95, 0.1), np.where(half, 0.1, 0.95), np.full(n, 0.95), np.zeros(n)], axis=1
    )
    cost = np.zeros((n, 4))
    cost[:, 2] = 1.0
    tokens = np.full(n, 1000.0)
    problem = Problem(
        options, ("t",), np.zeros(n, int), np.ones(n, int), cost, quality, tokens, np.ones(n),
        terms=Terms(floor=0.94, seconds=night),
    )  # fmt: skip
    plan = planned(problem)
    local = int((plan.choice != 2).sum())
    possible = n if here > each else int((night - 2 * start) * pace / 1000)
    assert possible - 8 <= local <= possible
    assert plan.finish_seconds <= night


def test_every_worker_that_takes_its_turn_on_a_device_is_started_in_the_nights_time() -> None:
    """Two models of up to two workers on three cards: a start takes 0.4 of the night, a model's half of the requests 0.9. A
    fourth worker would leave 1.4 for work, three leave 1.8, of which the one that is alone can do 0.6."""
    n, night = 400, 3600.0
    pool = Workers(2, 1.0, n / 2 * 1000 / (0.9 * night), math.inf, 0.4 * night, devices=Devices("cuda", 1, 3))
    options = tuple(Option(name, name, "house", workers=pool) for name in ("small", "other"))
    half = np.arange(n) % 2 == 0
    quality = np.column_stack([np.where(half, 1.0, 0.0), np.where(half, 0.0, 1.0), np.ones(n)])
    cost = np.zeros((n, 3))
    cost[:, 2] = 1.0
    problem = Problem(
        (*options, Option("api", "api", "vendor")), ("t",), np.zeros(n, int), np.ones(n, int), cost, quality,
        np.full(n, 1000.0), np.ones(n), terms=Terms(floor=1.0, seconds=night),
    )  # fmt: skip
    plan = planned(problem)
    assert sum(plan.workers.values()) == 3
    assert int((plan.choice != 2).sum()) == pytest.approx(n * 1.5 / 1.8, abs=2)
    assert plan.finish_seconds <= night


def test_an_endpoint_with_off_peak_prices_is_an_option_per_price_with_windows_that_do_not_overlap() -> None:
    flash = Endpoint("flash", "deepseek/flash", SCHEDULE, limits=Limits(rpm=600, tpm=60_000))
    now, later = options_for(flash, now=AFTERNOON, deadline=AFTERNOON + timedelta(hours=8))
    assert (now.option.name, now.factor, now.option.windows) == ("flash", 1, ((0, 7200),))
    assert (later.option.name, later.factor) == ("flash@18:00", Decimal("0.5"))
    assert later.option.windows == ((7200, 28_800),)
    assert now.option.requests_per_second == 10
    assert now.option.tokens_per_second == 1000
    (only,) = options_for(flash, now=AFTERNOON, deadline=AFTERNOON + timedelta(hours=1))
    assert only.option.name == "flash"
    assert only.option.windows == ()


def test_concurrency_limits_where_the_time_of_a_request_is_known() -> None:
    plain = PriceSchedule(Price(Decimal(1), Decimal(1)))
    endpoint = Endpoint("e", "x/y", plain, limits=Limits(rpm=6000, concurrency=20))
    (only,) = options_for(
        endpoint, now=AFTERNOON, deadline=None, throughput=Throughput(seconds_per_request=4)
    )
    assert only.option.requests_per_second == 5
    (unknown,) = options_for(endpoint, now=AFTERNOON, deadline=None)
    assert unknown.option.requests_per_second == 100


def test_a_batch_that_cannot_be_back_in_time_takes_nothing() -> None:
    plain = PriceSchedule(Price(Decimal(1), Decimal(1)))
    batch = Endpoint("b", "openai/x", plain, mode=Mode.BATCH, turnaround_seconds=7200)
    queued = replace(batch, limits=Limits(enqueued_tokens=100))
    (only,) = options_for(queued, now=AFTERNOON, deadline=None)
    assert only.option.max_tokens(7000) == 0
    assert only.option.max_tokens(7200 * 3 + 5) == 300
    assert only.option.max_tokens(None) == float("inf")


def test_local_workers_are_priced_by_their_hours() -> None:
    priced = PriceSchedule(Price(Decimal(0), Decimal(0)), usd_per_hour=Decimal("2.49"))
    house = Endpoint("h", "Qwen/x", priced, workers=WorkerSpec("cuda", 2, "python", minimum_minutes=30))
    (only,) = options_for(house, now=AFTERNOON, deadline=None, throughput=Throughput(startup_seconds=90))
    assert only.option.workers is not None
    assert only.option.workers.max_workers == 2
    assert only.option.workers.usd_per_hour == 2.49
    assert (only.option.workers.startup_seconds, only.option.workers.minimum_seconds) == (90, 1800)
    assert only.option.vendor == "vllm"


# --- shards


@given(seed=st.integers(0, 10_000), n=st.integers(0, 6_000), lanes=st.integers(1, 6), prefixed=st.booleans())
def test_every_planned_row_is_in_exactly_one_shard(seed: int, n: int, lanes: int, prefixed: bool) -> None:
    rng = np.random.default_rng(seed)
    options = (
        Option("a", "a", "v", requests_per_second=50.0),
        Option("b", "b", "v", workers=Workers(lanes, 1.0, 9_000, 900)),
    )
    choice = rng.integers(-1, 2, n).astype(np.int16)
    tokens, out = rng.uniform(1, 3000, n), rng.uniform(1, 500, n)
    prefix = rng.integers(0, 20, n) if prefixed else None
    shards = cut(
        choice,
        options,
        input_tokens=tokens,
        output_tokens=out,
        prefix=prefix,
        cuttings={"b": Cutting(lanes=lanes)},
    )
    rows = np.concatenate([s.rows for s in shards]) if shards else np.zeros(0, int)
    assert sorted(rows.tolist()) == np.flatnonzero(choice >= 0).tolist()
    assert all((choice[s.rows] == s.option).all() and len(s.rows) <= 2_000 for s in shards)
    lengths = [s.expected_seconds for s in shards]
    assert lengths == sorted(lengths, reverse=True)
    for e in (0, 1):
        mine = [s for s in shards if s.option == e]
        assert len(mine) <= 1 or all(len(s.rows) >= 200 or s.expected_seconds >= 20 for s in mine)


def test_workers_end_together() -> None:
    rng = np.random.default_rng(1)
    n, lanes = 4000, 3
    options = (Option("w", "w", "vllm", workers=Workers(lanes, 1.0, 4_000, 400)),)
    out = rng.lognormal(4, 1, n)
    shards = cut(
        np.zeros(n, np.int16), options, input_tokens=rng.uniform(50, 4000, n), output_tokens=out,
        cuttings={"w": Cutting(lanes=lanes)},
    )  # fmt: skip
    ends = [0.0] * lanes
    for shard in shards:
        ends[ends.index(min(ends))] += shard.expected_seconds
    assert max(ends) - min(ends) < 0.02 * max(ends)


def test_few_requests_are_few_shards() -> None:
    options = (Option("a", "a", "v"),)
    tokens = np.ones(200)
    assert len(cut(np.zeros(200, np.int16), options, input_tokens=tokens, output_tokens=tokens)) == 1


def test_batches_keep_the_providers_limits() -> None:
    n = 120_000
    options = (Option("b", "b", "v", turnaround_seconds=3600),)
    choice, ones, batch = np.zeros(n, np.int16), np.ones(n), batch_cutting(None, n)
    shards = cut(
        choice, options, input_tokens=ones, output_tokens=ones, cuttings={"b": batch}, sizes=ones * 2_000
    )
    assert max(len(s.rows) for s in shards) <= 50_000
    sizes = ones * 10_000
    heavy = cut(choice, options, input_tokens=ones, output_tokens=ones, cuttings={"b": batch}, sizes=sizes)
    assert max(len(s.rows) for s in heavy) * 10_000 <= 200e6
    queued = replace(batch, most_tokens=50_000)
    small = cut(choice, options, input_tokens=ones, output_tokens=ones, cuttings={"b": queued})
    assert max(s.tokens for s in small) <= 50_000


def test_shared_prefixes_are_side_by_side() -> None:
    n = 600
    rng = np.random.default_rng(2)
    prefix = rng.integers(0, 5, n)
    options = (Option("a", "a", "v", tokens_per_second=1000),)
    tokens = rng.uniform(100, 1000, n)
    shards = cut(np.zeros(n, np.int16), options, input_tokens=tokens, output_tokens=tokens, prefix=prefix)
    changes = sum(int((np.diff(prefix[s.rows]) != 0).sum()) for s in shards)
    assert changes <= 4


def test_what_waits_at_a_batch_tier_is_counted_in_input_tokens() -> None:
    tier = Option("tier", "tier", "v", turnaround_seconds=60, queue_tokens=1_000)
    ten = np.ones(10)
    problem = Problem(
        options=(tier,), tasks=("t",), task=np.zeros(10, np.int32), weight=np.ones(10, np.int32),
        cost=ten[:, None], quality=ten[:, None], input_tokens=100 * ten, output_tokens=900 * ten,
        terms=Terms(seconds=61),
    )  # fmt: skip
    assert isinstance(solve(problem), Plan)
    assert isinstance(solve(replace(problem, input_tokens=101 * ten)), Infeasible)


def test_a_price_window_about_to_close_counts_for_what_fits_into_it() -> None:
    closing = datetime(2026, 11, 24, 12, 50, tzinfo=UTC)
    cheap_until_one = OffPeak(Decimal("0.5"), "UTC", frozenset(range(13)), frozenset(range(7)))
    endpoint = Endpoint(
        "a",
        "openai/a",
        PriceSchedule(Price(Decimal(1), Decimal(4)), off_peak=(cheap_until_one,)),
        limits=Limits(concurrency=2),
    )
    now, later = options_for(
        endpoint,
        now=closing,
        deadline=closing + timedelta(hours=2),
        throughput=Throughput(seconds_per_request=10),
    )
    assert now.factor == Decimal("0.5")
    assert now.option.max_requests(7200) == pytest.approx(600 / 10 * 2)
    assert later.option.max_requests(7200) == pytest.approx(6600 / 10 * 2)
