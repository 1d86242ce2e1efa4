"""Prices are pure functions of an instant and a usage; what is reserved is never less than what is billed."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thirdshift.router.pricing.prices import (
    ceiling,
    cost_columns,
    cost_usd,
    factor_at,
    price_at,
    price_id,
    schedule_columns,
    sent_bytes,
    windows,
    worst_case_usd,
)
from thirdshift.router.values import ContextTier, Endpoint, OffPeak, Price, PriceSchedule, Request, Usage

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)

unit_prices = st.decimals(0, 200, places=4)
prices = st.builds(Price, unit_prices, unit_prices, st.none() | unit_prices)
tiers = st.lists(st.builds(ContextTier, st.integers(1, 500_000), prices), max_size=3).map(tuple)
off_peaks = st.builds(
    OffPeak,
    st.decimals("0.1", 2, places=2),
    st.sampled_from(["UTC", "Asia/Shanghai", "America/New_York", "Asia/Kolkata"]),
    st.frozensets(st.integers(0, 23)),
    st.frozensets(st.integers(0, 6)),
)
schedules = st.builds(PriceSchedule, prices, tiers, st.lists(off_peaks, max_size=3).map(tuple))
instants = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def test_cached_tokens_are_billed_apart_and_exactly() -> None:
    price = Price(Decimal("0.30"), Decimal("1.20"), Decimal("0.006"))
    usage = Usage(input_tokens=1_000, output_tokens=10, cached_tokens=900, reasoning_tokens=4)
    assert cost_usd(price, usage) == Decimal("0.000047400")


def test_without_a_cached_price_cached_tokens_cost_as_much_as_others() -> None:
    price = Price(Decimal(1), Decimal(2))
    assert cost_usd(price, Usage(1_000_000, 0, cached_tokens=500_000)) == Decimal(1)


def test_a_price_per_token_finer_than_the_ledger_is_rounded_once_for_the_call() -> None:
    price = Price(Decimal("0.0145"), Decimal(0))
    assert cost_usd(price, Usage(1, 0)) == Decimal("0.000000014")
    assert cost_usd(price, Usage(100, 0)) == Decimal("0.000001450")


def test_the_tier_reached_prices_the_whole_request() -> None:
    base, long = Price(Decimal(2), Decimal(12)), Price(Decimal(4), Decimal(18))
    schedule = PriceSchedule(base, (ContextTier(200_000, long),))
    assert price_at(schedule, MONDAY, 200_000) == base
    assert price_at(schedule, MONDAY, 200_001) == long


def test_the_ceiling_of_a_short_request_leaves_out_tiers_that_it_cannot_reach() -> None:
    base, long = Price(Decimal(2), Decimal(12)), Price(Decimal(4), Decimal(18))
    schedule = PriceSchedule(base, (ContextTier(200_000, long),))
    assert ceiling(schedule, 200_000) == base
    assert ceiling(schedule, 200_001) == ceiling(schedule) == long


def test_what_is_set_aside_is_rounded_up() -> None:
    schedule = PriceSchedule(Price(Decimal("0.0145"), Decimal(0)))
    assert worst_case_usd(schedule, 1, 0) == Decimal("0.000004191")  # 1 byte and 288 of template: 4.1905e-6


def test_off_peak_hours_are_those_of_their_own_time_zone() -> None:
    night = OffPeak(Decimal("0.5"), "Europe/Berlin", frozenset({0}), frozenset({0}))
    schedule = PriceSchedule(Price(Decimal(2), Decimal(4)), off_peak=(night,))
    assert price_at(schedule, datetime(2026, 11, 22, 23, 30, tzinfo=UTC)).input == 1  # Monday 00:30 in Berlin
    assert price_at(schedule, datetime(2026, 11, 23, 0, 30, tzinfo=UTC)).input == 2


def test_an_instant_without_a_zone_is_refused() -> None:
    schedule = PriceSchedule(Price(Decimal(1), Decimal(1)))
    with pytest.raises(ValueError, match="time zone"):
        factor_at(schedule, datetime(2026, 11, 23))  # noqa: DTZ001


@given(schedules, instants, st.integers(0, 600_000))
def test_nothing_in_force_is_ever_above_the_ceiling(
    schedule: PriceSchedule, when: datetime, tokens: int
) -> None:
    top, now = ceiling(schedule), price_at(schedule, when, tokens)
    assert now.input <= top.input
    assert now.output <= top.output
    assert (now.cached_input or 0) <= top.input


@given(
    schedules,
    instants,
    st.integers(0, 400_000),
    st.integers(1, 100_000),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_no_call_costs_more_than_was_set_aside(
    schedule: PriceSchedule, when: datetime, sent: int, most: int, used: float, cached: float, left: float
) -> None:
    tokens = int(sent * used)
    usage = Usage(tokens, int(most * left), int(tokens * cached))
    bill = cost_usd(price_at(schedule, when, tokens), usage)
    assert bill <= worst_case_usd(schedule, sent, most)


def test_reasoning_beyond_max_tokens_is_set_aside_for() -> None:
    schedule = PriceSchedule(Price(Decimal(0), Decimal(1_000_000)))
    assert worst_case_usd(schedule, 10, 5, reasoning_max=7) == Decimal(12)


def test_what_is_set_aside_counts_bytes_not_letters_and_tools_too() -> None:
    plain = Request(0, "a", "h", "t", ({"role": "user", "content": "中文"},))
    tools = Request(0, "a", "h", "t", plain.messages, tools=({"name": "look_up"},))
    image = Request(
        0, "a", "h", "t", ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},)
    )
    assert sent_bytes(plain) == 6
    assert sent_bytes(tools) > 6 + len("look_up")
    assert sent_bytes(image) > 16_000


def test_what_is_set_aside_covers_a_text_that_grows_when_it_is_composed() -> None:
    """Qwen's tokenizer composes first; Unicode keeps some letters decomposed even so, which is longer in bytes."""
    text = "\u0958\u095b\ufb2a" * 4
    composed = unicodedata.normalize("NFC", text)
    assert len(composed.encode()) > len(text.encode())
    asked = Request(0, "r", "h", "t", ({"role": "user", "content": text},))
    assert sent_bytes(asked) >= len(composed.encode())


@given(schedules, instants, st.integers(1, 200))
def test_windows_touch_cover_and_hold_one_price_each(
    schedule: PriceSchedule, start: datetime, hours: int
) -> None:
    end = start + timedelta(hours=hours)
    spans = windows(schedule, start, end)
    assert spans[0].start == start
    assert spans[-1].end == end
    for window, following in pairwise(spans):
        assert window.end == following.start
        assert window.factor != following.factor
    for window in spans:
        inside = window.start + (window.end - window.start) * 0.37
        assert factor_at(schedule, inside) == window.factor == factor_at(schedule, window.start)


def test_no_time_has_no_windows() -> None:
    assert windows(PriceSchedule(Price(Decimal(1), Decimal(1))), MONDAY, MONDAY) == ()


@given(
    schedules, st.lists(st.tuples(st.integers(0, 600_000), st.integers(0, 10_000)), min_size=1, max_size=20)
)
def test_columns_say_what_single_bills_say(schedule: PriceSchedule, calls: list[tuple[int, int]]) -> None:
    given_in = np.array([c[0] for c in calls])
    given_out = np.array([c[1] for c in calls])
    cached = given_in // 3
    columns = schedule_columns(schedule, factor_at(schedule, MONDAY), given_in, given_out, cached)
    for i, (tokens, out) in enumerate(calls):
        bill = cost_usd(price_at(schedule, MONDAY, tokens), Usage(tokens, out, tokens // 3))
        assert columns[i] == pytest.approx(float(bill), rel=1e-9, abs=2e-9)


def test_expected_output_may_be_a_fraction() -> None:
    cost = cost_columns(Price(Decimal(1), Decimal(2)), np.array([1_000_000]), np.array([0.5]))
    assert cost[0] == pytest.approx(1.000001)


def test_a_price_has_one_name_and_another_price_another() -> None:
    endpoint = Endpoint("flash", "deepseek/x", PriceSchedule(Price(Decimal(1), Decimal(2))))
    assert price_id(endpoint, Price(Decimal("1.0"), Decimal(2))) == price_id(endpoint, endpoint.price.base)
    assert price_id(endpoint, Price(Decimal("1.1"), Decimal(2))) != price_id(endpoint, endpoint.price.base)


def test_what_is_written_to_a_cache_costs_more() -> None:
    usage = Usage(1000, 10, cached_tokens=100, written_tokens=500, written_hour_tokens=200)
    stated = Price(*map(Decimal, ("5", "25", "0.5", "6.25", "10")))
    amount = Decimal("0.006175")  # 400 x 5 + 100 x 0.5 + 300 x 6.25 + 200 x 10 + 10 x 25, a million of them
    assert cost_usd(stated, usage) == amount
    assert cost_usd(replace(stated, cache_write=None, cache_write_hour=None), usage) == amount, (
        "nobody knows: as Anthropic has it"
    )
