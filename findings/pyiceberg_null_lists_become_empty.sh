#!/bin/sh
# pyiceberg 0.12: a null where a list of structs may stand (a message's `tool_calls`) is an empty list once it was appended, in
# the file itself, and once a file that holds the null was read. Guess: nulls survive, as they do for a list of texts, a
# struct and a map beside it. A history then says `tool_calls: []` in every message, which OpenAI refuses with 400, and what
# was null is told from what was empty no more. Ours sends no empty tool calls (warehouse/intake/messages.py: _without_blanks).
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "pyiceberg[sql-sqlite]==0.12.0" "pyarrow==26.0.1"
cd "$place"
"$place/venv/bin/python" - <<'PY'
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog

call = pa.struct([("id", pa.string()), ("name", pa.string())])
message = pa.struct([("role", pa.string()), ("content", pa.string()), ("tool_calls", pa.list_(call))])
rows = pa.table(
    {
        "messages": pa.array([[{"role": "user", "content": "hi"}], None], pa.list_(message)),
        "texts": pa.array([None, ["a"]], pa.list_(pa.string())),
        "call": pa.array([None, {"id": "1"}], call),
        "counts": pa.array([None, [("a", 1)]], pa.map_(pa.string(), pa.int64())),
    }
)
here = Path.cwd()
catalog = SqlCatalog("c", uri="sqlite:///catalog.db", warehouse=f"file://{here}/lake")
catalog.create_namespace("n")
catalog.create_table("n.written", rows.schema).append(rows)
(file,) = here.glob("lake/**/*.parquet")
pq.write_table(rows, "whole.parquet")
read = catalog.create_table("n.read", rows.schema)
read.add_files([f"file://{here}/whole.parquet"])

asked, kept = rows.to_pylist(), pq.read_table("whole.parquet").to_pylist()
assert asked == kept and asked[0]["messages"][0]["tool_calls"] is None and asked[1]["messages"] is None
for name, found in (("written", pq.read_table(file)), ("read", read.scan().to_arrow())):
    first, second = found.to_pylist()
    assert first["messages"][0]["tool_calls"] == [] and second["messages"] == [], (name, first, second)
    for column in ("texts", "call", "counts"):
        assert found[column].to_pylist() == rows[column].to_pylist(), (name, column)
    print(name, "as found:", first["messages"], second["messages"])
PY
