#!/bin/sh
# DuckDB (1.5, 2.0): a column of a JSONL or CSV file has the type that its first 20,480 lines have, and what comes later is bent
# to it without a word: behind whole numbers a score of 0.5 is 0 (JSONL) or 1 (CSV); in 2.0 what was null stays null, so that
# `error` of a batch's answers is null in every line (1.5 has them as JSON); a field that comes late in a struct is left out
# where its column alone is asked for. Guess: it raises, as it does for a text among numbers, and as Polars does for all of these
# but the last. `sample_size = -1` reads all lines first (and `maximum_sample_files` more than 32 files); ours writes both
# (warehouse/intake/sampling.py). Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "polars==2.1.0"
cat >"$place/found.py" <<'PY'
import json

import duckdb
import polars as pl

ROWS = 25_000
early = {"score": 1, "error": None, "message": {"content": "yes"}}
late = {"score": 0.5, "error": {"code": "batch_expired"}, "message": {"content": None, "refusal": "no"}}
lines = [early] * (ROWS - 5) + [late] * 5
with open("answers.jsonl", "w") as file:
    file.writelines(json.dumps(line) + "\n" for line in lines)
for name in ("score", "error"):
    with open(f"{name}s.jsonl", "w") as file:
        file.writelines(json.dumps({name: line[name]}) + "\n" for line in lines)
with open("scores.csv", "w") as file:
    file.writelines(["score\n", *(f"{line['score']}\n" for line in lines)])


def last(expression, source):
    return duckdb.sql(f"select {expression} as it from {source}").fetchall()[-1][0]


version = duckdb.__version__
first_lines, all_lines = "'answers.jsonl'", "read_json('answers.jsonl', sample_size = -1)"
found = [last("score", source) for source in ("'scores.jsonl'", "'scores.csv'", all_lines)]
assert found == [0, 1, 0.5], found
failed = [last("count(error)", source) for source in (first_lines, all_lines)]
assert failed == [5 if version == "1.5.6" else 0, 5], failed
assert last("message", first_lines) == {"content": None}
assert last("message", all_lines) == late["message"]
print("duckdb", version, "as found: 0.5 is", found[0], "in JSONL and", found[1], "in CSV; errors:", failed[0], "of 5; refusal: none")

for read, name in ((pl.read_ndjson, "scores.jsonl"), (pl.read_csv, "scores.csv"), (pl.read_ndjson, "errors.jsonl")):
    try:
        raise SystemExit(f"polars: {read(name)}")
    except pl.exceptions.ComputeError as error:
        print("polars", pl.__version__, name, str(error).splitlines()[0])
PY
cd "$place"
for version in 1.5.6 2.0.1; do
    "$place/venv/bin/pip" install --quiet "duckdb==$version"
    "$place/venv/bin/python" "$place/found.py"
done
