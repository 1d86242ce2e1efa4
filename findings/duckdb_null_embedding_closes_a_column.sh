#!/bin/sh
# DuckDB (1.5, 2.0) writes a null of a column of fixed length (an embedding, FLOAT[2]) into Parquet as if it had values: for 6
# vectors of 2 and 3 nulls 18 entries, where a null list is one entry. pyarrow 26.0.1, and pandas with it, then read nothing of the
# column, and of the file only what is asked for without it: "Length spanned by list offsets (15) larger than values array
# (length 12)". Guess: what DuckDB writes pyarrow reads, as it does for the same rows as FLOAT[]. One request without an answer
# among the embeddings of a night will do. DuckDB and Polars read the file. Ours writes its Parquet with pyarrow.
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "polars==2.1.0" "pyarrow==26.0.1"
cat >"$place/found.py" <<'PY'
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

rows = "select i as request_id, (case when i % 3 <> 1 then [i, i + 0.5] end)::{} as embedding from range(9) as t(i)"
expected = [{"request_id": i, "embedding": [i, i + 0.5] if i % 3 != 1 else None} for i in range(9)]
for kind in ("float[]", "float[2]"):
    duckdb.sql(f"copy ({rows.format(kind)}) to '{kind}.parquet'")
    assert duckdb.sql(f"from '{kind}.parquet'").fetchall() == [(row["request_id"], row["embedding"]) for row in expected]
    assert pl.read_parquet(f"{kind}.parquet", glob=False).to_dicts() == expected

assert pq.read_table("float[].parquet").to_pylist() == expected
values = [pq.read_metadata(f"{kind}.parquet").row_group(0).column(1).num_values for kind in ("float[]", "float[2]")]
assert values == [15, 18], values
try:
    raise SystemExit(f"pyarrow reads {pq.read_table('float[2].parquet')['embedding']}")
except pa.ArrowInvalid as error:
    print("duckdb", duckdb.__version__, "pyarrow", pa.__version__, "as found:", error)
assert pq.read_table("float[2].parquet", columns=["request_id"]).num_rows == 9
PY
cd "$place"
for version in 1.5.6 2.0.1; do
    "$place/venv/bin/pip" install --quiet "duckdb==$version"
    "$place/venv/bin/python" "$place/found.py"
done
