"""Nights that are killed again and again, at random instants, against a provider that keeps books.

    python benchmarks/faults.py [KILLS] [--seed N] [--prefect]

A night (pilot, plan, main, repair; two emulated models, a scorer, a cap) is started, killed with SIGKILL and started
again, KILLS times; then it is left to finish. One that finishes before it could be killed is followed by another. Lives
end at an instant drawn from INSTANTS: at their start, while they send, while a batch is harvested, at their close
(composing, scoring, certifying), while they publish. At the end, over all nights:

- every request has exactly one result, and none is an error;
- the provider billed at most as many answers twice as were in flight at the kills;
- settled <= billed <= settled + unsettled, in USD and in entries: the ledger holds the truth from both sides;
- every night's results are published whole, and the copy for dashboards is the warehouse.

Nights are of KINDS: plain ones; some during which a reader has the warehouse open from their first to their last life;
some with a batch tier, of whose batches some get stuck and are cut short in time; some that publish to an object store
that fails half the time. Most lives are hindered besides (HINDRANCES): a reader, 256 files open at most, a
disk that takes no more while they send, a clock that is set back an hour. Now and then a part or the frozen input is cut
short between two lives: the next one must refuse it by name, send nothing and leave what there is, and once the file is
whole again the night goes on.

What is killed is the process that plans, sends, journals and ingests. So that a hundred kills take minutes, it drives
the stages of a run in threads of its own and is forked from one that has imported everything; with --prefect
it is `thirdshift run` itself, on a shared Prefect API, at 10 s or more a life. Local workers are not killed here
(tests/engines/vllm/test_worker.py does). The last line is JSON; exit 1 where a law is broken.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from faulty.hindrances import HINDRANCES, cut_short, read_meanwhile
from faulty.store import KEYS, FailingStore

from thirdshift.engines.emulator import BatchHabits, EmulatedModel, Emulator, KnownRow, ability_for
from thirdshift.flows.console import Bar, ProgressCounts, RunConsole
from thirdshift.flows.errors import UserError
from thirdshift.flows.execution.sending import run_in_threads
from thirdshift.flows.runs.options import RunOptions
from thirdshift.router.values import Limits, Price
from thirdshift.warehouse.store.ask import ask

ROWS = 400
"""Requests of a run: with these latencies it lives some seconds, so that most kills find it at work."""
IN_FLIGHT = 16
"""At each endpoint."""
DAMAGED = 0.15
"""The share of lives that find a file cut short."""
LOOK_SECONDS = 0.005
PATIENCE_SECONDS = 60.0
"""A life whose moment does not come within it is killed all the same: with its clock set back an hour, a night waits so
much longer for a stuck batch, as its deadline is an instant of the wall clock."""
BUCKET = "lake"
KINDS = {"plain": 0.4, "read throughout": 0.1, "batches": 0.25, "store": 0.25}
"""What nights are like, each with its share."""
LIFE_DEADLINE = "24s"
"""Of each life of a night with batches: a stuck one is cut short after the half of it."""
HABITS = BatchHabits(turnaround_seconds=2.0, stuck_at=0.7, stuck_batches=0.3, cancel_seconds=0.3)


@dataclass(frozen=True, slots=True)
class Instant:
    """When a life is killed: so long at most after a moment that is waited for."""

    share: float
    seconds: float


INSTANTS = {
    "start": Instant(0.15, 3.0),
    "sending": Instant(0.25, 2.0),
    "harvest": Instant(0.5, 1.5),
    "close": Instant(0.25, 1.0),
    "publish": Instant(0.25, 0.2),
}
"""Shares are among those that a night's kind has: only one with batches is harvested."""
IDLE, SENDING, SENT = range(3)
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


def live(job: Path, run_id: str, *, deadline: str | None = None, console: RunConsole | None = None) -> int:
    """One life of the run, in threads of this process; its exit code."""
    return run_in_threads(RunOptions(job=job, run_id=run_id, deadline=deadline), console).exit_code


class Telling(RunConsole):
    """A console that tells the killer when the plan is being sent, and when that is over."""

    def __init__(self, stage: Synchronized[int]) -> None:
        super().__init__()
        self._stage = stage

    @contextmanager
    def working(self, title: str, tally: ProgressCounts) -> Iterator[Bar]:
        self._stage.value = SENDING
        with super().working(title, tally) as bar:
            yield bar
        self._stage.value = IDLE if title == "pilot" else SENT


# --- its job ---------------------------------------------------------------------------------------------------------


def write_night(folder: Path) -> list[KnownRow]:
    """The requests, and what the provider must know to answer them."""
    rows = [
        {"request_id": f"r{n}", "prompt": f"What is {n} plus {n}?", "reference": str(2 * n)}
        for n in range(ROWS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "requests.parquet")
    return [KnownRow(prompt=row["prompt"], reference=row["reference"]) for row in rows]


def write_job(folder: Path, emulator: Emulator, kind: str = "plain") -> Path:
    prices = {"dear": {"input": 5, "output": 25}, "cheap": {"input": 0.1, "output": 0.4}}
    job: dict[str, Any] = {
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
    if kind == "store":
        job["output"] = {"path": f"s3://{BUCKET}/published", "when": "always"}
    if kind == "batches":
        job["on_deadline"] = "realtime"
        for real_time in list(job["endpoints"]):
            half = {side: usd / 2 for side, usd in real_time["price"].items()}
            tier = {"name": f"{real_time['name']}-batch", "mode": "batch", "price": half, "turnaround": "3s"}
            job["endpoints"].append({**real_time, **tier})
    path = folder / ("job.yaml" if kind == "plain" else f"{kind.replace(' ', '-')}.yaml")
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path


@dataclass(frozen=True, slots=True)
class Night:
    """One run and its kind."""

    run_id: str
    kind: str
    job: Path

    @property
    def warehouse(self) -> Path:
        return self.job.with_name("warehouse.duckdb")

    @property
    def folder(self) -> Path:
        return self.job.with_name("warehouse.duckdb.d") / self.run_id


# --- who kills it ----------------------------------------------------------------------------------------------------


class Life:
    """One process of a night: a fork that drives the stages in threads, or `thirdshift run` itself."""

    def __init__(self, night: Night, log: Path, *, prefect: bool, hindrance: str = "nothing") -> None:
        self.stage: Synchronized[int] = FORK.Value("i", IDLE)
        target = (night, log, hindrance, self.stage)
        self._child = None if prefect else FORK.Process(target=live_into, args=target)
        if self._child is not None:
            self._child.start()
            return
        program = Path(sys.executable).parent / "thirdshift"
        with log.open("ab") as file:
            words = [program, "run", night.job, "--run-id", night.run_id]
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


def live_into(night: Night, log: Path, hindrance: str, stage: Synchronized[int]) -> None:
    """A life whose words go to `log`."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    HINDRANCES[hindrance]()
    try:
        deadline = LIFE_DEADLINE if night.kind == "batches" else None
        code = live(night.job, night.run_id, deadline=deadline, console=Telling(stage))
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        code = error.exit_code
    sys.exit(code)


@dataclass
class Tally:
    """What befell the nights."""

    nights: list[Night] = field(default_factory=list)
    killed: Counter[str] = field(default_factory=Counter)
    """By the instant."""
    hindered: Counter[str] = field(default_factory=Counter)
    broke_off: int = 0
    """Lives that a full disk ended."""
    store_failed: int = 0
    """Lives that an object store ended."""
    late: int = 0
    """Lives that their deadline ended."""
    damaged: int = 0
    refused: int = 0
    """Lives that named a damaged file and ended."""
    sent_on_damage: int = 0

    @property
    def ends(self) -> int:
        """Lives that ended before their night did."""
        return self.killed.total() + self.broke_off + self.store_failed + self.late + self.refused


class Killer:
    """Makes nights and ends their lives."""

    def __init__(self, folder: Path, emulator: Emulator, seed: int, *, prefect: bool) -> None:
        self._emulator, self._prefect = emulator, prefect
        self._rng = random.Random(seed)
        self._log = folder / "log.txt"
        kinds = ["plain"] if prefect else list(KINDS)
        self._jobs = {kind: write_job(folder, emulator, kind) for kind in kinds}
        self.tally = Tally()

    def kill(self, kills: int) -> Tally:
        """What was made. Ends when so many kills have met a living process and the last run is done."""
        tally, rng = self.tally, self._rng
        night = self._next_night()
        while tally.killed.total() < kills:
            if not self._prefect and rng.random() < DAMAGED and self._live_on_damage(night):
                night = self._next_night()
            hindrance = "nothing" if self._prefect else rng.choice(list(HINDRANCES))
            if night.kind == "read throughout":
                hindrance = "a reader"
            tally.hindered[hindrance] += 1
            with read_meanwhile(night.warehouse, wanted=hindrance == "a reader"):
                code = self._killed(night, hindrance)
            if code is not None and self._over(night, code, hindrance):
                night = self._next_night()
            elif code is None:
                print(f"{tally.killed.total()} of {kills} killed", file=sys.stderr)
        while not self._over(night, Life(night, self._log, prefect=self._prefect).ended(None)):
            pass
        return tally

    def _next_night(self) -> Night:
        kind = self._rng.choices(list(self._jobs), [KINDS[kind] for kind in self._jobs])[0]
        self.tally.nights.append(Night(f"night-{len(self.tally.nights)}", kind, self._jobs[kind]))
        return self.tally.nights[-1]

    def _over(self, night: Night, code: int | None, hindrance: str = "nothing") -> bool:
        """Whether the night has ended with its life; what may end a life alone is counted. 3: the floor was missed, which
        is not what is tried here."""
        if code in (0, 3):
            return True
        if code == 1 and hindrance == "a full disk":
            self.tally.broke_off += 1
        elif code in (1, 2) and night.kind == "store" and f"s3://{BUCKET}" in self._last_words():
            self.tally.store_failed += 1
        elif code == 5 and night.kind == "batches":
            self.tally.late += 1
        else:
            raise SystemExit(f"{night} ended with {code}:\n{self._last_words()}")
        return False

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]

    def _killed(self, night: Night, hindrance: str) -> int | None:
        """None: a life was killed; else its exit code, when it was quicker."""
        may = [name for name in INSTANTS if name != "harvest" or night.kind == "batches"]
        instant = (
            "start" if self._prefect else self._rng.choices(may, [INSTANTS[name].share for name in may])[0]
        )
        has_come = self._moment(instant, night)
        life, begun = Life(night, self._log, prefect=self._prefect, hindrance=hindrance), time.monotonic()
        while life.ended() is None and not has_come(life) and time.monotonic() - begun < PATIENCE_SECONDS:
            time.sleep(LOOK_SECONDS)
        code = life.ended(self._rng.uniform(0, INSTANTS[instant].seconds * (4 if self._prefect else 1)))
        if code is None:
            life.kill()
            self.tally.killed[instant] += 1
        return code

    def _moment(self, instant: str, night: Night) -> Callable[[Life], bool]:
        """What tells that the moment of a kill has come."""
        if instant == "sending":
            return lambda life: life.stage.value == SENDING
        if instant == "close":
            return lambda life: life.stage.value == SENT
        if instant == "publish":
            return lambda _: (night.folder / "publish").is_dir()
        if instant == "harvest":
            before = self._ended_batches()
            return lambda life: life.stage.value == SENDING and self._ended_batches() > before
        return lambda _: True

    def _ended_batches(self) -> int:
        with urlopen(f"{self._emulator.api_base}/batches?limit=100", timeout=60) as answer:  # noqa: S310 - loopback
            listed = json.load(answer)["data"]
        time.sleep(LOOK_SECONDS * 4)
        return sum(batch["status"] in ("completed", "cancelled", "expired") for batch in listed)

    def _live_on_damage(self, night: Night) -> bool:
        """A life that finds a file cut short: it names it and sends nothing, or has no need of it and finishes, which ends
        the night."""
        with cut_short(night.folder, self._rng) as file:
            if file is None:
                return False
            tally = self.tally
            tally.damaged += 1
            before, said = self._requests_seen(), self._log.stat().st_size if self._log.exists() else 0
            code = Life(night, self._log, prefect=False).ended(None)
            words = self._log.read_bytes()[said:].decode(errors="replace")
            if code not in (0, 3) and file.name in words:
                tally.refused += 1
                tally.sent_on_damage += self._requests_seen() - before
                return False
        return self._over(night, code)

    def _requests_seen(self) -> int:
        return sum(int(total["requests"]) for total in self._emulator.totals().values())


# --- the laws --------------------------------------------------------------------------------------------------------


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


def published(folder: Path, nights: Sequence[Night], store: FailingStore | None) -> dict[str, bool]:
    """Every night's results are published whole, and the copy for dashboards is the warehouse."""
    whole = [
        in_store(store, night) if store is not None and night.kind == "store" else in_folder(folder, night)
        for night in nights
    ]
    copied = ask(folder / "dashboards.duckdb", "select count(*) as n from runs where status = 'done'")
    return {"all_published": all(whole), "copy_is_whole": copied["n"][0].as_py() == len(nights)}


def in_folder(folder: Path, night: Night) -> bool:
    place = folder / "published" / "job=killed" / f"run_id={night.run_id}"
    rows = sum(pq.read_metadata(file).num_rows for file in place.glob("*.parquet"))
    return rows == ROWS and (place / "manifest.json").exists()


def in_store(store: FailingStore, night: Night) -> bool:
    client, place = store.client(), f"published/job=killed/run_id={night.run_id}/"
    names = [
        entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET, Prefix=place).get("Contents", [])
    ]
    parts = [name for name in names if name.endswith(".parquet")]
    files = [io.BytesIO(client.get_object(Bucket=BUCKET, Key=name)["Body"].read()) for name in parts]
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    return rows == ROWS and f"{place}manifest.json" in names


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


@contextmanager
def failing_store(seed: int, *, wanted: bool) -> Iterator[FailingStore | None]:
    """An object store, which lives find by their environment."""
    if not wanted:
        yield None
        return
    with FailingStore(seed) as store:
        client = store.client()
        client.create_bucket(Bucket=BUCKET)
        os.environ |= {**KEYS, "AWS_ENDPOINT_URL": store.failing}
        yield store


def measure(kills: int, seed: int, *, prefect: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="thirdshift-faults-") as name:
        folder = Path(name)
        items = write_night(folder)
        with (
            shared_api(wanted=prefect),
            failing_store(seed, wanted=not prefect) as store,
            Emulator(MODELS, items=items, seed=seed, batches=HABITS) as emulator,
        ):
            begun = time.monotonic()
            tally = Killer(folder, emulator, seed, prefect=prefect).kill(kills)
            nights = tally.nights
            figures = judged(folder / "warehouse.duckdb", emulator.books(), len(nights), tally.ends)
            figures["laws"] |= published(folder, nights, store) | {
                "nothing_sent_on_damage": tally.sent_on_damage == 0
            }
    head = {"kills": kills, "seed": seed, "prefect": prefect, "killed": dict(tally.killed)}
    head |= {"kinds": dict(Counter(night.kind for night in nights)), "hindered": dict(tally.hindered)}
    head |= {"full_disks": tally.broke_off, "store_failed": tally.store_failed, "late": tally.late}
    head |= {"damaged": tally.damaged, "refused": tally.refused}
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
