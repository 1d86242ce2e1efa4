"""The table `prices`: unit prices in force."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from thirdshift.router.pricing.prices import price_id
from thirdshift.router.values import Endpoint

USD = pa.decimal128(18, 9)


INSTANT = pa.timestamp("us", tz="UTC")


def price_rows(endpoints: Sequence[Endpoint], now: datetime) -> pa.Table:
    """The base price of every endpoint as it stands at `now`."""
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
    return pa.Table.from_pylist([{k: _twelve(v) for k, v in row.items()} for row in rows], schema)


def _twelve(value: Any) -> Any:
    """Unit prices have twelve places."""
    return value.quantize(Decimal("1e-12")) if isinstance(value, Decimal) else value
