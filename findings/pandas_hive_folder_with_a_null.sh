#!/bin/sh
# pandas 3.1 cannot read a hive-partitioned folder in which one partition is null (__HIVE_DEFAULT_PARTITION__), as pyarrow,
# Polars and DuckDB write it. Guess: pandas reads what pyarrow reads, since pyarrow reads for it. pyarrow, DuckDB and Polars
# give the null back. Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "polars==2.1.0" "duckdb==2.0.1" "pyarrow==26.0.1" "pandas==3.1.1"
cd "$place"
"$place/venv/bin/python" - <<'PY'
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

table = pa.table({"request_id": ["a", "b"], "task": ["sort", None]})
ds.write_dataset(table, "in", format="parquet", partitioning=ds.partitioning(pa.schema([("task", pa.string())]), flavor="hive"))
want = {("a", "sort"), ("b", None)}
assert {(row["request_id"], row["task"]) for row in pq.read_table("in").to_pylist()} == want
found = duckdb.sql("select request_id, task from read_parquet('in/**/*.parquet', hive_partitioning = true)").fetchall()
assert set(found) == want, found
lazy = pl.scan_parquet("in/**/*.parquet", hive_partitioning=True)
assert set(lazy.select("request_id", "task").collect().rows()) == want
try:
    pd.read_parquet("in")
except pa.ArrowInvalid as error:
    assert "unify dictionaries with nulls" in str(error), error
    print("pandas", pd.__version__, "as found:", error)
else:
    raise SystemExit("pandas reads the folder now")
PY
