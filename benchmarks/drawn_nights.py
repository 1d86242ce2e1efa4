"""Two hundred nights drawn at random, played by this build and by an earlier one, beside the optimum that knows the draw.

    python benchmarks/drawn_nights.py [--draws 100] [--before REF] [--first 0]

A draw is a job (tiers, price windows, limits, latencies, workers with minima, caches, a cap, a deadline, a floor by scores
or by belief) and two nights of it: the second knows what the first has learnt. Every night is played by the build's own
code from the job file to the ledger; only the far side of the engines is emulated, in virtual time
(benchmarks/drawn/providers.py says what). `--before` plays the same nights with the build of a git commit. Ends with one
JSON line; exits 1 where a figure misses what is stated below.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__" and "--play" in sys.argv:
    sys.path.append(sys.path.pop(0))  # an earlier build has folders that are called like files here
    from drawn import clock

    clock.install()  # before anything reads the time

import numpy as np
from builds.trees import HERE, check_out, played_by, take_away

MEAN_OF_OPTIMUM, MOST_OF_OPTIMUM = 1.05, 1.25
"""In the mean, and in the worst twentieth."""
KEPT = 0.97
PLAN_OFF = 0.10
HIGH_LEAST, HIGH_MOST = 0.93, 0.98
NIGHTS = 2
BETWEEN = 24 * 3600.0


# --- playing ----------------------------------------------------------------------------------------------------------


def play(seed: int) -> Iterator[dict[str, Any]]:
    """A line for each night of a draw."""
    from drawn.draw import drawn
    from drawn.optimum import best_night

    draw = drawn(seed)
    with tempfile.TemporaryDirectory(prefix="drawn-") as folder:
        for number in range(NIGHTS):
            begins = draw.begins + number * BETWEEN
            night = draw.night(number)
            best = best_night(draw, night, begins, draw.deadline_seconds)
            line: dict[str, Any] = {"seed": seed, "night": number, "rows": draw.rows, "scored": draw.scored}
            cap = None if draw.cap_share is None or best is None else draw.cap_share * best.cost_usd
            uncapped = None if best is None else best.cost_usd
            if cap is not None:
                best = best_night(draw, night, begins, draw.deadline_seconds, cap)
            if best is None:
                yield line | {"optimum": None}
                continue
            began = time.process_time()
            line |= {
                "optimum": best.cost_usd,
                "uncapped": uncapped,
                "cap": cap,
                "deadline": draw.deadline_seconds,
            }
            yield (
                line
                | one_night(draw, night, number, begins, cap, Path(folder))
                | {"cpu": round(time.process_time() - began, 1)}
            )


def one_night(
    draw: Any, night: Any, number: int, begins: float, cap: float | None, folder: Path
) -> dict[str, Any]:
    """What the build planned, spent and kept."""
    from drawn import build
    from drawn.clock import CLOCK
    from drawn.providers import World

    CLOCK.now = begins
    job = draw.write(folder, number, cap)
    try:
        planned = build.planned_figures(job, f"plan-{number}")
    except Exception as error:  # noqa: BLE001 (a build that cannot plan it has said so)
        planned = {"plan_error": repr(error)[:200]}
    CLOCK.now = begins
    world = World(draw, night, number)
    build.dispatching.engine_for = world.engine_for
    options = build.RunOptions(job=job, run_id=f"night-{number}")
    from functools import partial

    with build.open_run(f"night-{number}", options) as run:
        summary = build.run_stages(run, partial(world.send, run))
    code = summary["exit"] if isinstance(summary, dict) else summary.exit_code
    with build.Warehouse.open(folder / "warehouse.duckdb") as warehouse:
        figures = warehouse.query(
            "select (select coalesce(sum(cost_usd), 0)::double from ledger where run_id = $run) as spent,"
            " (select count(*) from results where run_id = $run and error is null) as answered,"
            " (select planned_usd::double from runs where run_id = $run) as replanned",
            None,
            run=f"night-{number}",
        ).to_pylist()[0]
        served = warehouse.query(
            "select request_id, endpoint from results where run_id = $run and error is null",
            None,
            run=f"night-{number}",
        ).to_pylist()
    seconds = world.last_answer - begins
    late = draw.deadline_seconds is not None and seconds > draw.deadline_seconds + 1.0
    return planned | figures | {"exit": code, "seconds": seconds, "late": late,
                                "floor_kept": floor_kept(draw, night, served),
                                "whole": figures["answered"] == draw.rows}  # fmt: skip


def floor_kept(draw: Any, night: Any, served: list[dict[str, Any]]) -> bool:
    """Whether the answers served keep the floor: by their scores, or where there are none by what the job believes."""
    if draw.floor is None:
        return True
    place = {end.name: e for e, end in enumerate(draw.endpoints)}
    worth = 0.0
    for line in served:
        e, row = place[line["endpoint"]], int(line["request_id"].rpartition("-")[2])
        worth += float(night.right[row, e]) if draw.scored else draw.endpoints[e].job["quality_prior"]
    return worth / draw.rows >= draw.floor - 0.5 / draw.rows


APART = {"PREFECT_API_URL": None, "THIRDSHIFT_QUIET": "1"}
"""A played night talks with nobody."""


# --- what is said of it -----------------------------------------------------------------------------------------------


def figures_of(nights: list[dict[str, Any]]) -> dict[str, Any]:
    """What the nights of a build come to."""
    possible = [night for night in nights if night.get("optimum") is not None]
    timed = [night for night in possible if night["deadline"] is not None]
    whole = [night for night in possible if night["whole"] and night["floor_kept"]]
    ratio = np.sort([night["spent"] / night["optimum"] for night in whole]) if whole else np.full(1, np.nan)
    uncapped = np.mean([night["spent"] / night["uncapped"] for night in whole]) if whole else np.nan
    told = [night for night in whole if night.get("cost_usd")]
    off = [abs(night["cost_usd"] / night["spent"] - 1) for night in told]
    high = [
        night["spent"] <= night["cost_usd_high"] * (1 + 1e-9) for night in told if night.get("cost_usd_high")
    ]
    worst = ratio[-max(1, len(ratio) // 20) :]
    return {
        "nights": len(nights),
        "possible": len(possible),
        "whole": sum(night["whole"] for night in possible) / max(len(possible), 1),
        "floor_kept": sum(night["floor_kept"] for night in possible if night["whole"])
        / max(sum(night["whole"] for night in possible), 1),
        "of_optimum": float(ratio.mean()),
        "of_uncapped": float(uncapped),
        "worst_twentieth": float(worst.mean()),
        "deadline_kept": float(np.mean([night["whole"] and not night["late"] for night in timed]))
        if timed
        else None,
        "plan_off": float(np.median(off)) if off else None,
        "high_right": float(np.mean(high)) if high else None,
        "told": len(told),
    }


def misses(found: dict[str, Any]) -> list[str]:
    said = []
    if found["of_optimum"] > MEAN_OF_OPTIMUM:
        said.append(f"{found['of_optimum']:.3f} of the optimum in the mean")
    if found["worst_twentieth"] > MOST_OF_OPTIMUM:
        said.append(f"{found['worst_twentieth']:.3f} of the optimum in the worst twentieth")
    if found["deadline_kept"] is not None and found["deadline_kept"] < KEPT:
        said.append(f"the deadline was kept in {found['deadline_kept']:.1%}")
    if found["plan_off"] is not None and found["plan_off"] > PLAN_OFF:
        said.append(f"the plan's figure is {found['plan_off']:.1%} off in the median")
    if found["high_right"] is not None and not HIGH_LEAST <= found["high_right"] <= HIGH_MOST:
        said.append(f"cost_usd_high was right in {found['high_right']:.1%}")
    return said


def main() -> int:
    ask = argparse.ArgumentParser(description="nights drawn at random beside the optimum that knows the draw")
    ask.add_argument("--draws", type=int, default=100)
    ask.add_argument("--first", type=int, default=0)
    ask.add_argument("--before")
    ask.add_argument("--verbose", action="store_true")
    ask.add_argument("--play", help=argparse.SUPPRESS)
    given = ask.parse_args()
    if given.play:
        for seed in json.loads(given.play):
            for line in play(seed):
                print(json.dumps(line), flush=True)
        return 0
    seeds = list(range(given.first, given.first + given.draws))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="drawn-nights-") as folder:
        trees = {"now": HERE}
        if given.before:
            trees["before"] = Path(folder) / "before"
            check_out(given.before, trees["before"])
        for name, tree in trees.items():
            nights = []
            for night in played_by(tree, __file__, seeds, APART):
                nights.append(night)
                if given.verbose:
                    print(name, json.dumps(night), file=sys.stderr, flush=True)
            found[name] = figures_of(nights)
            print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
        if given.before:
            take_away(trees["before"])
    missed = misses(found["now"])
    print(json.dumps({"benchmark": "drawn_nights", "misses": missed} | found))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
