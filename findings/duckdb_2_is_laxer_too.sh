#!/bin/sh
# DuckDB 2.0 raises for 1 % 0, where 1.5 gave null, and no longer raises for sqrt(-1) and ln(0): nan and -inf now, which pass
# through sums and averages into a report. Guess: the major version that made division by zero an error kept the errors that
# there were. Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
for version in 1.5.6 2.0.1; do
    "$place/venv/bin/pip" install --quiet "duckdb==$version"
    "$place/venv/bin/python" - <<'PY'
import math

import duckdb


def asked(expression):
    try:
        return duckdb.connect().execute(f"select {expression}").fetchone()[0]
    except duckdb.Error as error:
        return type(error).__name__


found = {expression: asked(expression) for expression in ("1 % 0", "sqrt(-1)", "ln(0)")}
if duckdb.__version__ == "1.5.6":
    assert found == {"1 % 0": None, "sqrt(-1)": "OutOfRangeException", "ln(0)": "OutOfRangeException"}, found
else:
    assert found["1 % 0"] == "InvalidInputException" and math.isnan(found["sqrt(-1)"]), found
    assert found["ln(0)"] == -math.inf, found
print(duckdb.__version__, "as found:", found)
PY
done
