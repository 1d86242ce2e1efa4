"""Every row of the table of replies against a loopback server: what it is, and the ledger against the provider's bill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines import MemoryJournal
from tests.support.scripted import Said, ScriptedProvider, scripted
from thirdshift.engines.batch.anthropic import AnthropicBatches
from thirdshift.engines.batch.engine import BatchEngine
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.core.failures import NATURE, Nature
from thirdshift.engines.realtime.engine import RealtimeEngine
from thirdshift.engines.realtime.litellm import LitellmEngine
from thirdshift.engines.wires.reply_table import ReplyCase, page, reply_cases
from thirdshift.router.interfaces import EngineContext, Shard
from thirdshift.router.values import (
    Answer,
    Endpoint,
    Failure,
    FailureKind,
    LedgerStatus,
    Mode,
    Outcome,
    Price,
    PriceSchedule,
    Purpose,
    Request,
)

PRICES = {
    "default": Price(Decimal(4), Decimal(20), Decimal("0.4"), Decimal(5)),
    "flex": Price(Decimal(2), Decimal(10), Decimal("0.2"), Decimal("2.5")),
}
CASES = reply_cases()
IN_BATCH = [case for case in CASES if case.batch]
IN_REAL_TIME = [case for case in CASES if case.wire == "openai"]
IN_MESSAGES = [case for case in CASES if case.wire == "anthropic"]
PLAIN_ANSWER = {
    "id": "p",
    "model": "m",
    "choices": [{"message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
}


def named(case: ReplyCase) -> str:
    return f"{case.server}: {case.what}"


def invoice(case: ReplyCase) -> Decimal:
    """What the provider bills for one such reply, by its own figures."""
    if not case.bills:
        return Decimal(0)
    price = PRICES[case.price or ("flex" if case.mode == "flex" else "default")]
    bills: Mapping[str, int] = {"cached": 0, "written": 0, **case.bills}
    fresh = bills["input"] - bills["cached"] - bills["written"]
    assert price.cached_input is not None
    assert price.cache_write is not None
    return (
        price.input * fresh
        + price.cached_input * bills["cached"]
        + price.cache_write * bills["written"]
        + price.output * bills["output"]
    ) / 10**6


def request() -> Request:
    """Long enough to be what the rows bill for."""
    return Request(0, "r0", "h0", "t", ({"role": "user", "content": "question " * 4000},), 2000)


def endpoint(provider: ScriptedProvider, mode: Mode = Mode.REALTIME, model: str = "openai/m") -> Endpoint:
    asked = "flex" if mode is Mode.FLEX else "default"
    tiers = {name: PriceSchedule(price) for name, price in PRICES.items()}
    return Endpoint("near", model, tiers[asked], mode, api_base=provider.base, tier_prices=tiers)


def played(engine: Any, notes: MemoryJournal) -> tuple[Answer | Failure, list[Outcome]]:
    ticket = engine.submit(Shard("run", "s", "near", Purpose.MAIN, [request()]), "run/s")
    try:
        (reply,) = list(engine.collect(ticket))
    finally:
        engine.close()
    return reply, list(notes.outcomes.values())


def check(case: ReplyCase, reply: Answer | Failure, outcomes: list[Outcome]) -> None:
    kind = reply.kind if isinstance(reply, Failure) else None
    assert kind is case.kind
    assert NATURE[kind].value == case.nature
    for outcome in outcomes:
        assert outcome.status.value == case.books, outcome
        assert outcome.service_tier == case.tier
        if case.books == "unsettled":
            assert outcome.cost_usd >= invoice(case)
        else:
            assert outcome.cost_usd == invoice(case)


@pytest.mark.parametrize("case", IN_REAL_TIME, ids=named)
def test_a_reply_in_real_time_is_booked_as_it_is_billed(case: ReplyCase, tmp_path: Path) -> None:
    notes = MemoryJournal()
    with scripted(lambda _: Said(case.body, case.status)) as provider:
        engine_context = EngineContext(notes, RunBudget(None), keep=tmp_path)
        engine = RealtimeEngine(
            endpoint(provider, Mode(case.mode)),
            engine_context,
            backoff_first_seconds=0.001,
            patience_seconds=1.0,
            seed=1,
        )
        said, outcomes = played(engine, notes)
    check(case, said, outcomes)


@pytest.mark.parametrize("case", IN_MESSAGES, ids=named)
def test_a_message_of_anthropics_in_real_time_is_booked_as_it_is_billed(
    case: ReplyCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLY_TEST_KEY", "sk-planted")
    notes = MemoryJournal()
    with scripted(lambda _: Said(case.body, case.status)) as provider:
        here = replace(
            endpoint(provider, model="anthropic/m"),
            api_base=provider.base.removesuffix("/v1"),
            api_key_env="REPLY_TEST_KEY",
        )
        engine_context = EngineContext(notes, RunBudget(None), keep=tmp_path)
        said, outcomes = played(LitellmEngine(here, engine_context, backoff_first_seconds=0.001), notes)
    check(case, said, outcomes)


@pytest.mark.parametrize("case", IN_BATCH, ids=named)
def test_a_reply_in_a_batch_is_booked_as_it_is_billed(case: ReplyCase, tmp_path: Path) -> None:
    notes = MemoryJournal()
    with scripted(lambda _: Said(case.body, case.status)) as provider:
        engine_context = EngineContext(notes, RunBudget(None), keep=tmp_path)
        if case.wire == "anthropic":
            here = replace(endpoint(provider, Mode.BATCH, "anthropic/m"), emulated=True)
            wire: Any = AnthropicBatches(here, tmp_path)
        else:
            here, wire = endpoint(provider, Mode.BATCH), None
        engine = BatchEngine(here, engine_context, wire=wire, poll_first_seconds=0.02, poll_max_seconds=0.05)
        said, outcomes = played(engine, notes)
    check(case, said, outcomes)


def test_every_row_has_its_source_and_the_tables_are_whole() -> None:
    natures = {nature.value for nature in Nature}
    assert set(NATURE) == {None, *FailureKind}
    for case in CASES:
        assert case.source, named(case)
        assert case.as_of, named(case)
        assert case.nature in natures
        assert case.books in {status.value for status in LedgerStatus}
        assert case.wire != "anthropic" or case.batch
    assert len({named(case) for case in CASES}) == len(CASES)


def test_the_page_of_replies_is_current() -> None:
    written = Path(__file__).resolve().parents[2] / "docs" / "replies.md"
    assert written.read_text(encoding="utf-8") == page(), (
        "run: python -m thirdshift.engines.wires.reply_table > docs/replies.md"
    )
