"""Nights in a simulated world in which a seed decides everything: how many a minute, what was reached, what was broken.

    python benchmarks/simulate.py [--seeds 1000] [--from 0] [--workers 2]
    python benchmarks/simulate.py --replay SEED
    python benchmarks/simulate.py --planted [--seeds 2000] [--only NAME …]

A night is 200 requests at one to three emulated providers, in real time and in batches, with troubles, outages, lies, a
cap, a deadline, a clock that is set, and processes and machines that die at any moment and are resumed (docs/design/
simulation.md says what is inside). After every death and at the end the laws of tests/support/simulated/laws.py must hold.
`--replay` plays one night with its log. `--planted` puts the faults of tests/planted/ one at a time into a copy of the
program, and says after how many seeds each is found. The last line is JSON; exit 1 where a law is broken, or fewer than
28 of 30 planted faults are found.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.simulated.draw import drawn
from tests.support.simulated.laws import broken, reached
from tests.support.simulated.night import NightStory, SimulatedNight

AT_ONCE = 20
"""Seeds that a worker takes at a time."""
ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ("src", "flows", "router", "engines", "warehouse", "benchmarks", "tests")
"""What a copy of the program is made of."""
FOUND_SHARE = 28 / 30
"""Of the planted faults, at least."""


@dataclass(slots=True)
class Verdict:
    """What is told of some nights."""

    nights: int = 0
    turns: int = 0
    seconds: float = 0.0
    """Of processor time."""
    broken: list[tuple[int, str]] = field(default_factory=list)
    """Seed and law."""
    met: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(state, fault) that came together in a night."""

    def add(self, other: Verdict) -> None:
        self.nights += other.nights
        self.turns += other.turns
        self.seconds += other.seconds
        self.broken += other.broken
        self.met.update(other.met)


def play(seed: int, say: Callable[[str], None] | None = None) -> NightStory:
    """One night, in a folder in memory where there is one."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own in it
    with tempfile.TemporaryDirectory(prefix="simulated-", dir=memory if memory.is_dir() else None) as place:
        return SimulatedNight(drawn(seed), Path(place), say).play()


def stories(seeds: range) -> Iterator[tuple[int, NightStory]]:
    """Play nights one after the other. What they leave is collected now and then: `main` has Python not look for it."""
    for count, seed in enumerate(seeds, start=1):
        yield seed, play(seed)
        if count % AT_ONCE == 0:
            gc.collect()


def judged(seeds: range) -> Verdict:
    """Play some nights."""
    verdict, began = Verdict(), time.process_time()
    for seed, story in stories(seeds):
        verdict.nights += 1
        verdict.turns += story.turns
        verdict.broken += [(seed, words) for words in broken(story)]
        faults = story.drawn.faults or {"none"}
        verdict.met.update((state, fault) for state in reached(story) for fault in faults)
    verdict.seconds = time.process_time() - began
    return verdict


def first_broken(first: int, seeds: int) -> tuple[int | None, str]:
    """The first seed by which a law is broken, and how."""
    for seed, story in stories(range(first, first + seeds)):
        if found := broken(story):
            return seed, found[0]
    return None, ""


def planted(first: int, seeds: int, workers: int, only: list[str]) -> int:
    """Plant each fault in a copy of the program, and look for it there."""
    patches = sorted((ROOT / "tests" / "planted").glob("*.patch"))
    patches = [patch for patch in patches if not only or patch.stem in only]
    found: dict[str, int | None] = {}
    with ThreadPoolExecutor(workers) as threads:
        looks = {threads.submit(look_for, patch, first, seeds): patch.stem for patch in patches}
        for done in as_completed(looks):
            seed, law = done.result()
            name = looks[done]
            found[name] = None if seed is None else seed - first + 1
            told = "not found" if seed is None else f"found after {found[name]} seeds ({law})"
            print(f"{name}: {told}", flush=True)
    count = sum(after is not None for after in found.values())
    figures = {"planted": len(found), "found": count, "after_seeds": dict(sorted(found.items()))}
    print(json.dumps({"benchmark": "simulate", **figures}))
    return 0 if found and count >= FOUND_SHARE * len(found) else 1


def look_for(patch: Path, first: int, seeds: int) -> tuple[int | None, str]:
    """The first seed by which a planted fault breaks a law, with that law."""
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        copy = Path(folder) / "copy"
        for name in PROGRAM:
            shutil.copytree(ROOT / name, copy / name, symlinks=True)
        subprocess.run(["git", "apply", patch], cwd=copy, check=True)
        command = [sys.executable, "benchmarks/simulate.py", "--first-broken"]
        done = subprocess.run(
            [*command, "--from", str(first), "--seeds", str(seeds)],
            cwd=copy, env=os.environ | {"PYTHONPATH": str(copy / "src")}, capture_output=True, text=True, check=True,
        )  # fmt: skip
    seed, law = json.loads(done.stdout.splitlines()[-1])
    return seed, law


def table(met: Counter[tuple[str, str]]) -> Iterator[str]:
    """States down, faults across: in how many nights they met."""
    states, faults = sorted({state for state, _ in met}), sorted({fault for _, fault in met})
    yield " " * 28 + " ".join(f"{fault[:7]:>7}" for fault in faults)
    for state in states:
        yield f"{state:28}" + " ".join(f"{met[state, fault] or '':>7}" for fault in faults)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--replay", type=int, metavar="SEED")
    parser.add_argument("--planted", action="store_true")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="of the planted faults")
    parser.add_argument("--first-broken", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable()
    gc.freeze()  # what is loaded stays, and need not be looked at again
    gc.disable()  # `stories` collects
    if args.planted:
        return planted(args.first, args.seeds, args.workers, args.only)
    if args.first_broken:
        print(json.dumps(first_broken(args.first, args.seeds)))
        return 0
    if args.replay is not None:
        found = broken(play(args.replay, print))
        print(json.dumps({"benchmark": "simulate", "seed": args.replay, "broken": found}))
        return 1 if found else 0
    began, verdict = time.perf_counter(), Verdict()
    last = args.first + args.seeds
    lots = [range(start, min(start + AT_ONCE, last)) for start in range(args.first, last, AT_ONCE)]
    with multiprocessing.get_context("fork").Pool(args.workers) as pool:
        for done in pool.imap(judged, lots):
            verdict.add(done)
            for seed, words in done.broken:
                print(f"seed {seed}: {words}", flush=True)
    for line in table(verdict.met):
        print(line)
    minutes = (time.perf_counter() - began) / 60
    figures = {
        "nights": verdict.nights,
        "nights_per_minute": round(verdict.nights / minutes),
        "cpu_ms_per_night": round(1000 * verdict.seconds / max(verdict.nights, 1)),
        "turns_per_night": round(verdict.turns / max(verdict.nights, 1)),
        "broken": len(verdict.broken),
        "seeds": sorted({seed for seed, _ in verdict.broken})[:50],
    }
    print(json.dumps({"benchmark": "simulate", **figures}))
    return 1 if verdict.broken else 0


if __name__ == "__main__":
    sys.exit(main())
