#!/bin/sh
# Polars 2.1 writes Int128 into Parquet as 16 bytes without a logical type, known only from its own Arrow schema. Guess: it is
# refused, or written as a decimal. pyarrow then opens nothing of the file, not even the schema of its other columns; DuckDB
# reads 16 raw bytes, the lowest first. Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "polars==2.1.0" "duckdb==2.0.1" "pyarrow==26.0.1"
cd "$place"
"$place/venv/bin/python" - <<'PY'
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

frame = pl.DataFrame({"request_id": pl.Series([2, 2**70], dtype=pl.Int128), "prompt": ["x", "y"]})
frame.write_parquet("in.parquet")
assert pl.read_parquet("in.parquet")["request_id"].to_list() == [2, 2**70]
try:
    pq.read_schema("in.parquet")
except pa.ArrowNotImplementedError as error:
    print("pyarrow", pa.__version__, "as found:", error)
else:
    raise SystemExit("pyarrow opens the file now")
((kind, value),) = duckdb.sql("select typeof(request_id), request_id from 'in.parquet' limit 1").fetchall()
assert (kind, value) == ("BLOB", (2).to_bytes(16, "little")), (kind, value)
print("duckdb", duckdb.__version__, "as found:", kind, value)
PY
