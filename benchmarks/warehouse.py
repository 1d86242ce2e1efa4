"""The warehouse at a million ledger rows: how fast parts go in, and whether each view answers within a second.

    .venv/bin/python benchmarks/warehouse.py [--rows N]

Ends with one JSON line; exit 1 where ingest is below 100,000 rows a second or a view takes a second or longer.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path[0] = str(Path(__file__).resolve().parents[1])  # else this file itself would be `warehouse`

from warehouse import parts  # noqa: E402
from warehouse.store import Warehouse  # noqa: E402
from warehouse.views import CONTRACT_VIEWS  # noqa: E402

PART_ROWS = 50_000
"""A batch file's worth; parts of 2,000 are timed too."""
SMALL_ROWS = 2_000
RUNS = 4
ENDPOINTS = ("small", "middle", "frontier")
NIGHT = datetime(2026, 11, 1, 1, 0, tzinfo=UTC)
LEAST_ROWS_PER_SECOND = 100_000
MOST_SECONDS = 1.0


def part(run: int, first: int, rows: int) -> pa.Table:
    """Entries as engines make them: mostly main and settled, some pilot, judge, overhead and unsettled."""
    rng = np.random.default_rng(run * 1_000_003 + first)
    row = np.arange(first, first + rows)
    endpoint = rng.choice(ENDPOINTS, rows)
    purpose = rng.choice(
        ["main", "pilot", "repair", "judge", "overhead"], rows, p=[0.88, 0.04, 0.04, 0.03, 0.01]
    )
    status = rng.choice(["settled", "unsettled"], rows, p=[0.99, 0.01])
    cost = pc_decimal(rng.integers(1_000, 9_000_000, rows))
    started = pa.array(
        np.datetime64(NIGHT.replace(tzinfo=None), "us") + (row * 20_000 + run * 86_400_000_000)
    )
    columns = {
        "entry_id": pa.array([f"{run}-{n:08d}" for n in row]),
        "run_id": pa.array([f"night-{run}"] * rows),
        "shard_id": pa.array([f"s{n // SMALL_ROWS}" for n in row]),
        "row": pa.array(row),
        "request_id": pa.array([f"request-{n:08d}" for n in row]),
        "endpoint": pa.array(endpoint),
        "model": pa.array(np.char.add("lab/", endpoint)),
        "provider": pa.array(np.where(endpoint == "small", "house", "lab")),
        "mode": pa.array(["realtime"] * rows),
        "purpose": pa.array(purpose),
        "attempt": pa.array(np.ones(rows, np.int32)),
        "reserved_usd": cost,
        "started_at": started.cast(pa.timestamp("us", tz="UTC")),
        "status": pa.array(status),
        "cost_usd": cost,
        "settled_at": started.cast(pa.timestamp("us", tz="UTC")),
        "input_tokens": pa.array(rng.integers(50, 2_000, rows)),
        "output_tokens": pa.array(rng.integers(1, 800, rows)),
        "reply": pa.array(["answer"] * rows),
        "output": pa.array([f"the answer to question {n} is {n % 7}" for n in row]),
        "final": pa.array([True] * rows),
    }
    missing = {f.name: pa.nulls(rows, f.type) for f in parts.PART if f.name not in columns}
    return pa.table({f.name: (columns | missing)[f.name] for f in parts.PART}).cast(parts.PART)


def pc_decimal(nano_usd: np.ndarray) -> pa.Array:
    """Billionths of a dollar as DECIMAL(18,9)."""
    raw = np.zeros((len(nano_usd), 2), np.int64)
    raw[:, 0] = nano_usd
    return pa.Array.from_buffers(parts.USD, len(nano_usd), [None, pa.py_buffer(raw.tobytes())])


def write_parts(folder: Path, rows: int) -> list[Path]:
    each = rows // RUNS
    written = []
    for run in range(RUNS):
        for first in range(0, each, PART_ROWS):
            path = folder / f"{run}-{first}.parquet"
            pq.write_table(part(run, first, min(PART_ROWS, each - first)), path, compression="zstd")
            written.append(path)
    return written


def fill_other_tables(w: Warehouse, rows: int) -> None:
    """Runs, requests, assignments, results and prices that go with the ledger."""
    each = rows // RUNS
    for run in range(RUNS):
        run_id = f"night-{run}"
        w.start_run({"run_id": run_id, "job": f"job-{run % 2}", "status": "done", "started_at": NIGHT})
        prices = {"price_id": [f"{e}-{run}" for e in ENDPOINTS], "endpoint": list(ENDPOINTS)}
        w.save_prices(
            run_id, pa.table(prices | {"input_usd_per_mtok": [1.0] * 3, "output_usd_per_mtok": [5.0] * 3})
        )
        for name, query in OTHERS.items():
            w.execute(f"insert into {name} by name {query}", run_id=run_id, rows=each)
        w.finish_run(run_id, published_at=NIGHT + timedelta(days=run))


IDS = """select $run_id as run_id, 'request-' || lpad(n::varchar, 8, '0') as request_id, 'task ' || (n % 5) as task, n
         from range($rows) t(n)"""
OTHERS = {
    "requests": f"""select run_id, request_id, md5(request_id) as request_hash, n as source_row, task, n as row,
                    n as leader, 'team=' || (n % 10) as tag from ({IDS})""",
    "assignments": f"""select run_id, request_id, task, 'small' as endpoint, 500 as input_tokens, 100 as output_tokens,
                       0.001 as predicted_usd from ({IDS})""",
    "results": f"""select run_id, request_id, task, 'small' as endpoint, 'some answer ' || n as output,
                   'team=' || (n % 10) as tag from ({IDS})""",
}


QUESTIONS = {
    # rows of single requests, of which a reader asks for some: dbt's watermark, and what is open
    "answers": "select count(*), max(loaded_at), count(distinct run_id) from answers",
    "unsettled": "select count(*), sum(cost_usd_at_most) from unsettled",
}


def time_views(w: Warehouse) -> dict[str, float]:
    seconds = {}
    for view in CONTRACT_VIEWS:
        start, cpu = time.perf_counter(), time.process_time()
        w.query(QUESTIONS.get(view, f"select * from {view}"))
        seconds[view] = round(time.perf_counter() - start, 3)
        print(f"  {view:20} {seconds[view]:.3f} s ({time.process_time() - cpu:.2f} s of processor time)")
    return seconds


def ingest_all(warehouse: Path, paths: list[Path], label: str) -> float:
    """Rows per second, opening and closing (and its checkpoint) included."""
    rows = sum(pq.read_metadata(path).num_rows for path in paths)
    start, cpu = time.perf_counter(), time.process_time()
    with Warehouse.open(warehouse) as w:
        for path in paths:
            w.ingest(path)
    seconds = time.perf_counter() - start
    cpu = time.process_time() - cpu
    print(
        f"ingest: {rows:,} rows in {len(paths)} {label}, {rows / seconds:,.0f} rows/s ({cpu:.1f} s of processor time)"
    )
    return rows / seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory(prefix="thirdshift-bench-") as name:
        folder = Path(name)
        written = write_parts(folder, rows)
        warehouse = folder / "w.duckdb"
        with Warehouse.open(warehouse) as w:
            fill_other_tables(w, rows)
        per_second = ingest_all(warehouse, written, "parts")
        small = [folder / f"small-{n}.parquet" for n in range(20)]
        for n, path in enumerate(small):
            pq.write_table(part(RUNS - 1, rows + n * SMALL_ROWS, SMALL_ROWS), path)
        small_per_second = ingest_all(warehouse, small, "small parts on top")
        with Warehouse.open(warehouse) as w:
            views = time_views(w)
    met = per_second >= LEAST_ROWS_PER_SECOND and max(views.values()) < MOST_SECONDS
    figures = {
        "rows": rows,
        "ingest_rows_per_second": round(per_second),
        "small_part_rows_per_second": round(small_per_second),
    }
    print(json.dumps(figures | {"views_seconds": views, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
