"""The price book: litellm's map says it, the overlay corrects it, the job overrides it; nothing is guessed.

Prices of real models are read from the map that litellm's wheel carries, and the test says which entry and
which source that entry names.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
import yaml

from thirdshift.engines.pricemap import bundled_map
from thirdshift.router.pricing.map_diff import compare, load_overlay
from thirdshift.router.pricing.pricebook import (
    Override,
    PriceMap,
    PriceMissing,
    facts_of,
    hourly,
    off_peak_rule,
    offers,
    resolve,
    schedule_for,
)
from thirdshift.router.pricing.prices import price_at
from thirdshift.router.values import Mode, OffPeak, Price

MONDAY_2 = datetime(2026, 11, 23, 2, tzinfo=UTC)
MONDAY_12 = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def real() -> PriceMap:
    return bundled_map()[0]


def per_million(entry: Any, key: str) -> Decimal:
    return Decimal(str(entry[key])) * 1_000_000


def test_deepseek_costs_its_full_price_at_two_and_the_off_peak_price_at_noon(real: PriceMap) -> None:
    entry = real["deepseek/deepseek-v4-flash"]
    assert entry["source"] == "https://api-docs.deepseek.com/quick_start/pricing"
    schedule = schedule_for("deepseek/deepseek-v4-flash", Mode.REALTIME, real)
    day, night = price_at(schedule, MONDAY_2), price_at(schedule, MONDAY_12)
    assert day.input == per_million(entry, "input_cost_per_token")
    assert day.output == per_million(entry, "output_cost_per_token")
    off_peak = entry["off_peak_pricing"]
    assert night.input == per_million(off_peak, "input_cost_per_token")
    assert night.output == per_million(off_peak, "output_cost_per_token")
    assert night.cached_input == per_million(off_peak, "cache_read_input_token_cost")


def test_deepseek_is_off_peak_all_weekend(real: PriceMap) -> None:
    schedule = schedule_for("deepseek/deepseek-v4-flash", Mode.REALTIME, real)
    saturday = datetime(2026, 11, 28, 2, tzinfo=UTC)
    assert price_at(schedule, saturday) == price_at(schedule, MONDAY_12)


def test_gpt_5_4_in_batch_and_in_real_time_are_as_openai_lists_them(real: PriceMap) -> None:
    entry = real["gpt-5.4"]
    assert entry["source"] == "https://developers.openai.com/api/docs/pricing"
    now = schedule_for("openai/gpt-5.4", Mode.REALTIME, real).base
    batch = schedule_for("openai/gpt-5.4", Mode.BATCH, real).base
    flex = schedule_for("openai/gpt-5.4", Mode.FLEX, real).base
    assert (now.input, now.output) == (
        per_million(entry, "input_cost_per_token"),
        per_million(entry, "output_cost_per_token"),
    )
    assert (batch.input, batch.output, batch.cached_input) == (
        per_million(entry, "input_cost_per_token_batches"),
        per_million(entry, "output_cost_per_token_batches"),
        per_million(entry, "cache_read_input_token_cost_batches"),
    )
    assert flex.output == per_million(entry, "output_cost_per_token_flex")
    assert batch.output * 2 == now.output


def test_gemini_with_300_000_tokens_of_context_costs_the_long_price(real: PriceMap) -> None:
    entry = real["gemini/gemini-3.1-pro-preview"]
    assert entry["source"] == "https://ai.google.dev/gemini-api/docs/pricing"
    schedule = schedule_for("gemini/gemini-3.1-pro-preview", Mode.REALTIME, real)
    long, short = price_at(schedule, MONDAY_2, 300_000), price_at(schedule, MONDAY_2, 100_000)
    assert long.input == per_million(entry, "input_cost_per_token_above_200k_tokens")
    assert long.output == per_million(entry, "output_cost_per_token_above_200k_tokens")
    assert short.input == per_million(entry, "input_cost_per_token")


def test_a_batch_without_a_long_context_price_of_its_own_pays_the_real_time_one(real: PriceMap) -> None:
    entry = real["gemini/gemini-3.1-pro-preview"]
    if "input_cost_per_token_above_200k_tokens_batches" in entry:
        pytest.skip("this map has one")
    schedule = schedule_for("gemini/gemini-3.1-pro-preview", Mode.BATCH, real)
    assert schedule.base.input == per_million(entry, "input_cost_per_token_batches")
    assert price_at(schedule, MONDAY_2, 300_000).input == per_million(
        entry, "input_cost_per_token_above_200k_tokens"
    )


def test_every_priced_chat_model_of_the_map_has_a_schedule_that_makes_sense(real: PriceMap) -> None:
    found = 0
    for name in real:
        try:
            schedule = schedule_for(name, Mode.REALTIME, real)
        except PriceMissing:
            continue
        found += 1
        for price in (schedule.base, *(tier.price for tier in schedule.tiers)):
            assert price.input >= (price.cached_input or 0) >= 0, name
    assert found > 1_000


SMALL: PriceMap = {
    "tiered": {
        "litellm_provider": "dashscope",
        "mode": "chat",
        "tiered_pricing": [
            {"input_cost_per_token": 4e-7, "output_cost_per_token": 1.2e-6, "range": [0, 256000.0]},
            {
                "input_cost_per_token": 1.2e-6,
                "output_cost_per_token": 3.6e-6,
                "output_cost_per_reasoning_token": 1.2e-5,
                "range": [256000.0, 1e6],
            },
        ],
    },
    "shanghai": {
        "litellm_provider": "tencent",
        "mode": "chat",
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 2e-6,
        "input_cost_per_token_batches": 4e-7,
        "output_cost_per_token_batches": 8e-7,
        "off_peak_pricing": {
            "input_cost_per_token": 5e-7,
            "output_cost_per_token": 1.5e-6,
            "weekday_timezone": "Asia/Shanghai",
            "windows": [{"hours_utc": ["22:30-02:00"], "weekdays": [1]}],
        },
    },
    "embedder": {"litellm_provider": "openai", "mode": "embedding", "input_cost_per_token": 1e-8},
    "by-request": {
        "litellm_provider": "p",
        "mode": "chat",
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 1e-6,
        "input_cost_per_request": 0.005,
    },
    "bare-model": {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 2e-6,
        "max_input_tokens": 1000,
        "max_output_tokens": 100,
        "supports_vision": True,
    },
    "reseller/maker/Bare-Model": {
        "litellm_provider": "reseller",
        "mode": "chat",
        "input_cost_per_token": 3e-6,
        "output_cost_per_token": 1e-6,
    },
}


def test_tiered_pricing_takes_the_dearer_of_two_output_prices() -> None:
    schedule = schedule_for("tiered", Mode.REALTIME, SMALL)
    assert schedule.base == Price(Decimal("0.4"), Decimal("1.2"))
    assert price_at(schedule, MONDAY_2, 256_001) == Price(Decimal("1.2"), Decimal(12))


def test_off_peak_takes_whole_hours_the_dearer_factor_and_the_weekday_of_its_zone() -> None:
    (rule,) = schedule_for("shanghai", Mode.REALTIME, SMALL).off_peak
    assert rule.factor == Decimal("0.75")
    schedule = schedule_for("shanghai", Mode.REALTIME, SMALL)
    monday_in_shanghai = datetime(2026, 11, 22, 23, 30, tzinfo=UTC)
    assert price_at(schedule, monday_in_shanghai).input == Decimal("0.75")
    assert price_at(schedule, monday_in_shanghai.replace(hour=22)).input == 1  # half an hour is no whole one
    assert price_at(schedule, datetime(2026, 11, 23, 23, 30, tzinfo=UTC)).input == 1  # Tuesday there


def test_off_peak_prices_are_real_time_prices() -> None:
    assert not schedule_for("shanghai", Mode.BATCH, SMALL).off_peak


def test_a_reseller_s_price_is_not_taken_for_another_s() -> None:
    assert resolve("openai/bare-model", SMALL) == "bare-model"
    assert resolve("openrouter/bare-model", SMALL) is None
    assert offers("maker/bare-model", SMALL) == ("reseller/maker/Bare-Model", "bare-model")


@pytest.mark.parametrize(
    ("model", "mode", "says"),
    [
        ("openai/unheard-of", Mode.REALTIME, "no openai/unheard-of"),
        ("hosted/bare-model", Mode.REALTIME, "reseller/maker/Bare-Model"),
        ("openai/bare-model", Mode.BATCH, "no batch price"),
        ("embedder", Mode.REALTIME, "embedding"),
        ("by-request", Mode.REALTIME, "per request"),
    ],
)
def test_what_has_no_price_is_refused_with_the_line_to_add(model: str, mode: Mode, says: str) -> None:
    with pytest.raises(PriceMissing, match=says) as caught:
        schedule_for(model, mode, SMALL, endpoint="flash")
    assert "endpoint flash" in str(caught.value)
    entry = yaml.safe_load("- name: flash\n" + caught.value.lines[2:])
    assert entry == [{"name": "flash", "price": {"input": "FILL_IN", "output": "FILL_IN"}}]


def test_the_job_s_price_is_for_its_own_mode_and_never_halved() -> None:
    override = Override(Price(Decimal("0.14"), Decimal("0.28")))
    for mode in Mode:
        assert schedule_for("openai/bare-model", mode, SMALL, override).base == override.price


def test_the_job_may_state_only_the_off_peak_hours() -> None:
    night = off_peak_rule(Decimal("0.5"), "UTC", [0, "10-23"], ["mon", "sun"])
    schedule = schedule_for("openai/bare-model", Mode.REALTIME, SMALL, Override(off_peak=(night,)))
    assert price_at(schedule, MONDAY_12).output == 1
    assert price_at(schedule, MONDAY_2).output == 2


def test_hardware_by_the_hour_has_free_tokens() -> None:
    schedule = schedule_for("/models/qwen", Mode.REALTIME, {}, Override(usd_per_hour=Decimal("2.49")))
    assert schedule == hourly(Decimal("2.49"))
    assert schedule.base.input == schedule.base.output == 0


def test_the_overlay_hides_the_map_and_carries_its_date() -> None:
    overlay = load_overlay(
        '[[price]]\nmodel = "bare-model"\ninput = 0.30\noutput = 1.2\n'
        'source = "price list"\nas_of = 2026-11-22\n'
    )
    schedule = schedule_for("openai/bare-model", Mode.REALTIME, SMALL, overlay=overlay)
    assert schedule.base == Price(Decimal("0.30"), Decimal("1.2"))
    assert (schedule.source, schedule.as_of) == ("price list", date(2026, 11, 22))
    job = Override(Price(Decimal(9), Decimal(9)))
    assert schedule_for("openai/bare-model", Mode.REALTIME, SMALL, job, overlay=overlay).source == "job"


@pytest.mark.parametrize(
    "text",
    [
        '[[price]]\nmodel = "m"\ninput = 1.0\noutput = 1.0\nas_of = 2026-11-22',
        '[[price]]\nmodel = "m"\ninput = -1.0\noutput = 1.0\nsource = "s"\nas_of = 2026-11-22',
        "price = 3",
    ],
)
def test_an_overlay_row_without_source_or_with_a_negative_price_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="price"):
        load_overlay(text)


def test_facts_come_from_the_map() -> None:
    facts = facts_of("openai/bare-model", SMALL)
    assert facts is not None
    assert (facts.context_window, facts.max_output_tokens, facts.modalities) == (1000, 100, ("text", "image"))
    assert facts_of("openai/unheard-of", SMALL) is None


def test_off_peak_hours_are_read_as_people_write_them() -> None:
    rule = off_peak_rule(Decimal("0.5"), "UTC", [0, "4-5"], ["sat"])
    assert rule == OffPeak(Decimal("0.5"), "UTC", frozenset({0, 4, 5}), frozenset({5}))


@pytest.mark.parametrize(
    ("tz", "hours", "days", "says"),
    [
        ("Berlin", [1], ["mon"], "time zone"),
        ("UTC", ["22-3"], ["mon"], "22-3"),
        ("UTC", [24], ["mon"], "24"),
        ("UTC", [1], ["Monday"], "Monday"),
    ],
)
def test_off_peak_mistakes_are_named(tz: str, hours: list[Any], days: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        off_peak_rule(Decimal("0.5"), tz, hours, days)


def test_a_newer_map_says_what_it_changes() -> None:
    newer = {k: dict(v) for k, v in SMALL.items() if k != "tiered"}
    newer["bare-model"]["output_cost_per_token"] = 4e-6
    newer["fresh"] = dict(newer["bare-model"])
    update = compare(SMALL, newer)
    assert (update.added, update.removed, update.problems) == (("fresh",), ("tiered",), ())
    (change,) = update.changed
    prices = (change.before.base.output, change.after.base.output)
    assert (change.model, *prices) == ("bare-model", Decimal(2), Decimal(4))


@pytest.mark.parametrize(
    ("newer", "says"),
    [
        ([], "object of models"),
        ({}, "broken file"),
        ({**SMALL, "bad": 3}, "bad: not an object"),
        ({**SMALL, "bad": {**SMALL["bare-model"], "input_cost_per_token": -1}}, "bad"),
        ({**SMALL, "bad": {**SMALL["bare-model"], "input_cost_per_token": 2.5}}, "cannot be"),
    ],
)
def test_a_map_that_cannot_be_right_is_refused_with_reasons(newer: Any, says: str) -> None:
    assert any(says in problem for problem in compare(SMALL, newer).problems)
