"""What is set aside for a call, and what one is booked at that begins at one hour's price and ends at another's."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from thirdshift.engines.core.records import AttemptRecords
from thirdshift.engines.core.transport import Reply
from thirdshift.router.interfaces import Shard
from thirdshift.router.values import (
    Answer,
    Endpoint,
    LedgerStatus,
    Mode,
    OffPeak,
    Outcome,
    Price,
    PriceSchedule,
    Purpose,
    Request,
    Usage,
)
from thirdshift.world import World

NIGHT = OffPeak(Decimal("0.5"), "UTC", frozenset({2}), frozenset(range(7)))
WHOLE = Decimal("0.02")
"""The full price of the answer below."""


class Clock(World):
    """The real world at another time."""

    at = datetime(2026, 11, 29, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at


def booked(mode: Mode, sent: tuple[int, int], answered: tuple[int, int]) -> Outcome:
    world = Clock()
    schedule = PriceSchedule(Price(Decimal(10), Decimal(10)), off_peak=(NIGHT,))
    records = AttemptRecords(Endpoint("e", "openai/m", schedule, mode), world=world)
    request = Request(0, "r", "h", "t", ({"role": "user", "content": "any"},), 2000)
    world.at = world.at.replace(hour=sent[0], minute=sent[1])
    reserved = records.worst_case(request)
    intent = records.intent(Shard("run", "s", "e", Purpose.MAIN, [request]), request, 0, reserved, 10)
    world.at = world.at.replace(hour=answered[0], minute=answered[1])
    answer = Answer(0, "r", "yes", "stop", None, True)
    return records.outcome(intent, Reply(text="yes", usage=Usage(1000, 1000)), answer, final=True)


@pytest.mark.parametrize(("sent", "answered"), [((1, 59), (2, 1)), ((2, 59), (3, 1))])
def test_a_call_over_an_edge_is_booked_at_the_dearer_price_as_what_it_can_have_cost(
    sent: tuple[int, int], answered: tuple[int, int]
) -> None:
    outcome = booked(Mode.REALTIME, sent, answered)
    assert (outcome.status, outcome.cost_usd) == (LedgerStatus.UNSETTLED, WHOLE)
    assert outcome.note == "sent at one hour's price and answered at another's: at most the dearer"


@pytest.mark.parametrize(("hour", "cost"), [(1, WHOLE), (2, WHOLE / 2)])
def test_a_call_within_an_hour_is_settled_at_its_price(hour: int, cost: Decimal) -> None:
    outcome = booked(Mode.REALTIME, (hour, 1), (hour, 59))
    assert (outcome.status, outcome.cost_usd, outcome.note) == (LedgerStatus.SETTLED, cost, None)


def test_a_batch_is_settled_at_the_price_of_when_it_was_made() -> None:
    outcome = booked(Mode.BATCH, (2, 1), (9, 0))
    assert (outcome.status, outcome.cost_usd) == (LedgerStatus.SETTLED, WHOLE / 2)


def test_tools_and_what_may_be_written_to_a_cache_are_set_aside_for() -> None:
    plain = Request(0, "r", "h", "t", ({"role": "user", "content": "x" * 1000},), 10)
    kept = {"type": "text", "text": "x" * 1000, "cache_control": {"type": "ephemeral"}}
    price = Price(*map(Decimal, ("5", "25", "0.5", "6.25", "10")))
    most = AttemptRecords(Endpoint("e", "anthropic/m", PriceSchedule(price))).worst_case
    assert most(replace(plain, tools=({"name": "look_up"},))) > most(plain)
    assert most(replace(plain, messages=({"role": "user", "content": [kept]},))) > Decimal("1.9") * most(
        plain
    )
