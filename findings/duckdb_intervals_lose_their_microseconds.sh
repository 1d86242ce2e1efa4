#!/bin/sh
# DuckDB (1.5, 2.0) writes an interval (`finished_at - started_at`, how long a request took) into Parquet with milliseconds alone:
# of 250 microseconds 0 is left, also where DuckDB itself reads the file, and pyarrow 26.0.1 sees 12 raw bytes. Guess: what a
# difference of two timestamps in microseconds has is kept, and comes as a duration, as from pyarrow; or it is refused. By way
# of Arrow it is kept. `epoch(finished_at - started_at)` is a number for all readers. Ours keeps instants, and no intervals.
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "pyarrow==26.0.1"
cat >"$place/found.py" <<'PY'
from datetime import timedelta

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

took = "select 'a' as request_id, timestamp '2026-11-30 01:00:01.234567' - timestamp '2026-11-30 01:00:00' as took"
duckdb.sql(f"copy ({took} union all select 'b', interval 250 microseconds) to 'duckdb.parquet'")
wanted = [timedelta(seconds=1, microseconds=234_567), timedelta(microseconds=250)]
pq.write_table(pa.table({"request_id": ["a", "b"], "took": wanted}), "pyarrow.parquet")
assert pq.read_table("pyarrow.parquet")["took"].to_pylist() == wanted

found = [row[0] for row in duckdb.sql("select took from 'duckdb.parquet' order by request_id").fetchall()]
assert found == [timedelta(seconds=1, milliseconds=234), timedelta(0)], found
assert duckdb.sql(took).to_arrow_table()["took"][0].as_py().nanoseconds == 1_234_567_000
kind = pq.read_schema("duckdb.parquet").field("took").type
assert kind == pa.binary(12), kind
print("duckdb", duckdb.__version__, "as found:", *wanted, "->", *found, "- pyarrow", pa.__version__, "has", kind)
PY
cd "$place"
for version in 1.5.6 2.0.1; do
    "$place/venv/bin/pip" install --quiet "duckdb==$version"
    "$place/venv/bin/python" "$place/found.py"
done
