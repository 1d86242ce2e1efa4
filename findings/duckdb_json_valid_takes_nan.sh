#!/bin/sh
# DuckDB (1.5, 2.0): json_valid says true of NaN, Infinity and a comma before a bracket, and to_json writes NaN and Infinity.
# Guess: json_valid is about JSON (RFC 8259 has none of these), and to_json gives what any parser reads. Strict parsers refuse
# such a text; Python's own takes the NaN. Ours parses messages, tools and schemas itself (warehouse/intake/messages.py).
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "orjson==3.11.4"
for version in 1.5.6 2.0.1; do
    "$place/venv/bin/pip" install --quiet "duckdb==$version"
    "$place/venv/bin/python" - <<'PY'
import duckdb
import orjson

for text in ("nan", '{"score": Infinity}', "[1,]"):
    (valid,) = duckdb.execute("select json_valid(?)", [text]).fetchone()
    assert valid, f"{duckdb.__version__}: {text} is not valid any more"
(written,) = duckdb.execute("select to_json({'score': 'nan'::double})::varchar").fetchone()
assert written == '{"score":NaN}', written
try:
    orjson.loads(written)
except orjson.JSONDecodeError as error:
    print(duckdb.__version__, "as found:", written, "is valid to it; orjson:", error)
else:
    raise SystemExit("orjson takes NaN")
PY
done
