"""A relative floor: where what is known makes no mix sure enough, everything goes to the anchor, which always meets it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pytest

from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.planning.planner import Market, decide
from thirdshift.router.learning.quality_target import QualityTarget
from thirdshift.router.planning import Infeasible, Plan, Terms, solve
from thirdshift.router.planning.market import offers
from thirdshift.router.prediction.observations import Observations, Population
from thirdshift.router.pricing.caches import CacheableTokens
from thirdshift.router.tokens.output_lengths import OutputModel
from thirdshift.router.values import Endpoint, Price, PriceSchedule

ROWS, TRIED = 200, 30
ANCHOR, CHEAP = 0, 1
COST = np.array([0.02, 0.001])
ENDPOINTS = [
    Endpoint(name, f"lab/{name}", PriceSchedule(Price(Decimal(1), Decimal(1))))
    for name in ("anchor", "cheap")
]
AIM = QualityTarget(0.97, (ANCHOR,), 0.95)


def a_night() -> tuple[RequestColumns, Market]:
    ones = np.ones(ROWS, np.int32)
    columns = RequestColumns(
        rows=np.arange(ROWS),
        weight=ones,
        population=Population(np.zeros(ROWS, np.int32), np.zeros((ROWS, 0), np.float32), 1, np.ones(ROWS)),
        max_tokens=ones,
        tokens=(ones, ones),
        allowed=np.ones((ROWS, 2), np.bool_),
        caches=(CacheableTokens(ones, None),) * 2,
        prefix=np.arange(ROWS),
        tasks=("t",),
    )
    market = Market(
        offered=offers(ENDPOINTS, datetime(2026, 11, 22, tzinfo=UTC), None),
        cost_usd=np.tile(COST, (ROWS, 1)),
        output_tokens=np.ones((ROWS, 2), np.float32),
        lengths=OutputModel.__new__(OutputModel),
        hours_usd=np.zeros((ROWS, 2)),
        most_usd=np.zeros(2),
    )
    return columns, market


def tried(seed: int) -> Observations:
    """A pilot of both endpoints on the same requests: the anchor is right at nine in ten, the cheap one at eight."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(ROWS)[:TRIED]
    right = rng.random((2, TRIED)) < np.array([[0.9], [0.8]])
    return Observations(
        np.tile(rows, 2), np.repeat([ANCHOR, CHEAP], TRIED).astype(np.int32), right.ravel().astype(float)
    )


def test_where_no_mix_is_sure_enough_the_anchor_alone_serves_everything() -> None:
    columns, market = a_night()
    without_a_mix = 0
    for seed in range(12):
        decision = decide(columns, market, tried(seed), np.array([0.9, 0.8]), Terms(), AIM)
        assert isinstance(decision.plan, Plan), seed
        if isinstance(solve(decision.problem), Infeasible):
            without_a_mix += 1
            assert (market.endpoint[decision.plan.choice] == ANCHOR).all()
            assert decision.plan.cost_usd == pytest.approx(ROWS * COST[ANCHOR])
    assert without_a_mix > 0, "some of these pilots leave no mix"


def test_where_the_cap_does_not_allow_the_anchor_alone_the_floor_is_out_of_reach() -> None:
    columns, market = a_night()
    for seed in range(12):
        decision = decide(columns, market, tried(seed), np.array([0.9, 0.8]), Terms(cap_usd=0.5), AIM)
        assert isinstance(decision.plan, Infeasible), seed


def test_what_the_anchor_may_not_answer_is_answered_by_others() -> None:
    columns, market = a_night()
    barred = np.arange(ROWS) % 3 == 0
    columns = replace(columns, allowed=~(barred[:, None] & np.array([True, False])))
    alone = 0
    for seed in range(12):
        decision = decide(columns, market, tried(seed), np.array([0.9, 0.88]), Terms(), AIM)
        if not isinstance(decision.plan, Plan) or not isinstance(solve(decision.problem), Infeasible):
            continue
        alone += 1
        assert (decision.plan.choice >= 0).all()
        assert (market.endpoint[decision.plan.choice] == np.where(barred, CHEAP, ANCHOR)).all()
        assert decision.plan.quality >= (decision.floor or 1.0)
    assert alone > 0, "some of these pilots leave no mix"
