"""Batch tiers as rows: windows, addresses, and what a window costs."""

from __future__ import annotations

from decimal import Decimal

import pytest

from thirdshift.engines.registry import tier_rows
from thirdshift.router.pricing.pricebook import Override, PriceMissing
from thirdshift.router.pricing.tier_prices import tier_price
from thirdshift.router.tiers import BatchTier, hours_of
from thirdshift.router.values import Mode, Price, PriceSchedule

REALTIME = PriceSchedule(Price(Decimal(10), Decimal(40), Decimal(1)), source="the book")


def row(name: str) -> BatchTier:
    tier = tier_rows().named(name)
    assert tier is not None
    return tier


def book(batch: Price | None, mode: Mode) -> PriceSchedule:
    """A price book of one model."""
    if mode is Mode.REALTIME:
        return REALTIME
    if batch is None:
        raise PriceMissing("m", mode, "it has none")
    return PriceSchedule(batch, source="the book")


def test_a_window_of_the_row_is_written_as_the_provider_writes_it_and_has_its_own_discount() -> None:
    groq, doubleword = tier_rows().named("groq"), tier_rows().named("doubleword")
    assert groq is not None
    assert doubleword is not None
    assert groq.with_window("72h").window == groq.with_window("3d").window
    assert groq.with_window("72h").discount == Decimal("0.25")
    assert doubleword.with_window("1h").discount == Decimal("0.56")
    assert doubleword.with_window("5h").discount is None, "of a window that no row has, nothing is guessed"


@pytest.mark.parametrize(
    ("model", "api_base", "name"),
    [
        ("openai/m", None, "openai"),
        ("openai/m", "http://127.0.0.1:1/v1", "compatible"),
        ("openai/m", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "dashscope"),
        ("groq/m", "http://127.0.0.1:1/v1", "groq"),
        ("anthropic/m", "http://127.0.0.1:1/v1", "compatible"),
        ("openai/m", "https://notapi.groq.com.example/v1", "compatible"),
    ],
)
def test_a_row_is_found_by_the_name_of_the_model_or_the_address(
    model: str, api_base: str | None, name: str
) -> None:
    tier = tier_rows().of(model, api_base)
    assert tier is not None
    assert tier.name == name


def test_of_the_books_price_and_the_rows_discount_the_dearer_holds() -> None:
    cheap, dear = Price(Decimal(1), Decimal(4)), Price(Decimal(9), Decimal(36))
    for batch, expected in ((None, Decimal("7.5")), (cheap, Decimal("7.5")), (dear, Decimal(9))):
        price = tier_price(row("groq"), lambda mode, _, batch=batch: book(batch, mode), Override())
        assert price.base.input == expected
    assert tier_price(row("groq"), lambda mode, _: book(None, mode), Override()).base.cached_input == 1


def test_without_a_price_for_the_window_asked_for_there_is_none() -> None:
    half = Price(Decimal(5), Decimal(20))
    with pytest.raises(PriceMissing, match="for another window than 72h"):
        tier_price(row("openai").with_window("72h"), lambda mode, _: book(half, mode), Override())
    with pytest.raises(PriceMissing):
        tier_price(row("together_ai"), lambda mode, _: book(None, mode), Override())


def test_a_limit_that_is_not_known_is_the_smallest_that_a_row_of_its_wire_states() -> None:
    rows = tier_rows()
    assert rows.limits_to_keep(row("deepinfra")).requests == 5_000
    assert rows.limits_to_keep(row("deepinfra")).bytes == 100_000_000
    assert rows.limits_to_keep(row("nebius")).requests == 5_000_000


@pytest.mark.parametrize("text", ["", "soon", "0h", "-1h", "24"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        hours_of(text)
