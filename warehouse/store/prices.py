"""The tables `prices` and `run_prices`: unit prices in force, and which of them a run could choose among."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from thirdshift.router.pricing.prices import price_id
from thirdshift.router.values import Endpoint
from thirdshift.warehouse.journal.parts import INSTANT
from thirdshift.warehouse.store.store import Warehouse


def save(warehouse: Warehouse, run_id: str, prices: pa.Table, *, choosable: bool = True) -> None:
    """Put in rows of `price_rows`; `choosable` says that the run could choose among them (not a judge's)."""
    warehouse.replace("prices", prices, ["price_id"])
    if not choosable:
        return
    pairs = prices.select(["endpoint", "price_id"])
    with_run = pairs.append_column("run_id", pa.array([run_id] * pairs.num_rows, pa.string()))
    warehouse.replace("run_prices", with_run, ["run_id", "price_id"])


def price_rows(endpoints: Sequence[Endpoint], now: datetime) -> pa.Table:
    """Return a row of `prices` per endpoint: its base price in force at `now`, USD per million tokens or per hour."""
    rows = []
    for endpoint in endpoints:
        schedule = endpoint.price
        base = schedule.base
        rows.append(
            {
                "price_id": price_id(endpoint, base),
                "endpoint": endpoint.name,
                "model": endpoint.model,
                "mode": endpoint.mode.value,
                "input_usd_per_mtok": base.input,
                "output_usd_per_mtok": base.output,
                "cached_usd_per_mtok": base.cached_input,
                "usd_per_hour": schedule.usd_per_hour,
                "source": schedule.source,
                "as_of": schedule.as_of,
                "valid_from": now,
            }
        )
    unit = pa.decimal128(18, 12)
    types = dict.fromkeys(
        ("input_usd_per_mtok", "output_usd_per_mtok", "cached_usd_per_mtok", "usd_per_hour"), unit
    )
    types |= {"as_of": pa.date32(), "valid_from": INSTANT}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in rows[0]])
    return pa.Table.from_pylist([{k: twelve_places(v) for k, v in row.items()} for row in rows], schema)


def twelve_places(value: Any) -> Any:
    """Round a unit price to the twelve places of its column."""
    return value.quantize(Decimal("1e-12")) if isinstance(value, Decimal) else value
