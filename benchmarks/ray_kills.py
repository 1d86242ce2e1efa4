"""Nights on a Ray cluster in which actors, nodes and drivers are killed, judged by a book that the workers keep.

    python benchmarks/ray_kills.py [KILLS] [--seed N]

A real Ray runs here: a head without room for workers and two nodes with room for one each. A night is `thirdshift run`
with `on: ray`; its workers are stand-ins for vLLM that write down each answer before they tell it, and every fifth of a
second that they live. Each kill is SIGKILL, three in four up to 3 s after the next answer, the others up to 6 s after
the kill before, of

- an actor: what holds one worker;
- a raylet: a node with its worker; another node is added, as an autoscaler would;
- the driver: `thirdshift run` itself; the next life goes on with the run once no actor is left;
- the bridge: the process that speaks with Ray for the driver.

At most six a night, so that 30 take five nights at least. At the end, over all nights:

- every request has exactly one result, and none is an error;
- what the workers answered twice is at most what the ledger calls unsettled, and that at most what was with them at kills;
- settled <= answered <= settled + unsettled: the ledger holds the truth from both sides;
- the ledger pays for every second that a worker lived, and stays within the cap;
- 10 s after its driver's death no actor was alive.

The last line is JSON; exit 1 where a law is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

sys.path.append(str(Path(__file__).resolve().parents[1]))

from tests.support.ray_cluster import RayCluster, actors, ray_cluster
from tests.support.workers import stand_in_python
from thirdshift.warehouse.store import rates
from thirdshift.warehouse.store.ask import ask
from thirdshift.warehouse.store.store import Warehouse

ROWS, WORKERS, AT_ONCE = 600, 2, 8
LOT_SECONDS = 0.25
"""With two workers of eight requests at once a night without a kill sends for some ten seconds."""
DEADLINE = "5m"
SLOW = {
    "run_id": "earlier", "endpoint": "house", "model": "sums", "device": "cpu", "hardware": "1 core", "vllm": "stand-in",
    "prefill_tokens_per_second": 1000.0, "decode_tokens_per_second": 4.0, "told_apart": True, "startup_seconds": 10.0,
    "seconds": 1000.0, "prefill_tokens": 1000, "decode_tokens": 8000,
}  # fmt: skip
"""What an earlier night has measured, as the plan believes: a whole night's work in DEADLINE takes both workers."""
PER_NIGHT = 6
AT_WORK, AT_WORK_SECONDS, ANY_SECONDS = 0.75, 3.0, 6.0
LOOK_SECONDS = 0.02
KINDS = {"actor": 0.35, "raylet": 0.2, "driver": 0.3, "bridge": 0.15}
USD_PER_HOUR, CAP_USD = 36, 20
ORPHANS_SECONDS = 10.0
NODE = {"CPU": 1.0}
LEDGER = """
select count(*) filter (status = 'settled' and request_id is not null) as settled,
       count(distinct request_id) filter (status = 'settled') as distinct_settled,
       count(*) filter (status in ('unsettled', 'reserved') and request_id is not null) as unsettled,
       sum(cost_usd)::double as usd
from ledger
"""
RESULTS = """
select count(*) as results, count(distinct request_id) as requests, count(error) as errors from results
"""


@dataclass
class Night:
    """One run in a folder of its own."""

    folder: Path
    killed: Counter[str] = field(default_factory=Counter)
    lives: int = 0

    def start(self) -> subprocess.Popen[bytes]:
        """Start a life of it."""
        self.lives += 1
        program = Path(sys.executable).parent / "thirdshift"
        with (self.folder / "log.txt").open("ab") as log:
            command = (program, "run", self.folder / "job.yaml", "--run-id", "night", "--yes")
            return subprocess.Popen(command, stdout=log, stderr=log)

    @property
    def answered(self) -> int:
        """Answers in its workers' book."""
        return len(book_of(self)[0])

    def last_words(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")[-4000:]


def written(folder: Path, address: str) -> Night:
    """Write a night's input and job."""
    folder.mkdir()
    rows = [{"request_id": f"r{n}", "prompt": f"add {n} {n + 1}"} for n in range(ROWS)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "sums.parquet")
    house = {
        "name": "house",
        "engine": "vllm",
        "model": "sums",
        "device": "cpu",
        "workers": WORKERS,
        "on": "ray",
        "cluster": {"address": address},
        "python": str(stand_in_python(folder)),
        "usd_per_hour": USD_PER_HOUR,
        "vllm": {
            "adds": True,
            "max_num_seqs": AT_ONCE,
            "seconds": LOT_SECONDS,
            "book": str(folder / "book.jsonl"),
        },
    }
    job = {
        "name": "killed",
        "input": "sums.parquet",
        "request": {"max_tokens": 16},
        "deadline": DEADLINE,
        "budget": {"cap_usd": CAP_USD},
        "warehouse": "warehouse.duckdb",
        "endpoints": [house],
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job, sort_keys=False))
    with Warehouse.open(folder / "warehouse.duckdb") as warehouse:
        rates.save(
            warehouse, pa.Table.from_pylist([SLOW | {"measured_at": datetime.now(UTC)}], rates.MEASURED)
        )
    return Night(folder)


class Killer:
    """Makes nights and kills what they run on."""

    def __init__(self, folder: Path, cluster: RayCluster, seed: int) -> None:
        self._folder, self._cluster, self._rng = folder, cluster, random.Random(seed)
        self._raylets = list(cluster.raylets[1:])
        self._known: set[tuple[int, float]] = set()
        """Actors of this cluster, by process id and start."""
        self.nights: list[Night] = []
        self.orphans_seconds = [0.0]
        """How long the last actor lived after its driver, for each driver that was killed."""

    def kill(self, kills: int) -> None:
        """Run nights until there were so many kills."""
        done = 0
        while done < kills:
            night = written(self._folder / f"night-{len(self.nights)}", self._cluster.address)
            self.nights.append(night)
            self._through(night, min(PER_NIGHT, kills - done))
            done += night.killed.total()
            print(f"{done} of {kills} kills, {len(self.nights)} nights", file=sys.stderr)

    def _through(self, night: Night, kills: int) -> None:
        """Run one night to its end, killing on the way."""
        life = night.start()
        for _ in range(kills):
            if self._ended_before(night, life):
                break
            kind = self._rng.choices(list(KINDS), list(KINDS.values()))[0]
            if self._struck(kind, life):
                night.killed[kind] += 1
            if kind == "driver":
                life = night.start()
        if life.wait() != 0:
            raise SystemExit(f"{night} ended with {life.returncode}:\n{night.last_words()}")

    def _ended_before(self, night: Night, life: subprocess.Popen[bytes]) -> bool:
        """Wait for the instant of the next kill; True: the night was quicker."""
        seconds = self._rng.uniform(0.0, ANY_SECONDS)
        if self._rng.random() < AT_WORK:
            seconds = self._rng.uniform(0.0, AT_WORK_SECONDS)
            before = night.answered
            while life.poll() is None and night.answered == before:
                time.sleep(LOOK_SECONDS)
        with suppress(subprocess.TimeoutExpired):
            life.wait(seconds)
        return life.poll() is not None

    def _struck(self, kind: str, life: subprocess.Popen[bytes]) -> bool:
        """Kill one of a kind; False: there was none at that instant."""
        if kind == "driver":
            self._actors()
            life.kill()
            life.wait()
            self._await_orphans()
            return True
        victims = self._raylets if kind == "raylet" else list(self._victims(kind, life))
        if not victims:
            return False
        victim = self._rng.choice(victims)
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        if kind == "raylet":
            self._raylets.remove(victim)
            self._raylets.append(self._cluster.add_node(NODE))
        return True

    def _victims(self, kind: str, life: subprocess.Popen[bytes]) -> Iterator[int]:
        if kind == "actor":
            yield from (actor.pid for actor in self._actors())
            return
        for child in psutil.Process(life.pid).children(recursive=True):
            with suppress(psutil.Error):
                if "thirdshift.engines.ray.bridge" in child.cmdline():
                    yield child.pid

    def _actors(self) -> list[psutil.Process]:
        """Actors on this cluster's nodes, those included whose raylet was killed since they were last looked at."""
        top = 0 if self._cluster.keeper is None else self._cluster.keeper.pid
        alive = actors()
        self._known |= {(actor.pid, actor.create_time()) for actor in alive if top in _above(actor)}
        return [actor for actor in alive if (actor.pid, actor.create_time()) in self._known]

    def _await_orphans(self) -> None:
        begun = time.monotonic()
        while self._actors() and time.monotonic() - begun < 6 * ORPHANS_SECONDS:
            time.sleep(0.1)
        self.orphans_seconds.append(time.monotonic() - begun)


def _above(process: psutil.Process) -> set[int]:
    with suppress(psutil.Error):
        return {parent.pid for parent in process.parents()}
    return set()


def book_of(night: Night) -> tuple[list[str], float]:
    """Return what the workers answered, and the seconds that they lived."""
    answered: list[str] = []
    lives: dict[int, list[float]] = {}
    book = night.folder / "book.jsonl"
    for line in book.read_text().splitlines() if book.exists() else ():
        entry = json.loads(line)
        answered += entry["answered"]
        lives.setdefault(entry["pid"], []).append(entry["at"])
    return answered, sum(times[-1] - times[0] for times in lives.values())


def judged(nights: Sequence[Night]) -> dict[str, Any]:
    """Figures, and the laws by name."""
    totals: Counter[str] = Counter()
    laws: dict[str, bool] = {}
    for night in nights:
        answered, seconds = book_of(night)
        (ledger,) = ask(night.folder / "warehouse.duckdb", LEDGER).to_pylist()
        (results,) = ask(night.folder / "warehouse.duckdb", RESULTS).to_pylist()
        settled, unsettled, twice = ledger["settled"], ledger["unsettled"], len(answered) - len(set(answered))
        with_workers = night.killed.total() * WORKERS * 2 * AT_ONCE
        held = {
            "all_answered": (results["results"], results["requests"], results["errors"]) == (ROWS, ROWS, 0),
            "answered_twice_at_most_unsettled": twice <= unsettled <= with_workers,
            "nothing_settled_twice": settled == ledger["distinct_settled"],
            "ledger_and_book_agree": settled <= len(answered) <= settled + unsettled,
            "every_second_is_paid": seconds * USD_PER_HOUR / 3600 <= ledger["usd"],
            "within_the_cap": ledger["usd"] <= CAP_USD,
        }
        print(
            f"{night.folder.name}: {dict(night.killed)}, {ledger}, {seconds:.2f} s by the book",
            file=sys.stderr,
        )
        laws = {name: laws.get(name, True) and true for name, true in held.items()}
        totals.update(lives=night.lives, answered=len(answered), settled=settled, unsettled=unsettled)
        totals.update(answered_twice=twice, worker_seconds=round(seconds))
        totals.update(paid_seconds=round(ledger["usd"] / USD_PER_HOUR * 3600), requests=ROWS)
    return {**totals, "laws": laws}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kills", nargs="?", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    begun = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="thirdshift-ray-kills-") as name,
        ray_cluster({"CPU": 0}, NODE, NODE) as cluster,
    ):
        killer = Killer(Path(name), cluster, given.seed)
        killer.kill(given.kills)
        figures = judged(killer.nights)
    killed = sum((night.killed for night in killer.nights), Counter[str]())
    orphans = max(killer.orphans_seconds)
    figures["laws"]["no_actor_10_s_after_its_driver"] = orphans < ORPHANS_SECONDS
    head = {"benchmark": "ray_kills", "kills": killed.total(), "killed": dict(killed), "seed": given.seed}
    head |= {"nights": len(killer.nights), "last_actor_seconds": round(orphans, 1)}
    ok = all(figures["laws"].values())
    print(json.dumps({**head, **figures, "seconds": round(time.monotonic() - begun), "ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
