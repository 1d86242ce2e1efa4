"""Prices as machines are rented: minimum, started hours, whole machines, times of day. By ledger and meter, on a clock."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.engines import MemoryJournal
from tests.support.meters import BEGINS, Clock, metered, work
from tests.support.patience import PATIENCE_SECONDS
from tests.support.workers import worker_endpoint
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.metered.billing import WorkerBilling
from thirdshift.engines.metered.node import WorkerMeter
from thirdshift.engines.metered.records import WorkerRecords
from thirdshift.engines.metered.rentals import Rentals
from thirdshift.engines.metered.spot import ASK_EVERY_SECONDS, SpotPrice, SpotTariff
from thirdshift.engines.metered.tariff import DailyTariff, Rental
from thirdshift.flows.planning.measured.throughput import priced_now
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.pricing.pricebook import hourly, off_peak_rule

HOUR = 3600.0
PRICE = Decimal("2.49")


class Desk:
    """Meters of the workers of one endpoint, on one clock, with a ledger."""

    def __init__(self, *, cap: Decimal | None = None, price: Decimal = PRICE, **terms: Any) -> None:
        self.clock, self.journal, self.budget = Clock(), MemoryJournal(), RunBudget(cap)
        self.spot: Decimal | None = None
        """What the job's command tells at this moment."""
        self.asked, self.said = 0, list[str]()
        context = EngineContext(self.journal, self.budget, say=self.said.append, hourly_usd=self._hourly)
        self.house = worker_endpoint(usd_per_hour=price, **terms)
        records = WorkerRecords(self.house, context)
        self.billing = WorkerBilling(
            self.house, context, records, rentals=Rentals(self.clock), clock=self.clock
        )
        self.answers = Decimal(0)

    def _hourly(self, name: str) -> Decimal | None:
        assert name == "house"
        self.asked += 1
        return self.spot

    def start(self, name: str = "house-0#1", rented: tuple[str, ...] = ()) -> WorkerMeter:
        meter = self.billing.meter("run", name, node="here", rented=rented, began=None)
        assert meter.keep_up()
        return meter

    def work(self, seconds: float, *meters: WorkerMeter, answering: bool = True) -> None:
        """Let time go by, each worker telling of it every 30 seconds."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now = min(end, self.clock.now + 30.0)
            for meter in meters:
                if answering:
                    self.answers += sum(meter.charge([1.0, 2.0]))
                else:
                    meter.idle()
                assert meter.keep_up()

    @property
    def ledger_usd(self) -> Decimal:
        """Of answers and overhead; nothing is in flight any more."""
        assert self.budget.reserved_usd == 0
        assert self.journal.intents.keys() == self.journal.outcomes.keys()
        total = self.answers + self.journal.cost
        assert total == self.budget.spent_usd
        return total


def test_a_restart_within_the_minimum_pays_it_once() -> None:
    desk = Desk(minimum_minutes=60)
    first = desk.start()
    desk.work(600, first)
    first.stop()
    desk.clock.now += 300
    second = desk.start("house-0#2")
    desk.work(600, second)
    second.stop()
    assert (first.cost_usd, second.cost_usd) == (PRICE, 0)
    assert desk.ledger_usd == PRICE


def test_after_a_restart_time_is_paid_from_the_minimums_end_on() -> None:
    desk = Desk(minimum_minutes=60)
    first = desk.start()
    desk.work(600, first)
    first.stop()
    second = desk.start("house-0#2")
    desk.work(HOUR, second)
    second.stop()
    assert second.cost_usd == pytest.approx(PRICE * 600 / 3600, abs=Decimal("1e-8"))
    assert desk.ledger_usd == first.cost_usd + second.cost_usd


def test_a_restart_after_the_minimum_is_another_rental() -> None:
    desk = Desk(minimum_minutes=60)
    for number in (1, 2):
        meter = desk.start(f"house-0#{number}")
        desk.work(600, meter)
        meter.stop()
        desk.clock.now += HOUR
    assert desk.ledger_usd == 2 * PRICE


def test_another_model_on_the_same_card_goes_on_with_its_rental() -> None:
    desk, other = Desk(minimum_minutes=60), Desk(minimum_minutes=60)
    other.clock = desk.clock
    rentals = Rentals(desk.clock)
    for one in (desk, other):
        context = EngineContext(one.journal, one.budget)
        house = worker_endpoint(usd_per_hour=PRICE, minimum_minutes=60)
        one.billing = WorkerBilling(
            house, context, WorkerRecords(house, context), rentals=rentals, clock=desk.clock
        )
    first = desk.start(rented=("GPU-1",))
    desk.work(600, first)
    first.stop()
    second, elsewhere = other.start(rented=("GPU-1",)), other.start("house-1#1", rented=("GPU-2",))
    other.work(600, second, elsewhere)
    second.stop()
    elsewhere.stop()
    assert (second.cost_usd, elsewhere.cost_usd) == (0, PRICE)
    assert (desk.ledger_usd, other.ledger_usd) == (PRICE, PRICE)


def test_a_started_hour_is_paid_in_full_and_the_next_one_begins_when_it_is_over() -> None:
    desk = Desk(billing_increment_minutes=60)
    meter = desk.start()
    desk.work(HOUR + 60, meter)
    assert 0 < meter.block_ends_in <= HOUR - 60
    meter.stop()
    assert meter.cost_usd == desk.ledger_usd == 2 * PRICE


def test_a_restart_within_a_started_hour_pays_from_the_next_one_on() -> None:
    desk = Desk(billing_increment_minutes=60)
    first = desk.start()
    desk.work(1200, first, answering=False)
    first.stop()
    second = desk.start("house-0#2")
    desk.work(HOUR, second)
    second.stop()
    assert (first.cost_usd, second.cost_usd) == (PRICE, PRICE)
    assert desk.ledger_usd == 2 * PRICE


def test_a_started_minute_is_paid_in_full() -> None:
    desk = Desk(billing_increment_minutes=1)
    meter = desk.start()
    desk.work(61, meter)
    meter.stop()
    assert desk.ledger_usd == (PRICE * 2 / 60)


@given(st.floats(1.0, 1e6), st.sampled_from([Decimal("2.49"), Decimal(3), Decimal(98)]))
def test_a_cap_of_an_hours_price_is_enough_for_an_hour_whenever_it_begins(
    begins: float, price: Decimal
) -> None:
    clock = Clock()
    clock.now = begins
    meter, *_ = metered(price, price, clock, increment_seconds=HOUR)
    assert meter.keep_up()
    assert meter.least_usd == price


def test_an_hour_that_the_cap_has_no_room_for_does_not_begin() -> None:
    desk = Desk(cap=Decimal("4.00"), billing_increment_minutes=60)
    meter = desk.start()
    desk.work(HOUR - 30, meter)
    desk.clock.now += 29
    assert not meter.keep_up()
    meter.stop()
    assert desk.ledger_usd == PRICE


def test_a_machine_that_is_rented_as_a_whole_is_paid_once_whether_or_not_all_its_workers_are_up() -> None:
    desk = Desk(price=Decimal(20), workers=8, node_price=True, cap=Decimal(11))
    some = [desk.start(f"house-{n}#1") for n in range(3)]
    desk.work(900, *some)
    some.pop().stop()
    desk.work(900, *some)
    for meter in some:
        meter.stop()
    assert desk.ledger_usd == pytest.approx(Decimal(10), abs=Decimal("1e-7"))


def test_a_machine_that_is_rented_again_is_paid_from_then_on() -> None:
    """On a cluster a worker says since when it has had its place."""
    desk = Desk(price=PRICE, workers=2, node_price=True)
    for _ in range(2):
        place = desk.clock.now
        desk.clock.now += 60
        meter = desk.billing.meter("run", "w", node="a", rented=("a",), began=place)
        assert meter.keep_up()
        desk.work(540, meter, answering=False)
        meter.stop()
        desk.clock.now += HOUR
    assert desk.ledger_usd == pytest.approx(PRICE * 1200 / 3600)


def test_the_minimum_of_a_machine_is_paid_once_for_all_its_workers() -> None:
    desk = Desk(price=Decimal(20), workers=8, node_price=True, minimum_minutes=60, cap=Decimal(21))
    meters = [desk.start(f"house-{n}#1") for n in range(8)]
    desk.work(600, *meters)
    for meter in meters:
        meter.stop()
    assert sum(meter.cost_usd for meter in meters) == desk.ledger_usd == Decimal(20)


def test_an_hour_costs_what_it_does_at_its_time_of_day() -> None:
    schedule = hourly(Decimal(4), off_peak=(off_peak_rule(Decimal("0.5"), "UTC", ("22-23", "0-5"), ()),))
    clock = Clock()
    tariff = DailyTariff(schedule, clock, lambda: datetime(2026, 11, 29, 21, 0, tzinfo=UTC))
    assert tariff.cost(1000, 1000 + HOUR) == 4
    assert tariff.cost(1000 + HOUR, 1000 + 2 * HOUR) == 2
    assert tariff.cost(1000 + 1800, 1000 + 5400) == 3
    assert tariff.cost(1000, 1000 + 24 * HOUR) == 16 * 4 + 8 * 2


def test_a_spot_price_is_asked_again_while_workers_are_up_and_holds_from_the_next_lease_on() -> None:
    desk = Desk(spot_price="./now")
    meter = desk.start()
    desk.work(ASK_EVERY_SECONDS - 10, meter)
    assert desk.asked == 0
    desk.spot = 2 * PRICE
    desk.work(60, meter)
    began = time.monotonic()
    while not desk.said:
        assert time.monotonic() < began + PATIENCE_SECONDS
        time.sleep(0.01)
    assert desk.asked == 1
    (words,) = desk.said
    assert words == "endpoint house: an hour costs $4.98 from now on; it was $2.49"
    assert priced_now([desk.house], {"house": desk.billing})[0].price.usd_per_hour == 2 * PRICE
    dear = desk.clock.now
    desk.work(HOUR - 600, meter)
    meter.stop()
    before, after = dear - BEGINS, desk.clock.now - dear
    cost = float(PRICE) * (before + 2 * after) / HOUR
    assert abs(cost - float(meter.cost_usd)) <= float(PRICE) * 63 / HOUR, (
        "what was leased is at the old price"
    )
    assert desk.ledger_usd == meter.cost_usd


def test_a_started_hour_keeps_the_price_that_it_began_with() -> None:
    clock, told = Clock(), iter([2 * PRICE, PRICE / 2, PRICE / 2])
    spot = SpotPrice(PRICE, lambda: next(told), lambda *_: None, clock=clock, begin=lambda ask: ask())
    meter, journal, budget, _ = metered(PRICE, None, clock, increment_seconds=HOUR, tariff=SpotTariff(spot))
    for price in (PRICE, 2 * PRICE, PRICE / 2):
        clock.now += 0.0 if price == PRICE else HOUR - 1.0
        assert meter.keep_up()
        clock.now += 1.0
        meter.idle()
        assert meter.keep_up()
    meter.stop()
    assert meter.cost_usd == journal.cost == budget.spent_usd == PRICE + 2 * PRICE + PRICE / 2


@given(st.floats(0, 90), st.sampled_from([0.0, 1.0, 60.0]), st.floats(0, 5 * HOUR), st.floats(0, 5 * HOUR))
def test_a_rental_is_never_paid_for_less_than_it_lasted_nor_shortened_by_lasting_longer(
    minimum: float, increment: float, shorter: float, more: float
) -> None:
    rental = Rental(60 * minimum, 60 * increment)
    until, later = rental.paid_until(0.0, shorter), rental.paid_until(0.0, shorter + more)
    assert shorter - 1e-3 <= until <= later + 1e-9


@given(
    st.sampled_from([Decimal("0.9"), Decimal(36)]),
    st.one_of(st.none(), st.decimals(Decimal("0.01"), Decimal(80), places=2)),
    st.lists(st.tuples(st.floats(0.5, 400), st.lists(st.floats(0.1, 50), max_size=3)), max_size=60),
    st.sampled_from([(0.0, 60.0), (0.0, 3600.0), (3600.0, 600.0), (90.0, 3600.0)]),
    st.one_of(st.none(), st.floats(1.0, 4000.0)),
)
def test_started_hours_are_paid_once_and_the_cap_holds_even_if_killed(
    price: Decimal,
    cap: Decimal | None,
    stretches: list[tuple[float, list[float]]],
    terms: tuple[float, float],
    paid: float | None,
) -> None:
    begins = BEGINS + (paid or 0.0)
    meter, journal, budget, clock = metered(
        price, cap, minimum_seconds=terms[0], increment_seconds=terms[1], paid_until=begins
    )

    def wait(seconds: float) -> None:
        clock.now += min(seconds, max(meter.seconds_left - 1.0, 0.0))

    answers = work(meter, journal, budget, cap, stretches, wait)
    until = Rental(0.0 if paid else terms[0], terms[1]).paid_until(begins, clock.now)
    meter.stop()
    total = answers + journal.cost
    assert total == meter.cost_usd == budget.spent_usd
    assert budget.reserved_usd == 0
    lasted = Decimal(until - begins) if journal.intents else Decimal(0)
    assert abs(total - price / 3600 * lasted) <= Decimal("1e-9") * (len(stretches) + 2)


@given(
    st.lists(st.sampled_from([None, Decimal("0.9"), Decimal(9), Decimal(36)]), min_size=1, max_size=12),
    st.one_of(st.none(), st.decimals(Decimal("0.01"), Decimal(80), places=2)),
    st.lists(st.tuples(st.floats(0.5, 400), st.lists(st.floats(0.1, 50), max_size=3)), max_size=60),
    st.sampled_from([(0.0, 0.0), (0.0, 60.0), (3600.0, 600.0), (0.0, 3600.0)]),
)
def test_the_cap_holds_however_a_spot_price_moves(
    told: list[Decimal | None],
    cap: Decimal | None,
    stretches: list[tuple[float, list[float]]],
    terms: tuple[float, float],
) -> None:
    clock, prices = Clock(), itertools.cycle(told)
    spot = SpotPrice(Decimal(9), lambda: next(prices), lambda *_: None, clock=clock, begin=lambda ask: ask())
    meter, journal, budget, _ = metered(
        Decimal(9), cap, clock, minimum_seconds=terms[0], increment_seconds=terms[1], tariff=SpotTariff(spot)
    )

    def wait(seconds: float) -> None:
        clock.now += min(seconds, max(meter.seconds_left - 1.0, 0.0))

    answers = work(meter, journal, budget, cap, stretches, wait)
    until = Rental(*terms).paid_until(BEGINS, clock.now)
    meter.stop()
    total = answers + journal.cost
    assert total == meter.cost_usd == budget.spent_usd
    assert budget.reserved_usd == 0
    known = [Decimal(9), *(price for price in told if price is not None)]
    lasted = Decimal(until - BEGINS) / 3600 if journal.intents else Decimal(0)
    assert min(known) * lasted - Decimal("1e-6") <= total <= max(known) * lasted + Decimal("1e-6")
