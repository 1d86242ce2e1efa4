"""Nights at a batch tier that bills above its ceiling: it is named and stopped, and the money is the provider's books."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.support.nights import ask, night_here
from tests.support.scripted import Said, ScriptedProvider, completion, scripted

ROWS = 40
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 1515}
"""1,500 tokens of thought besides, which `max_tokens: 64` does not bound."""
BILLED = (10 * Decimal(1) + 1505 * Decimal(10)) / 10**6
"""What one such answer costs at 1 and 10 USD a million."""
ROOM = 340
"""Tokens that may wait at the provider: room for a batch of a dozen."""


def write_night(folder: Path, provider: ScriptedProvider, cap_usd: float, **more: Any) -> Path:
    rows = [{"request_id": f"r{n:04d}", "prompt": f"question {n:060d}"} for n in range(ROWS)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "requests.parquet")
    endpoint = {
        "name": "thinker", "model": "openai/thinker", "api_base": provider.base, "mode": "batch", "turnaround": "1s",
        "price": {"input": 1.0, "output": 10.0}, "limits": {"enqueued_tokens": ROOM},
    }  # fmt: skip
    job = {
        "name": "thoughts", "input": "requests.parquet", "warehouse": "warehouse.duckdb", "request": {"max_tokens": 64},
        "endpoints": [endpoint | more], "budget": {"cap_usd": cap_usd},
    }  # fmt: skip
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder / "job.yaml"


def test_a_batch_tier_that_bills_above_its_ceiling_is_named_stopped_and_exit_4(tmp_path: Path) -> None:
    with scripted(lambda _: Said(completion(usage=USAGE))) as provider:
        night = night_here(write_night(tmp_path, provider, cap_usd=0.1), "one")
        batches = [
            [json.loads(line)["body"] for line in provider.files[batch["input_file_id"]].splitlines()]
            for batch in provider.batches.values()
        ]
    (first,) = batches  # the next one waited for room, and was not sent when there was some
    assert 0 < len(first) == len(provider.bodies) < ROWS / 2
    books = len(provider.bodies) * BILLED
    assert books > Decimal("0.1")
    warehouse = tmp_path / "warehouse.duckdb"
    assert (night.code, night.summary["outcomes"][0]) == (4, "budget")
    assert night.summary["spent_usd"] == float(books)
    assert night.summary["unsettled_usd"] == 0
    assert ask(warehouse, "select sum(cost_usd) from ledger") == [(books,)]
    assert ask(warehouse, "select status, count(*) from ledger where cost_usd > 0 group by 1") == [
        ("settled", len(first))
    ]
    assert ask(warehouse, "select spent_usd, unsettled_usd, status from runs") == [(books, 0, "budget")]
    assert f"endpoint thinker billed {BILLED:f} USD where" in night.said
    assert "State reasoning_tokens_max, and resume" in night.said
    assert f"main: {len(first)} of {ROWS}; ${float(books):.4f} spent" in night.said
    assert f"{ROWS - len(first)} not sent" in night.said
    (most,) = ask(warehouse, "select sum(reserved_usd)::double from ledger where cost_usd > 0")[0]
    billed = f"thinker billed ${float(books):.4f} for {len(first)} attempts"
    assert night.summary["notes"] == [f"{billed} that could cost ${most:.4f} at most by its own ceiling"]


def test_what_it_has_billed_is_counted_and_the_rest_is_sent_once_its_ceiling_is_stated(
    tmp_path: Path,
) -> None:
    with scripted(lambda _: Said(completion(usage=USAGE))) as provider:
        night_here(write_night(tmp_path, provider, cap_usd=0.1), "one")
        job = write_night(tmp_path, provider, cap_usd=1.0, reasoning_tokens_max=1500)
        night = night_here(job, "one")
    books = len(provider.bodies) * BILLED
    assert (night.code, night.summary["results"], len(provider.bodies)) == (0, ROWS, ROWS)
    assert ask(tmp_path / "warehouse.duckdb", "select sum(cost_usd) from ledger") == [(books,)]
