"""Drift of prices, as the event of it is asked for: what the job's last night had, against tonight's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from thirdshift.flows.orchestration.events import PRICES_MOVED
from thirdshift.router.values import Endpoint, Mode, Price, PriceSchedule
from thirdshift.warehouse.store import prices, runs
from thirdshift.warehouse.store.store import Warehouse

NOW = datetime(2026, 11, 22, 22, tzinfo=UTC)


def endpoint(name: str, usd: str) -> Endpoint:
    price = PriceSchedule(Price(Decimal(usd), Decimal(2)), source="job")
    return Endpoint(name=name, model=f"openai/{name}", price=price, mode=Mode.REALTIME)


def test_a_price_that_is_not_the_last_nights_is_told_with_both(tmp_path: Path) -> None:
    nights = [
        ("first", "job", "0.5", 0),
        ("second", "job", "1", 1),
        ("other", "another", "7", 2),
        ("third", "job", "1.5", 3),
    ]
    with Warehouse.open(tmp_path / "warehouse.duckdb") as warehouse:
        for run_id, job, usd, day in nights:
            at = NOW + timedelta(days=day)
            runs.start(
                warehouse,
                {
                    "run_id": run_id,
                    "job": job,
                    "params": {},
                    "status": "done",
                    "outcomes": [],
                    "started_at": at,
                    "deadline": None,
                    "floor": None,
                    "cap_usd": None,
                    "planned_usd": None,
                    "config": {},
                    "job_hash": "x",
                    "input_fingerprint": None,
                    "version": "0",
                },
            )
            prices.save(
                warehouse, run_id, prices.price_rows([endpoint("moves", usd), endpoint("stays", "3")], at)
            )
        moved = warehouse.query(PRICES_MOVED, run_id="third", job="job").to_pylist()
        first = warehouse.query(PRICES_MOVED, run_id="first", job="lonely").to_pylist()
    assert moved == [
        {"endpoint": "moves", "input": 1.5, "input_before": 1.0, "output": 2.0, "output_before": 2.0}
    ]
    assert first == []
