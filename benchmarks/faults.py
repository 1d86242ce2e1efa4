"""Nights that are killed again and again, at random instants, against a provider that keeps books.

    python benchmarks/faults.py [KILLS] [--seed N] [--prefect]

A night (pilot, plan, main, repair; two emulated endpoints, a scorer, a cap) is started, killed with SIGKILL at a random
instant of its life, start-up included, and started again, KILLS times; then it is left to finish. One that finishes
before it could be killed is followed by another. At the end, over all nights:

- every request has exactly one result, and none is an error;
- the provider billed at most as many answers twice as were in flight at the kills;
- settled <= billed <= settled + unsettled, in USD and in entries: the ledger holds the truth from both sides.

Most lives are hindered besides (HINDRANCES): a reader has the warehouse open for as long as they last, they may have 256
files open, or the disk takes no more while they send; some come to their close and publish before they are killed. Now and
then a part or the frozen input is cut short between two lives: the next one must refuse it by name, send nothing and leave
what there is, and once the file is whole again the night goes on.

What is killed is the process that plans, sends, journals and ingests. So that a hundred kills take minutes, it drives
the stages of a run in threads of its own and is forked from one that has imported everything; with --prefect
it is `thirdshift run` itself, on a shared Prefect API, at 10 s or more a life. Local workers are not killed here
(tests/engines/vllm/test_worker.py does). The last line is JSON; exit 1 where a law is broken.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from thirdshift.engines.emulator import EmulatedModel, Emulator, KnownRow, ability_for
from thirdshift.flows.errors import UserError
from thirdshift.flows.execution.sending import run_in_threads
from thirdshift.flows.runs.options import RunOptions
from thirdshift.router.values import Limits, Price
from thirdshift.warehouse.store.ask import ask

ROWS = 400
"""Requests of a run: with these latencies it lives some seconds, so that most kills find it at work."""
IN_FLIGHT = 16
"""At each endpoint."""
AT_START = 0.2
"""The share of kills in the first seconds of a process, before it sends; all others come after its first request."""
START_SECONDS = 3.0
WORK_SECONDS = 2.0
END_SECONDS = 8.0
"""Within so many seconds of its first request a night is at its close or publishes."""
AT_END = 0.3
"""The share of the other kills that may come so late."""
LOOK_SECONDS = 0.02
HINDRANCES = ("nothing", "a reader", "few files", "a full disk")
FILES = 256
FULL_SECONDS = 1.5
"""So long after a life's start its disk is full."""
DISK_BYTES = 48_000
"""What a file may grow to on a disk that is full: a journal of some hundred records."""
DAMAGED = 0.15
"""The share of lives that find a file cut short."""
READER = """
import duckdb, sys, time
while True:
    try:
        con = duckdb.connect(sys.argv[1], read_only=True)
        break
    except duckdb.IOException:
        time.sleep(0.01)
print("open", flush=True)
sys.stdin.read()
"""
FORK = multiprocessing.get_context("fork")
MODELS = (
    EmulatedModel(
        "dear", Price(Decimal(5), Decimal(25)), ability_for(0.97), 1,
        latency_seconds=0.2, limits=Limits(concurrency=IN_FLIGHT),
    ),
    EmulatedModel(
        "cheap", Price(Decimal("0.1"), Decimal("0.4")), ability_for(0.7), 1,
        latency_seconds=0.1, limits=Limits(concurrency=IN_FLIGHT),
    ),
)  # fmt: skip
SETTLED = "status = 'settled'"
LEDGER = f"""
select count(*) filter ({SETTLED}) as settled, count(*) filter (status in ('unsettled', 'reserved')) as unsettled,
       coalesce(sum(cost_usd) filter ({SETTLED}), 0) as settled_usd,
       coalesce(sum(cost_usd) filter (status in ('unsettled', 'reserved')), 0) as unsettled_usd
from ledger
"""
RESULTS = """
select count(*) as results, count(distinct (run_id, request_id)) as requests, count(error) as errors from results
"""


# --- the night that is killed ----------------------------------------------------------------------------------------


def live(job: Path, run_id: str) -> int:
    """One life of the run, in threads of this process; its exit code."""
    return run_in_threads(RunOptions(job=job, run_id=run_id)).exit_code


# --- who kills it ----------------------------------------------------------------------------------------------------


def write_night(folder: Path) -> list[KnownRow]:
    """The requests, and what the provider must know to answer them."""
    rows = [
        {"request_id": f"r{n}", "prompt": f"What is {n} plus {n}?", "reference": str(2 * n)}
        for n in range(ROWS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "requests.parquet")
    return [KnownRow(prompt=row["prompt"], reference=row["reference"]) for row in rows]


def write_job(folder: Path, emulator: Emulator) -> Path:
    prices = {"dear": {"input": 5, "output": 25}, "cheap": {"input": 0.1, "output": 0.4}}
    job = {
        "name": "killed",
        "input": "requests.parquet",
        "warehouse": "warehouse.duckdb",
        "request": {"max_tokens": 32},
        "quality": {"floor": 0.9, "scorer": "numeric", "pilot": 60},
        "budget": {"cap_usd": 100},
        "output": {"path": "published", "when": "always"},
        "warehouse_copy": "dashboards.duckdb",
        "endpoints": [
            {
                "name": name,
                "model": f"openai/{name}",
                "api_base": emulator.api_base,
                "price": price,
                "limits": {"concurrency": IN_FLIGHT},
            }
            for name, price in prices.items()
        ],
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path


class Life:
    """One process of a night, `thirdshift run` itself or the road without Prefect."""

    def __init__(
        self, job: Path, run_id: str, log: Path, *, prefect: bool, hindrance: str = "nothing"
    ) -> None:
        self._child = None if prefect else FORK.Process(target=live_into, args=(job, run_id, log, hindrance))
        if self._child is not None:
            self._child.start()
            return
        program = Path(sys.executable).parent / "thirdshift"
        with log.open("ab") as file:
            words = [program, "run", job, "--run-id", run_id]
            self._program = subprocess.Popen(list(map(str, words)), stdout=file, stderr=file)

    def ended(self, within_seconds: float | None = 0) -> int | None:
        """Its exit code; None if it still lives."""
        if self._child is not None:
            self._child.join(within_seconds)
            return self._child.exitcode
        with suppress(subprocess.TimeoutExpired):
            return self._program.wait(within_seconds)
        return None

    def kill(self) -> None:
        os.kill((self._child or self._program).pid or 0, signal.SIGKILL)
        self.ended(None)


def live_into(job: Path, run_id: str, log: Path, hindrance: str) -> None:
    """A life whose words go to `log`."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if hindrance == "few files":
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    if hindrance == "a full disk":
        threading.Timer(FULL_SECONDS, fill_disk).start()
    try:
        code = live(job, run_id)
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        code = error.exit_code
    sys.exit(code)


def fill_disk() -> None:
    """From now on no file grows beyond DISK_BYTES; the kernel says so where a full disk would."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (DISK_BYTES, DISK_BYTES))


@contextmanager
def read_meanwhile(warehouse: Path, *, wanted: bool) -> Iterator[None]:
    """Another process has the warehouse open to read, if it is there."""
    if not wanted or not warehouse.exists():
        yield
        return
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(warehouse)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reader:
        if reader.stdout is not None:
            reader.stdout.readline()
        yield
        reader.kill()


@contextmanager
def cut_short(folder: Path, rng: random.Random) -> Iterator[Path | None]:
    """A part or a file of the frozen input has lost its second half meanwhile; None where the night has none yet."""
    files = sorted([*folder.glob("parts/*.parquet"), *folder.glob("requests/*.parquet")])
    if not files or not (folder / "shards").exists():
        yield None
        return
    file = rng.choice(files)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    try:
        yield file
    finally:
        if file.parent.exists():
            file.write_bytes(whole)


@dataclass
class Tally:
    """What befell the nights besides being killed."""

    runs: list[str] = field(default_factory=lambda: ["night-0"])
    hindered: Counter[str] = field(default_factory=Counter)
    broke_off: int = 0
    """Lives that a full disk ended."""
    damaged: int = 0
    refused: int = 0
    """Lives that named a damaged file and ended."""
    sent_on_damage: int = 0


def kill_at_random(
    job: Path, emulator: Emulator, kills: int, seed: int, log: Path, *, prefect: bool
) -> Tally:
    """What was made. Ends when so many kills have met a living process and the last run is done."""
    rng = random.Random(seed)
    tally = Tally()
    done = 0
    while done < kills:
        if not prefect and rng.random() < DAMAGED:
            live_on_damage(job, emulator, rng, log, tally)
        hindrance = HINDRANCES[0] if prefect else rng.choice(HINDRANCES)
        tally.hindered[hindrance] += 1
        with read_meanwhile(job.with_name("warehouse.duckdb"), wanted=hindrance == "a reader"):
            code = killed(job, emulator, rng, log, tally.runs[-1], prefect=prefect, hindrance=hindrance)
        if code is None:
            done += 1
            print(f"{done} of {kills} killed", file=sys.stderr)
        elif code == 1 and hindrance == "a full disk":
            tally.broke_off += 1
        else:
            check_end(code, tally.runs[-1], log)
            tally.runs.append(f"night-{len(tally.runs)}")
    check_end(Life(job, tally.runs[-1], log, prefect=prefect).ended(None), tally.runs[-1], log)
    return tally


def killed(
    job: Path,
    emulator: Emulator,
    rng: random.Random,
    log: Path,
    run_id: str,
    *,
    prefect: bool,
    hindrance: str,
) -> int | None:
    """None: a life was killed; else its exit code, when it was quicker."""
    before = requests_seen(emulator)
    life = Life(job, run_id, log, prefect=prefect, hindrance=hindrance)
    if rng.random() < AT_START:
        seconds = rng.uniform(0, START_SECONDS)
    else:
        while life.ended() is None and requests_seen(emulator) == before:
            time.sleep(LOOK_SECONDS)
        seconds = rng.uniform(0, END_SECONDS if rng.random() < AT_END else WORK_SECONDS)
    code = life.ended(seconds)
    if code is None:
        life.kill()
    return code


def live_on_damage(job: Path, emulator: Emulator, rng: random.Random, log: Path, tally: Tally) -> None:
    """A life that finds a file cut short: it names it and sends nothing, or has no need of it and finishes."""
    folder = job.with_name("warehouse.duckdb.d") / tally.runs[-1]
    with cut_short(folder, rng) as file:
        if file is None:
            return
        tally.damaged += 1
        before, said = requests_seen(emulator), log.stat().st_size if log.exists() else 0
        code = Life(job, tally.runs[-1], log, prefect=False).ended(None)
        if code in (0, 3):
            tally.runs.append(f"night-{len(tally.runs)}")
            return
        if file.name in log.read_bytes()[said:].decode(errors="replace"):
            tally.refused += 1
            tally.sent_on_damage += requests_seen(emulator) - before
            return
    raise SystemExit(f"{file} was cut short and a life ended with {code}:\n{log.read_text()[-4000:]}")


def requests_seen(emulator: Emulator) -> int:
    return sum(int(total["requests"]) for total in emulator.totals().values())


def check_end(code: int | None, run_id: str, log: Path) -> None:
    """Exit 3: the floor was missed, which is not what is tried here."""
    if code not in (0, 3):
        raise SystemExit(f"{run_id} ended with {code}:\n" + log.read_text()[-4000:])


def judged(warehouse: Path, books: list[dict[str, Any]], nights: int, kills: int) -> dict[str, Any]:
    """Figures, and the laws by name."""
    (ledger,) = ask(warehouse, LEDGER).to_pylist()
    (results,) = ask(warehouse, RESULTS).to_pylist()
    billed_usd = sum((Decimal(entry["cost_usd"]) for entry in books), Decimal(0))
    # a night's own requests and endpoints: the same request of another night is another one
    answered = ask(
        warehouse, f"select count(distinct (run_id, request_id, endpoint)) as n from ledger where {SETTLED}"
    )["n"][0].as_py()
    rows = ROWS * nights
    laws = {
        "all_answered": (results["results"], results["requests"], results["errors"]) == (rows, rows, 0),
        "paid_twice_at_most_in_flight": len(books) - answered <= ledger["unsettled"],
        "in_flight_at_most_the_limits": ledger["unsettled"] <= kills * len(MODELS) * IN_FLIGHT,
        "nothing_settled_twice": ledger["settled"] == answered,
        "ledger_not_below_books": ledger["settled"] + ledger["unsettled"] >= len(books),
        "books_within_bounds": ledger["settled_usd"]
        <= billed_usd
        <= ledger["settled_usd"] + ledger["unsettled_usd"],
    }
    return {
        "nights": nights,
        "requests": rows,
        "billed": len(books),
        "unique": answered,
        "paid_twice": len(books) - answered,
        "in_flight_at_kills": ledger["unsettled"],
        "billed_usd": float(billed_usd),
        "settled_usd": float(ledger["settled_usd"]),
        "unsettled_usd": float(ledger["unsettled_usd"]),
        "laws": laws,
    }


def published(folder: Path, runs: Sequence[str]) -> dict[str, bool]:
    """Every night's results are published whole, and the copy for dashboards is the warehouse."""
    parts = [folder / "published" / "job=killed" / f"run_id={run_id}" for run_id in runs]
    rows = [sum(pq.read_metadata(file).num_rows for file in part.glob("*.parquet")) for part in parts]
    copied = ask(folder / "dashboards.duckdb", "select count(*) as n from runs where status = 'done'")
    return {
        "all_published": rows == [ROWS] * len(runs)
        and all((part / "manifest.json").exists() for part in parts),
        "copy_is_whole": copied["n"][0].as_py() == len(runs),
    }


@contextmanager
def shared_api(*, wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=90):
        os.environ["PREFECT_API_URL"] = str(PREFECT_API_URL.value())
        yield


def measure(kills: int, seed: int, *, prefect: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="thirdshift-faults-") as name:
        folder = Path(name)
        with shared_api(wanted=prefect), Emulator(MODELS, items=write_night(folder), seed=seed) as emulator:
            begun = time.monotonic()
            job = write_job(folder, emulator)
            tally = kill_at_random(job, emulator, kills, seed, folder / "log.txt", prefect=prefect)
            ends = kills + tally.broke_off + tally.refused
            figures = judged(folder / "warehouse.duckdb", emulator.books(), len(tally.runs), ends)
            figures["laws"] |= published(folder, tally.runs) | {
                "nothing_sent_on_damage": tally.sent_on_damage == 0
            }
    head = {"kills": kills, "seed": seed, "prefect": prefect, "hindered": dict(tally.hindered)}
    head |= {"full_disks": tally.broke_off, "damaged": tally.damaged, "refused": tally.refused}
    return (
        head | figures | {"seconds": round(time.monotonic() - begun, 1), "ok": all(figures["laws"].values())}
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kills", nargs="?", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prefect", action="store_true", help="kill `thirdshift run` itself")
    given = parser.parse_args()
    figures = measure(given.kills, given.seed, prefect=given.prefect)
    print(json.dumps(figures))
    return 0 if figures["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
