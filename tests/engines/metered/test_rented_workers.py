"""Workers that are rented, with stand-ins for vLLM: what a restart, a resumed run and electricity leave in the books."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines import MemoryJournal
from tests.support.workers import USD_PER_HOUR, ask, pool
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.devices.energy import joules
from thirdshift.engines.metered.records import WorkerLifetime
from thirdshift.engines.vllm.engine import VllmEngine
from thirdshift.flows.dispatch.rows import worker_rows
from thirdshift.flows.planning.paid_hours import rented_until
from thirdshift.router.values import Answer, Failure, FailureKind
from thirdshift.warehouse.store.dispatch import TimePaid, paid_ahead, save_workers
from thirdshift.warehouse.store.store import Warehouse

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
LOG = Path(__file__).parents[1] / "vllm" / "logs" / "cuda_running.log"


def rented(made: VllmEngine, **context: Any) -> VllmEngine:
    """The pool with its workers rented by the hour."""
    spec = replace(made.spec, minimum_minutes=60.0)
    return VllmEngine(replace(made.endpoint, workers=spec), replace(made.engine_context, **context))


def test_a_worker_that_dies_and_comes_back_within_its_hour_is_paid_for_one(tmp_path: Path) -> None:
    journal, budget = MemoryJournal(), RunBudget(Decimal(100))
    made = rented(pool(tmp_path, journal, budget, starts=str(tmp_path / "starts"), dies=str(LOG)))
    assert all(isinstance(one, Answer) for one in ask(made, 8))
    made.close()
    first, second = made.worker_lifetimes()
    assert (first.cost_usd, second.cost_usd) == (USD_PER_HOUR, 0)
    assert journal.cost == budget.spent_usd == USD_PER_HOUR
    assert second.paid_until is not None
    assert abs(second.paid_until - first.started_at - timedelta(hours=1)) < timedelta(seconds=5)


def test_a_cap_without_room_for_the_minimum_ends_the_work_and_is_not_asked_for_ever(tmp_path: Path) -> None:
    journal, budget = MemoryJournal(), RunBudget(USD_PER_HOUR / 2)
    made = rented(pool(tmp_path, journal, budget))
    replies = ask(made, 8)
    made.close()
    assert {reply.kind for reply in replies if isinstance(reply, Failure)} == {FailureKind.BUDGET}
    assert not any(isinstance(reply, Answer) for reply in replies)
    assert (budget.spent_usd, budget.reserved_usd, made.worker_lifetimes()) == (0, 0, [])


def test_a_run_that_goes_on_within_the_hour_pays_nothing_before_its_end(tmp_path: Path) -> None:
    journal, budget = MemoryJournal(), RunBudget(Decimal(100))
    until = datetime.now(UTC) + timedelta(minutes=50)
    made = rented(pool(tmp_path, journal, budget), rented_until={"house": (until,)})
    assert all(isinstance(one, Answer) for one in ask(made, 8))
    made.close()
    assert journal.cost == 0


def test_what_earlier_processes_have_rented_is_found_in_the_books(tmp_path: Path) -> None:
    house = pool(tmp_path, MemoryJournal(), RunBudget(None)).endpoint
    life = WorkerLifetime("house-0#1", "house", "cpu", 1, NOW - timedelta(minutes=20), USD_PER_HOUR)
    life.stopped_at, life.cost_usd = NOW - timedelta(minutes=10), USD_PER_HOUR
    over = replace(life, worker_id="house-1#1", paid_until=NOW - timedelta(minutes=1))
    life.paid_until = NOW + timedelta(minutes=40)
    with Warehouse.open(tmp_path / "w.duckdb") as warehouse:
        save_workers(warehouse, worker_rows("run", [("house", life), ("house", over)]))
        warehouse.execute(
            "insert into ledger (entry_id, run_id, endpoint, purpose, status, reserved_usd, started_at) "
            f"values ('e', 'run', 'house', 'overhead', 'unsettled', {USD_PER_HOUR}, '2026-11-29 11:50:00+00')"
        )
        paid = paid_ahead(warehouse, "run", NOW)
        assert paid_ahead(warehouse, "another", NOW) == []
    assert rented_until([house], paid) == {
        "house": (NOW + timedelta(minutes=40), NOW + timedelta(minutes=50))
    }
    assert rented_until([house], [TimePaid("api", NOW, NOW, Decimal(1))]) == {"house": ()}


class Library:
    """Stands for the driver's library: two cards that count, one that is too old to."""

    def __init__(self) -> None:
        self._drawn = {b"GPU-1": 7_200_000_000, b"GPU-2": 1_000}
        self._uuids: list[bytes] = []

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:  # noqa: N802 (the library's name)
        self._uuids.append(uuid)
        handle._obj.value = len(self._uuids)
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, millijoules: Any) -> int:  # noqa: N802 (the library's name)
        drawn = self._drawn.get(self._uuids[handle.value - 1])
        millijoules._obj.value = drawn or 0
        return 3 if drawn is None else 0


def test_what_cards_have_drawn_is_the_sum_of_their_counters() -> None:
    cards = [f"GPU-{n}" for n in range(4)]
    assert joules(cards[1:3], Library()) == pytest.approx(7_200_001)
    assert joules(cards[1:4], Library()) is None, "one does not tell"
    assert joules((), Library()) is None
    assert joules(cards) is None, "no library is here"


def test_electricity_is_charged_back_beside_the_hours() -> None:
    life = WorkerLifetime(
        "w", "house", "cuda", 1, NOW, Decimal(0), Decimal("1.10"), usd_per_kwh=Decimal("0.25")
    )
    life.energy_kwh = 1.4
    assert life.accounting_usd is None, "it is still up"
    life.stopped_at = NOW + timedelta(hours=2)
    assert life.accounting_usd == Decimal("2.55")
    assert replace(life, accounting_usd_per_hour=None).accounting_usd == Decimal("0.35")
    assert replace(life, energy_kwh=None, accounting_usd_per_hour=None).accounting_usd is None
    row = worker_rows("run", [("house", life)]).to_pylist()[0]
    assert (row["energy_kwh"], row["accounting_usd"]) == (1.4, Decimal("2.55"))
