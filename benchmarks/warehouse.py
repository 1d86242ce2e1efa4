"""The warehouse at a million ledger rows: how fast parts go in, and whether each view answers within a second.

    .venv/bin/python benchmarks/warehouse.py [--rows 1000000] [--runs 100]

The rows are of so many nights of two jobs, each night's entries in parts as sealed shards leave them. Ends with one JSON
line; exit 1 where ingest is below 100,000 rows a second or a view takes a second or longer. Where others use the machine,
the clock tells of them too: rows per second of processor time stand beside it, and --cpu judges by those.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from thirdshift.warehouse.journal import parts
from thirdshift.warehouse.store import prices, runs
from thirdshift.warehouse.store.ingest import ingest_parts
from thirdshift.warehouse.store.store import Warehouse
from thirdshift.warehouse.store.views import CONTRACT_VIEWS

PART_ROWS = 50_000
"""A batch file's worth, or all of a smaller night; shards of 2,000 that land one by one are timed too."""
SMALL_ROWS, SMALL_PARTS = 2_000, 20
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


def write_parts(folder: Path, rows: int, run_count: int) -> list[Path]:
    rows_per_run = rows // run_count
    written = []
    for run in range(run_count):
        for first in range(0, rows_per_run, PART_ROWS):
            path = folder / f"{run}-{first}.parquet"
            pq.write_table(part(run, first, min(PART_ROWS, rows_per_run - first)), path, compression="zstd")
            written.append(path)
    return written


def fill_other_tables(warehouse: Warehouse, rows: int, run_count: int) -> None:
    """Runs, requests, assignments, results and prices that go with the ledger."""
    rows_per_run = rows // run_count
    for run in range(run_count):
        run_id = f"night-{run}"
        runs.start(
            warehouse, {"run_id": run_id, "job": f"job-{run % 2}", "status": "done", "started_at": NIGHT}
        )
        rows_of_prices = {"price_id": [f"{e}-{run}" for e in ENDPOINTS], "endpoint": list(ENDPOINTS)}
        prices.save(
            warehouse,
            run_id,
            pa.table(rows_of_prices | {"input_usd_per_mtok": [1.0] * 3, "output_usd_per_mtok": [5.0] * 3}),
        )
        for name, query in OTHERS.items():
            warehouse.execute(f"insert into {name} by name {query}", run_id=run_id, rows=rows_per_run)
        runs.finish(warehouse, run_id, published_at=NIGHT + timedelta(days=run))


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


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds by the clock, and of processor time."""

    clock: float
    cpu: float

    @classmethod
    def of(cls, what: Callable[[], object]) -> Took:
        clock, cpu = time.perf_counter(), time.process_time()
        what()
        return cls(time.perf_counter() - clock, time.process_time() - cpu)

    def judged(self, *, by_cpu: bool) -> float:
        return self.cpu if by_cpu else self.clock


def time_views(warehouse: Warehouse) -> dict[str, Took]:
    return {
        view: Took.of(partial(warehouse.query, QUESTIONS.get(view, f"select * from {view}")))
        for view in CONTRACT_VIEWS
    }


def ingest_all(warehouse: Path, paths: list[Path]) -> None:
    """As whoever resumes a night, or has lost the file: opened, all parts put in, closed with its checkpoint."""
    with Warehouse.open(warehouse) as w:
        ingest_parts(w, *paths)


def land(warehouse: Path, paths: list[Path]) -> None:
    """As shards that finish one after another."""
    with Warehouse.open(warehouse) as store:
        for path in paths:
            ingest_parts(store, path)


def measure(rows: int, run_count: int) -> tuple[Took, Took, dict[str, Took]]:
    """All parts into a warehouse that knows the runs; small ones on top; each view."""
    with tempfile.TemporaryDirectory(prefix="thirdshift-bench-") as name:
        folder = Path(name)
        written, warehouse = write_parts(folder, rows, run_count), folder / "w.duckdb"
        with Warehouse.open(warehouse) as w:
            fill_other_tables(w, rows, run_count)
        large = Took.of(lambda: ingest_all(warehouse, written))
        small = [folder / f"small-{n}.parquet" for n in range(SMALL_PARTS)]
        for n, path in enumerate(small):
            pq.write_table(part(run_count - 1, rows + n * SMALL_ROWS, SMALL_ROWS), path)
        on_top = Took.of(lambda: land(warehouse, small))
        with Warehouse.open(warehouse) as w:
            return large, on_top, time_views(w)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--cpu", action="store_true", help="judge by processor time")
    given = parser.parse_args()
    large, small, views = measure(given.rows, given.runs)
    seconds = {view: round(took.judged(by_cpu=given.cpu), 3) for view, took in views.items()}
    rows_per_second = given.rows / large.judged(by_cpu=given.cpu)
    met = rows_per_second >= LEAST_ROWS_PER_SECOND and max(seconds.values()) < MOST_SECONDS
    figures = {
        "rows": given.rows,
        "runs": given.runs,
        "judged_by": "processor time" if given.cpu else "the clock",
        "ingest_rows_per_second": round(given.rows / large.clock),
        "ingest_rows_per_cpu_second": round(given.rows / large.cpu),
        "small_part_rows_per_second": round(SMALL_PARTS * SMALL_ROWS / small.clock),
        "small_part_rows_per_cpu_second": round(SMALL_PARTS * SMALL_ROWS / small.cpu),
        "views_seconds": seconds,
        "met": met,
    }
    print(json.dumps(figures))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
