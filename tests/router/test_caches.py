"""What a provider's cache is expected to find, what it keeps at a price, and what that makes of a bill."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from tests.support.prefixes import prefixes_of
from thirdshift.router.pricing.caches import CacheableTokens, cacheable
from thirdshift.router.pricing.prices import cost_columns, cost_usd
from thirdshift.router.tokens.prefixes import Prefixes
from thirdshift.router.values import JSON, Endpoint, Price, PriceSchedule, Usage

PRICE = Price(*map(Decimal, ("5", "25", "0.5", "6.25", "10")))
UNASKED = Endpoint("gpt", "openai/gpt-5.6", PriceSchedule(PRICE))
FREE = Endpoint("old", "openai/gpt-4.1", PriceSchedule(Price(Decimal(5), Decimal(25), Decimal("0.5"))))
CLAUDE = Endpoint("claude", "openrouter/anthropic/claude-sonnet-5", PriceSchedule(PRICE))
ROWS, ALIKE, TOKENS = 50, 40, 5_000
"""So many begin with 20,000 equal letters; the others have the same length and nothing in common."""


def prompts() -> Prefixes:
    rng = np.random.default_rng(3)
    texts = ["x" * 20_000 + f"{row:05}" for row in range(ALIKE)]
    texts += ["".join(map(chr, rng.integers(97, 123, 20_005))) for _ in range(ROWS - ALIKE)]
    return prefixes_of([pa.record_batch({"messages": pa.array(texts)})])


def of(endpoint: Endpoint, marked: np.ndarray | None = None, tokens: int = TOKENS) -> CacheableTokens:
    (found,) = cacheable([endpoint], prompts(), np.full(ROWS, tokens, np.int32), marked, np.arange(ROWS))
    return found


def test_where_keeping_costs_nothing_nothing_is_written() -> None:
    cache = of(FREE)
    assert cache.kept is None
    assert cache.written(cache.found.astype(float)) is None


def test_a_provider_that_keeps_all_long_prompts_at_a_price_writes_what_it_does_not_find() -> None:
    cache = of(UNASKED)
    assert cache.kept is not None
    written = cache.written(cache.found.astype(float))
    assert written is not None
    assert (written[ALIKE:] == TOKENS // 128 * 128).all(), "nobody wrote them before"
    assert (written[:ALIKE] > 0).all()
    assert (written[:ALIKE] < 0.3 * TOKENS).all()
    short = of(UNASKED, tokens=900)
    assert short.kept is not None
    assert not short.kept.any(), "too short to be kept"


def test_claude_keeps_what_is_marked_alone_wherever_it_is_served() -> None:
    assert not of(CLAUDE).found.any()
    marked = np.arange(ROWS) % 2 == 0
    cache = of(CLAUDE, marked)
    assert cache.kept is not None
    assert not cache.found[~marked].any()
    assert not cache.kept[~marked].any()
    assert (cache.found[:ALIKE][marked[:ALIKE]] > 0.7 * TOKENS).all()
    params: dict[str, JSON] = {"cache_control": {"type": "ephemeral"}}
    every = of(Endpoint("c", CLAUDE.model, PriceSchedule(PRICE), params=params))
    assert (every.found[:ALIKE] > 0.7 * TOKENS).all(), "the endpoint's own params mark them all"


def test_the_expected_bill_is_what_writing_once_and_reading_again_costs() -> None:
    cache = of(CLAUDE, np.arange(ROWS) < ALIKE)
    found = cache.found.astype(float)
    expected = cost_columns(PRICE, np.full(ROWS, TOKENS), np.full(ROWS, 10), found, cache.written(found))[
        :ALIKE
    ]
    assert cache.kept is not None
    kept = int(cache.kept[0])
    first = cost_usd(PRICE, Usage(TOKENS, 10, written_tokens=kept))
    again = cost_usd(PRICE, Usage(TOKENS, 10, cached_tokens=kept))
    assert expected.sum() == pytest.approx(float(first + (ALIKE - 1) * again), rel=1e-3)
