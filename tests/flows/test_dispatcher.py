"""What the dispatcher lends its engines, and whether workers that are paid by the hour need be kept."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.vllm.engine import VllmEngine
from thirdshift.flows.dispatch import dispatcher as dispatching
from thirdshift.flows.dispatch.dispatcher import Dispatcher
from thirdshift.flows.dispatch.work import ShardWork
from thirdshift.router.interfaces import Budget, EngineContext
from thirdshift.router.pricing.pricebook import hourly
from thirdshift.router.values import Endpoint, Mode, Price, PriceSchedule, Purpose, WorkerSpec
from thirdshift.warehouse.journal.journal import FileJournal


def test_an_idle_worker_is_kept_only_where_something_may_follow_soon(tmp_path: Path) -> None:
    house = Endpoint("house", "m/house", hourly(Decimal(1)), workers=WorkerSpec("cpu", 1, "python"))
    with FileJournal(tmp_path) as journal:
        context = EngineContext(journal, RunBudget(None))
        shard = ShardWork("00001-main-house", "house", Purpose.MAIN, np.arange(3), datetime.now(UTC))
        with Dispatcher("run", tmp_path, {"house": house}, context, journal) as dispatcher:
            dispatcher.ensure_engines([shard])
            engine = dispatcher.engines["house"]
            assert isinstance(engine, VllmEngine)
            assert engine.next_work.expected
            dispatcher.rest()  # a price window is waited for
            assert not engine.next_work.expected
            dispatcher.ensure_engines([shard])
            assert engine.next_work.expected
            dispatcher.awaited = {"elsewhere"}  # what fails goes on to another
            dispatcher.ensure_engines([shard])
            assert not engine.next_work.expected
            dispatcher.awaited = {"house"}
            dispatcher.ensure_engines([shard])
            assert engine.next_work.expected


def test_batches_leave_money_to_the_shards_beside_them_until_those_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = Endpoint("live", "openai/m", PriceSchedule(Price(Decimal(1), Decimal(4))))
    tier = replace(live, name="tier", mode=Mode.BATCH)
    shards = [
        ShardWork(f"00001-main-{name}", name, Purpose.MAIN, np.arange(3), datetime.now(UTC))
        for name in ("live", "tier")
    ]
    lent: dict[str, Budget] = {}

    def engine_for(endpoint: Endpoint, context: EngineContext) -> ExitStack:
        lent[endpoint.name] = context.budget
        return ExitStack()  # which can be closed

    monkeypatch.setattr(dispatching, "engine_for", engine_for)
    with FileJournal(tmp_path) as journal:
        context = EngineContext(journal, RunBudget(Decimal(10)))
        with Dispatcher("run", tmp_path, {"live": live, "tier": tier}, context, journal) as dispatcher:
            dispatcher.leave_to_realtime(Decimal(5))
            dispatcher.ensure_engines(shards)
            assert lent["live"] is context.budget
            assert lent["tier"].reserve(Decimal(4))
            assert not lent["tier"].reserve(Decimal(1))
            dispatcher.ensure_engines(shards[1:])
            assert lent["tier"].reserve(Decimal(6)), "nothing is sent beside them any more"
