"""A prompt that all requests begin with: what the provider bills as cached is planned with, and learnt."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.nights import answer, ask, known_sums, night_here, thirdshift, write_job, write_sums
from tests.support.servers import cheap, emulated


def test_the_next_plan_knows_what_the_cache_saved(tmp_path: Path) -> None:
    items, system = known_sums(120), "Add the numbers as carefully as you can, and say the sum alone. " * 200
    rows = [
        {"request_id": f"r{n}", "system": system, "prompt": row.prompt, "reference": row.reference}
        for n, row in enumerate(items)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "requests.parquet")
    price = {"input": 5, "output": 10, "cached_input": 0.5}
    with emulated([cheap()], items=items, seed=5) as emulator:
        job = write_job(tmp_path, emulator, {"cheap": {"price": price, "limits": {"concurrency": 4}}})
        assert night_here(job, "one").code == 0
        planned = answer(thirdshift("plan", job, "--json"))["cost_usd"]
        assert night_here(job, "two").code == 0
    ((cached, read, spent),) = ask(
        tmp_path / "warehouse.duckdb",
        "select sum(cached_tokens), sum(input_tokens), sum(cost_usd) from ledger where run_id = 'two'",
    )
    assert cached > 0.5 * read, "the emulated provider caches"
    assert planned == pytest.approx(float(spent), rel=0.15)


def test_other_parameters_have_no_past(tmp_path: Path) -> None:
    items = write_sums(tmp_path / "requests.parquet", 60)
    with emulated([cheap()], items=items, seed=5) as emulator:
        job = write_job(tmp_path, emulator, {"cheap": {"price": {"input": 1, "output": 100}}})
        first = answer(thirdshift("plan", job, "--json"))["endpoints"]["cheap"]["output_tokens"]
        assert night_here(job, "one").code == 0
        learnt = answer(thirdshift("plan", job, "--json"))["endpoints"]["cheap"]["output_tokens"]
        job.write_text(job.read_text().replace("api_base", "params: {reasoning_effort: high}\n  api_base"))
        again = answer(thirdshift("plan", job, "--json"))["endpoints"]["cheap"]["output_tokens"]
    assert learnt != first == again
