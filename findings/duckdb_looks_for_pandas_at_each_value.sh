#!/bin/sh
# duckdb 1.5.6: where pandas is not installed, each value that is bound to a statement (number, text, decimal, time; not None)
# has Python search the disk for it twice, and forget: 60,000 searches for 10,000 rows of three values, 7.0 s of processor time
# where 3.9 s are enough once pandas, which nobody uses, is installed. Guess: an optional import is tried once. An Arrow table
# asks for it once.
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "duckdb==1.5.6" "pyarrow==26.0.1"
cat >"$place/look.py" <<'PY'
import sys
import time

import duckdb
import pyarrow as pa

ROWS = 10_000


class Searches:
    """Counts what is searched for, and finds nothing."""

    count = 0

    def find_spec(self, name, path=None, target=None):
        Searches.count += name == "pandas"


con = duckdb.connect()
con.execute("create table spent (row integer, model text, usd decimal(12, 6))")
rows = [(n, "small", n / 1000) for n in range(ROWS)]
start = time.process_time()
con.executemany("insert into spent values (?, ?, ?)", rows)
seconds = time.process_time() - start
sys.meta_path.insert(0, Searches())
con.executemany("insert into spent values (?, ?, ?)", rows)
bound = Searches.count
arrow = pa.table({"row": [1], "model": ["small"], "usd": [0.1]})
con.execute("insert into spent select * from arrow").fetchall()
print(f"duckdb {duckdb.__version__}, pandas {'there' if 'pandas' in sys.modules else 'not installed'}: {ROWS:,} rows",
      f"{seconds:.2f} s of processor time, {bound:,} searches for pandas, {Searches.count - bound} by an Arrow table")
assert bound == (0 if sys.argv[1] == "there" else 6 * ROWS) and Searches.count - bound <= 1
PY
"$place/venv/bin/python" "$place/look.py" missing
"$place/venv/bin/pip" install --quiet "pandas==3.0.1"
"$place/venv/bin/python" "$place/look.py" there
