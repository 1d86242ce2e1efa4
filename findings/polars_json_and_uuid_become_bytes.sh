#!/bin/sh
# Polars 2.1: a Parquet column of the logical type JSON or UUID (as DuckDB and fastparquet write them) is read as Binary, and
# written back as bytes without any type. Guess: JSON comes as text and a UUID as text too, and both survive a round trip.
# A conversation that went through Polars is then a BLOB for DuckDB, and an id its 16 raw bytes. Ours reads bytes that are
# UTF-8 as text and refuses other ids (warehouse/intake/rendering.py: _Table.text).
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "polars==2.1.0" "duckdb==2.0.1" "pyarrow==26.0.1" "fastparquet==2026.9.0" "pandas==3.1.1"
cd "$place"
"$place/venv/bin/python" - <<'PY'
import duckdb
import fastparquet
import pandas as pd
import polars as pl

talk = '[{"role":"user","content":"hi"}]'
duckdb.sql(f"copy (select uuid() as request_id, '{talk}'::json as messages) to 'duckdb.parquet'")
fastparquet.write("fastparquet.parquet", pd.DataFrame({"messages": [[{"role": "user", "content": "hi"}]]}))

frame = pl.read_parquet("duckdb.parquet")
assert frame.schema == {"request_id": pl.Binary, "messages": pl.Binary}, frame.schema
assert frame["messages"][0] == talk.encode()
assert pl.read_parquet("fastparquet.parquet").schema == {"messages": pl.Binary}
frame.write_parquet("polars.parquet")


def kinds(name):
    rows = duckdb.sql(f"describe select * from '{name}.parquet'").fetchall()
    return {row[0]: row[1] for row in rows}


assert kinds("duckdb") == {"request_id": "UUID", "messages": "JSON"}, kinds("duckdb")
assert kinds("fastparquet") == {"messages": "JSON"}, kinds("fastparquet")
assert kinds("polars") == {"request_id": "BLOB", "messages": "BLOB"}, kinds("polars")
print("polars", pl.__version__, "as found:", kinds("duckdb"), "->", kinds("polars"))
PY
