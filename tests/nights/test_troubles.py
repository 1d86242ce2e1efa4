"""Everything that the emulated provider can do wrong, at once: every request ends, and the ledger holds the truth. And
what is asked for at leisure is billed so."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

from tests.support.engines import MemoryJournal
from tests.support.servers import billed_usd, cheap, emulated, endpoint
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.emulator import Trouble
from thirdshift.engines.realtime.engine import RealtimeEngine
from thirdshift.router.interfaces import EngineContext, Shard
from thirdshift.router.values import Answer, Failure, FailureKind, LedgerStatus, Mode, Purpose, Request

SCHEMA = {"type": "object", "properties": {"label": {"enum": ["bug", "wish"]}}, "required": ["label"]}
WORK = [
    Request(n, f"r{n}", f"h{n}", "t", ({"role": "user", "content": f"{n}?"},), 20, response_schema=SCHEMA)
    for n in range(400)
]


def test_all_troubles_at_one_in_twenty_end_in_an_answer_or_a_named_error() -> None:
    model = cheap(
        troubles=dict.fromkeys(Trouble, 0.05), hang_seconds=3.0, slow_seconds=0.05, retry_after_seconds=0.05
    )
    notes, budget = MemoryJournal(), RunBudget(Decimal(100))
    with emulated([model]) as emulator:
        near = endpoint(emulator, "cheap")
        engine = RealtimeEngine(
            near, EngineContext(notes, budget), seed=1, timeout_seconds=1.0, backoff_first_seconds=0.01
        )
        replies = list(engine.collect(engine.submit(Shard("run", "s", "cheap", Purpose.MAIN, WORK), "k")))
        engine.close()
        met = emulator.totals()["cheap"]["troubles"]
        billed = billed_usd(emulator)
    assert set(met) == {trouble.value for trouble in Trouble}, "each was met"
    assert sorted(reply.row for reply in replies) == [request.row for request in WORK]
    kinds = Counter(reply.kind for reply in replies if isinstance(reply, Failure))
    assert min(kinds[FailureKind.REFUSED], kinds[FailureKind.CONTEXT_OVERFLOW]) >= 5
    assert kinds.total() < 80, "two in twenty lie in the request; of the rest, what passes is tried again"
    assert sum(isinstance(reply, Answer) for reply in replies) == 400 - kinds.total()
    settled = [o.cost_usd for o in notes.outcomes.values() if o.status is LedgerStatus.SETTLED]
    assert sum(settled) <= billed <= notes.cost
    assert budget.reserved_usd == 0


def test_flex_is_asked_for_on_the_wire_and_booked_at_the_price_that_is_billed() -> None:
    notes = MemoryJournal()
    with emulated([cheap()]) as emulator:
        leisure = endpoint(emulator, "cheap", Mode.FLEX)
        engine = RealtimeEngine(leisure, EngineContext(notes, RunBudget(None)))
        replies = list(
            engine.collect(engine.submit(Shard("run", "s", "cheap", Purpose.MAIN, WORK[:20]), "k"))
        )
        engine.close()
        assert {entry["mode"] for entry in emulator.books()} == {"flex"}
        assert notes.cost == billed_usd(emulator) > 0
    assert len(replies) == 20
    assert {intent.mode for intent in notes.intents.values()} == {Mode.FLEX}
