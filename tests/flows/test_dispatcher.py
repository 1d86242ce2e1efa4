"""The dispatcher tells workers that are paid by the hour whether they need be kept."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np

from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.vllm.engine import VllmEngine
from thirdshift.flows.dispatch.dispatcher import Dispatcher
from thirdshift.flows.dispatch.work import ShardWork
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.pricing.pricebook import hourly
from thirdshift.router.values import Endpoint, Purpose, WorkerSpec
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
            dispatcher.last = True  # nothing is scored, so that nothing is repaired
            dispatcher.ensure_engines([shard])
            assert not engine.next_work.expected
