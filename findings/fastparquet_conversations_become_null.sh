#!/bin/sh
# fastparquet 2026.9 (pandas' other engine, `read_parquet(engine="fastparquet")`): a list of structs, as a column `messages` is,
# is read as null in every row, without a word. Guess: what a reader does not know it refuses, or leaves out of its columns.
# It names the column among them, reads a list of texts that pyarrow wrote beside it right, and gives None for each conversation, also when
# asked for that column alone. Written back the column is lost in the file too. A struct becomes columns of its own (`usage.input`).
# pyarrow, DuckDB and Polars read the file. Ours reads Parquet with DuckDB and refuses a request without messages.
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --no-compile fastparquet==2026.9.0 pandas==3.1.1 pyarrow==26.0.1
cd "$place"
"$place/venv/bin/python" - <<'PY'
import fastparquet
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

messages = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"question {n}"}] for n in range(3)]
tags, usage = [["a", "b"], [], ["c"]], [{"input": n, "output": 1} for n in range(3)]
table = pa.table({"id": [0, 1, 2], "messages": messages, "tags": tags, "usage": usage})
pq.write_table(table, "batch.parquet")
assert pd.read_parquet("batch.parquet", engine="pyarrow")["messages"].notna().all()

file = fastparquet.ParquetFile("batch.parquet")
frame = file.to_pandas()
assert "messages" in file.columns, file.columns
assert [list(tags) for tags in frame["tags"]] == [["a", "b"], [], ["c"]], frame["tags"]
assert list(frame.columns) == ["id", "messages", "tags", "usage.input", "usage.output"], frame.columns
assert frame["messages"].isna().all(), f"the conversations come now: {frame['messages'].tolist()}"
alone = fastparquet.ParquetFile("batch.parquet").to_pandas(columns=["messages"])
assert alone["messages"].isna().all(), alone
by_pandas = pd.read_parquet("batch.parquet", engine="fastparquet")
assert by_pandas["messages"].isna().all(), by_pandas
by_pandas[["id", "messages"]].to_parquet("back.parquet", engine="pyarrow")
assert pq.read_table("back.parquet")["messages"].null_count == 3
print("as found:", frame[["id", "messages"]].to_dict("list"))
PY
