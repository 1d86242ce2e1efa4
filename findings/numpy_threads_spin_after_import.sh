#!/bin/sh
# numpy 2.4.6, scipy 1.17.1 (wheels with OpenBLAS 0.3.31 and 0.3.30): importing numpy starts a thread for each further core,
# and each spins for 2^26 cycles, some forty milliseconds, before it sleeps, though nothing was multiplied; scipy.linalg starts
# its own, which do the same. Guess: threads without work cost nothing. A command that takes half a second of processor time
# takes a tenth more of it on two cores, and the more the more cores there are. OPENBLAS_THREAD_TIMEOUT=4 (2^4 cycles), set
# before the import, ends that and keeps the threads.
# Exits 1 when that is so no more (or the packages cannot be had, or there is one core, or no Linux).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "numpy==2.4.6" "scipy==1.17.1"
cat >"$place/look.py" <<'PY'
import os
import sys
import threading
import time
from pathlib import Path


def others():
    """Threads beside this one, and the milliseconds of processor time that they have taken."""
    tasks = [task for task in Path("/proc/self/task").iterdir() if int(task.name) != threading.get_native_id()]
    return len(tasks), sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6


assert others() == (0, 0)
import numpy

time.sleep(1)
after_numpy = others()
import scipy.linalg

time.sleep(1)
after_scipy = others()
asked = os.environ.get("OPENBLAS_THREAD_TIMEOUT", "26 (its own)")
print(f"numpy {numpy.__version__}, scipy {scipy.__version__}, {len(os.sched_getaffinity(0))} cores, 2^{asked} cycles:",
      "threads and their ms after numpy %d, %.1f, after scipy %d, %.1f" % (*after_numpy, *after_scipy))
assert after_numpy[0] >= 1 and after_scipy[0] == 2 * after_numpy[0]
if sys.argv[1] == "spin":
    assert after_numpy[1] > 5 * after_numpy[0] and after_scipy[1] > 5 * after_scipy[0]
else:
    assert after_scipy[1] < after_scipy[0]
PY
"$place/venv/bin/python" "$place/look.py" spin
OPENBLAS_THREAD_TIMEOUT=4 "$place/venv/bin/python" "$place/look.py" sleep
