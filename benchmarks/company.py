"""Two jobs and a reader on one warehouse for ten minutes: nobody fails, nobody waits long.

    python benchmarks/company.py [--seconds 600]

Two processes run one night after another, each of its own job (the stages in threads, as in faults.py);
a third asks every view of the contract again and again, as `thirdshift sql` does. All use one warehouse file, which one
process has at a time. At the end every night has one result per request, what the nights settled is what the provider
billed, and no process has failed. The last line is JSON; exit 1 where one of these does not hold or a question took
longer than MOST_SECONDS to be answered.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from faults import MODELS, RESULTS, ROWS, live, write_job, write_night

from thirdshift.engines.emulator import Emulator
from thirdshift.warehouse.store.ask import ask
from thirdshift.warehouse.store.views import CONTRACT_VIEWS

JOBS = ("east", "west")
PAUSE_SECONDS = 0.2
"""Between two questions of the reader: nobody reads faster."""
MOST_SECONDS = 60.0
"""For one question, waiting included: the waits are a second or so, and a starved machine multiplies them."""
MONEY = """
select coalesce(sum(cost_usd) filter (status = 'settled'), 0) as settled,
       coalesce(sum(cost_usd) filter (status = 'unsettled'), 0) as unsettled
from ledger
"""


def work(job: Path, until: float) -> int:
    """Nights of one job, one after another, until the clock says `until`; a line of JSON."""
    nights = 0
    while nights == 0 or time.time() < until:
        code = live(job, f"{job.stem}-{nights}")
        if code not in (0, 3):  # 3: the floor was missed, which is not what is tried here
            return code
        nights += 1
    print(json.dumps({"nights": nights}))
    return 0


def read(warehouse: Path, until: float) -> int:
    """Questions until the clock says `until`; a line of JSON."""
    waits: list[float] = []
    while time.time() < until:
        for view in CONTRACT_VIEWS:
            began = time.monotonic()
            ask(warehouse, f"select * from {view}", say=lambda _: None)
            waits.append(time.monotonic() - began)
            time.sleep(PAUSE_SECONDS)
    waits.sort()
    figures = {"questions": len(waits), "median": waits[len(waits) // 2], "longest": waits[-1]}
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))
    return 0


def jobs_of(folder: Path, emulator: Emulator) -> list[Path]:
    """The same night under two names, on one warehouse."""
    text = write_job(folder, emulator).read_text()
    jobs = []
    for name in JOBS:
        path = folder / f"{name}.yaml"
        path.write_text(text.replace("name: killed", f"name: {name}"))
        jobs.append(path)
    return jobs


def measure(seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="thirdshift-company-") as name:
        folder = Path(name)
        warehouse = folder / "warehouse.duckdb"
        with Emulator(MODELS, items=write_night(folder)) as emulator:
            jobs = jobs_of(folder, emulator)
            until = str(time.time() + seconds)
            calls = {job.stem: ["--work", str(job), until] for job in jobs}
            at_work = {who: begin(call) for who, call in calls.items()}
            while not warehouse.exists() and all(process.poll() is None for process in at_work.values()):
                time.sleep(0.05)
            at_work["reader"] = begin(["--read", str(warehouse), until])
            printed = {who: process.communicate() for who, process in at_work.items()}
            failed = [who for who, process in at_work.items() if process.returncode != 0]
            for who in failed:
                print(f"{who} failed:\n{printed[who][1][-2000:]}", file=sys.stderr)
            billed = sum(Decimal(entry["cost_usd"]) for entry in emulator.books())
        figures = {
            who: json.loads(out.splitlines()[-1]) for who, (out, _) in printed.items() if who not in failed
        }
        (results,) = ask(warehouse, RESULTS).to_pylist()
        (money,) = ask(warehouse, MONEY).to_pylist()
    nights = sum(figures[name]["nights"] for name in JOBS if name in figures)
    rows = ROWS * nights
    laws = {
        "nobody_failed": not failed,
        "one_result_each": (results["results"], results["requests"], results["errors"]) == (rows, rows, 0),
        "ledger_is_what_was_billed": (money["settled"], money["unsettled"]) == (billed, 0),
        "readers_wait_briefly": figures.get("reader", {"longest": MOST_SECONDS})["longest"] < MOST_SECONDS,
    }
    return {"seconds": seconds, "requests": rows, **figures, "laws": laws, "ok": all(laws.values())}


def begin(call: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, *call], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--read", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        return work(Path(given.work[0]), float(given.work[1]))
    if given.read:
        return read(Path(given.read[0]), float(given.read[1]))
    figures = measure(given.seconds)
    print(json.dumps(figures))
    return 0 if figures["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
