"""Nights in which answers are sent on, under a limit to each vendor's share of the requests."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.nights import ask, night_here, write_job
from thirdshift.engines.emulator import EmulatedModel, Emulator, KnownRow, ability_for
from thirdshift.router.values import Price

ROWS, SHARE = 400, 0.4
MODELS = {"cheap": ("0.1", "0.4", 0.6), "mid": ("1", "4", 0.8), "dear": ("5", "20", 0.95)}


@pytest.mark.parametrize("pilot", [0, 60])
def test_no_vendor_serves_more_than_its_share_however_often_is_mended(tmp_path: Path, pilot: int) -> None:
    rows = [{"request_id": f"r{n}", "prompt": f"question {n}", "reference": f"{n}"} for n in range(ROWS)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "requests.parquet")
    models = [
        EmulatedModel(name, Price(Decimal(read), Decimal(written)), ability=ability_for(right))
        for name, (read, written, right) in MODELS.items()
    ]
    known = [KnownRow(prompt=row["prompt"], reference=row["reference"]) for row in rows]
    with Emulator(models, items=known) as provider:
        ends = {
            name: {"price": {"input": float(read), "output": float(written)}, "provider": f"of {name}"}
            for name, (read, written, _) in MODELS.items()
        }
        quality = {"floor": 0.9, "scorer": "exact", "pilot": pilot}
        job = write_job(tmp_path, provider, ends, quality=quality, policy={"max_vendor_share": SHARE})
        night = night_here(job, "one")
    assert night.summary["errors"] == 0, night.said
    assert "are sent on to another endpoint" in night.said
    counts = ask(tmp_path / "warehouse.duckdb", "select endpoint, count(*) from results group by 1")
    assert sum(count for _, count in counts) == ROWS
    assert all(count <= SHARE * ROWS for _, count in counts), (counts, night.said)
