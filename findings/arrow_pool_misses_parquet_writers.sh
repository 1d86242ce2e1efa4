#!/bin/sh
# pyarrow 26.0.1: what a Parquet writer buffers comes from Arrow's first allocator (mimalloc) also after set_memory_pool;
# read_table and compute follow the call. Guess: the pool that is set is the pool of all that follows. mimalloc keeps what threads have freed, so a program that set the system's pool
# for that reason keeps it all the same where it writes Parquet in many threads. ARROW_DEFAULT_MEMORY_POOL=system, set before
# pyarrow is loaded, reaches the writers too.
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "pyarrow==26.0.1"
cat >"$place/look.py" <<'PY'
import sys

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

path, asked = sys.argv[1], sys.argv[2]
if asked == "call":
    pa.set_memory_pool(pa.system_memory_pool())
    assert pa.default_memory_pool().backend_name == "system"
first = pa.mimalloc_memory_pool()
letters = pa.table({"text": [f"{'letter ' * 50}{n}" for n in range(100_000)]})
read_and_computed = first.max_memory()
pq.write_table(letters, path)
written = first.max_memory()
upper = pc.utf8_upper(pq.read_table(path)["text"])
after = first.max_memory()
print("pyarrow", pa.__version__, f"{asked}: mimalloc after the table {read_and_computed:,} bytes, after writing {written:,},",
      f"after reading and computing {upper.nbytes:,} bytes {after:,}")
assert read_and_computed == 0
assert after == written
assert (written > 1_000_000) == (asked == "call"), written
PY
"$place/venv/bin/python" "$place/look.py" "$place/letters.parquet" call
ARROW_DEFAULT_MEMORY_POOL=system "$place/venv/bin/python" "$place/look.py" "$place/letters.parquet" environment
