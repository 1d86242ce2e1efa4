"""What a night costs on recorded outcomes, beside an earlier build, the best single model and the best cascade there is.

    .venv/bin/python benchmarks/routing.py FOLDER [--before REF] [--untasked] [--cells WORDS] [--seeds 40] [--first 0]
        [--rows 0,2000,500,200]

FOLDER holds outcome files (columns as `thirdshift backtest` reads them). A cell is a file, a number of rows (0: all, else
drawn anew for each seed), a floor as a share of the best single model's mean, told as a share (relative) or as a number
(absolute), with the file's answers or without; or a night of free scores. `--before` plays the same nights with another
build (a git ref, or a worktree of one; it knows neither answers nor free scores). `--cells "mmlu 0.95 free"`: only cells
with all these words; `--cells "0.95 -answers"`: and none with that one. `--first`: the first seed. `--untasked` plays every
night once more with no task named, and tells its bill as a share of the same night's with tasks, with the standard error.
Files whose tasks end in /easy and /hard are two; models whose cost was imputed are left out, but in the hard half.
Ends with one JSON line; exits 1 where a figure misses what is stated below.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from itertools import permutations, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from builds.trees import HERE, check_out, played_by, take_away

FLOORS = (0.90, 0.95, 0.99)
CONFIDENCE = 0.95
MET_CELL, MET_ALL = 37 / 40, 0.95
MOST_OF_SINGLE = 1.02
"""No cell's mean bill is above so much of the best single model's."""
MEAN_OF_BEFORE, MOST_OF_BEFORE = 0.60, 1.05
MOST_OF_HINDSIGHT = 1.3
MOST_UNTASKED = 1.15
"""Of the bill of the same nights whose rows name their tasks, where none does."""
DEPTH = 3
"""Endpoints of a cascade in hindsight at most."""


@dataclass(frozen=True)
class Cell:
    file: str
    rows: int
    """0: all."""
    floor: float
    kind: str
    """relative, absolute or free."""
    answers: bool

    @property
    def name(self) -> str:
        rows = f"{self.rows} rows" if self.rows else "all rows"
        return f"{self.file} {self.floor:.2f} {rows} {self.kind}{' answers' if self.answers else ''}"


def tables(folder: Path) -> Iterator[tuple[str, pa.Table]]:
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path)
        halves = {half: pc.ends_with(table["task"], f"/{half}") for half in ("easy", "hard")}
        whole = pc.any(pc.or_(*halves.values())).as_py()
        parts = (
            {f"{path.stem} {h}": table.filter(of) for h, of in halves.items()}
            if whole
            else {path.stem: table}
        )
        for name, part in parts.items():
            imputed = "cost_imputed" in part.column_names and not name.endswith(" hard")
            yield name, part.filter(pc.invert(pc.fill_null(part["cost_imputed"], False))) if imputed else part


def cells_of(files: list[tuple[str, bool]], rows: list[int], words: list[str]) -> list[Cell]:
    found = []
    for (file, answers), count, floor in product(files, rows, FLOORS):
        kinds = [("relative", False), ("absolute", False), ("free", False)]
        kinds += [("relative", True), ("absolute", True)] if answers else []
        found += [Cell(file, count, floor, kind, voted) for kind, voted in kinds]
    return [
        cell
        for cell in found
        if all((word[1:] not in cell.name) if word[0] == "-" else word in cell.name for word in words)
    ]


# --- playing, in this build or another --------------------------------------------------------------------------------


def of_build(new: str, old: str) -> Any:
    """A module of the build in the working directory, by its name there: another build may be installed beside it."""
    return import_module(new if (Path.cwd() / "src" / "thirdshift").exists() else old)


def play(
    folder: Path, cells: list[Cell], seeds: range, *, untasked: bool = False
) -> Iterator[dict[str, Any]]:
    """A line for every cell: what its nights cost, and whether they met the floor. `untasked`: no row names its task."""
    backtest = of_build("thirdshift.router.backtesting.backtest", "router.backtest")
    outcomes = of_build("thirdshift.router.backtesting.recorded_outcomes", "router.outcomes")
    night = of_build("thirdshift.router.backtesting.played_night", "router.backtest")
    settings_type = getattr(night, "BacktestSettings", None) or night.Settings
    unnamed = {"kinds": False} if untasked else {}  # they are found among the rows of each night
    for name, table in tables(folder):
        known: dict[bool, tuple[Any, Any]] = {}
        for cell in (cell for cell in cells if cell.file == name):
            if cell.answers not in known:
                kept = (
                    table
                    if cell.answers
                    else table.drop_columns([c for c in ("answer",) if c in table.column_names])
                )
                if untasked:
                    nothing = pa.array(["all"] * kept.num_rows)
                    kept = kept.set_column(kept.column_names.index("task"), "task", nothing)
                whole, _ = outcomes.read(kept)
                known[cell.answers] = (
                    whole,
                    backtest.population_of(whole, np.random.default_rng(0), **unnamed),
                )
            nights = [
                one_night(backtest, settings_type, *known[cell.answers], cell, seed, untasked=untasked)
                for seed in seeds
            ]
            yield {"cell": cell.name, "nights": nights}


def one_night(
    backtest: Any, settings_type: Any, whole: Any, population: Any, cell: Cell, seed: int, *, untasked: bool
) -> dict[str, Any]:
    outcomes, population = some_of(whole, population, cell.rows, np.random.default_rng([seed, 1]))
    if untasked:
        population = import_module("thirdshift.router.prediction.kinds").with_kinds(population)
    mean = outcomes.score.mean(axis=0)
    relative = cell.kind == "relative"
    floor = cell.floor if relative else cell.floor * float(mean.max())
    more = {"free": True} if cell.kind == "free" else {}
    settings = settings_type(floor, relative, None, CONFIDENCE, **more)
    played = backtest.play(outcomes, population, settings, np.random.default_rng([seed, 0]))
    figures = backtest.figures(outcomes, settings, played)
    names = ("cost_usd", "cost_learning_usd", "cost_best_single", "met", "quality", "scores_used")
    found = {name: float(figures[name]) for name in names}
    if cell.kind == "free":
        found["hindsight"] = hindsight_usd(outcomes, floor)
    return found


def some_of(outcomes: Any, population: Any, rows: int, rng: np.random.Generator) -> tuple[Any, Any]:
    if not rows or rows >= len(outcomes):
        return outcomes, population
    kept = np.sort(rng.permutation(len(outcomes))[:rows])
    columns = {"task": outcomes.task[kept], "prompts": [outcomes.prompts[row] for row in kept],
               "score": outcomes.score[kept], "cost_usd": outcomes.cost_usd[kept]}  # fmt: skip
    if getattr(outcomes, "answer", None) is not None:
        columns["answer"] = outcomes.answer[kept]
    return replace(outcomes, **columns), replace(
        population, task=population.task[kept], text=population.text[kept]
    )


def hindsight_usd(outcomes: Any, floor: float) -> float:
    """The cheapest cascade of endpoints, failures sent on in random order until the floor, all outcomes known."""
    n, width = outcomes.score.shape
    best = np.inf
    orders = (order for size in range(1, min(width, DEPTH) + 1) for order in permutations(range(width), size))
    for order in orders:
        held, spent = outcomes.score[:, order[0]].copy(), float(outcomes.cost_usd[:, order[0]].sum())
        for endpoint in order[1:]:
            missing, failed = floor * n - float(held.sum()), held < 1.0
            gain = np.where(failed, np.maximum(outcomes.score[:, endpoint] - held, 0.0), 0.0)
            if missing <= 1e-9 or gain.sum() <= 0.0 or spent >= best:
                break
            share = min(1.0, missing / float(gain.sum()))
            spent += share * float(outcomes.cost_usd[failed, endpoint].sum())
            held = held + share * gain
        if held.sum() >= floor * n - 1e-6:
            best = min(best, spent)
    return best


def given_to(folder: Path, cells: list[Cell], seeds: range, *, untasked: bool = False) -> dict[str, Any]:
    """What a build is told to play."""
    return {
        "untasked": untasked,
        "folder": str(folder),
        "seeds": [seeds.start, seeds.stop],
        "cells": [asdict(cell) for cell in cells],
    }


# --- what is said of it -----------------------------------------------------------------------------------------------


def summed(
    cell: Cell, nights: list[dict[str, float]], before: list[dict[str, float]] | None
) -> dict[str, Any]:
    def mean(of: list[dict[str, float]], name: str) -> float:
        return float(np.mean([night[name] for night in of]))

    single = mean(nights, "cost_best_single")
    found = {
        "cell": cell.name,
        "cost": mean(nights, "cost_usd") / single,
        "learning": mean(nights, "cost_learning_usd") / single,
        "met": mean(nights, "met"),
        "scores": mean(nights, "scores_used"),
    }
    if cell.kind == "free":
        found["hindsight"] = mean(nights, "hindsight") / single
    if before is not None:
        found |= {"before": mean(before, "cost_usd") / single, "before_met": mean(before, "met")}
    return found


def untasked_of(nights: list[dict[str, float]], named: list[dict[str, float]]) -> dict[str, float]:
    """The bill of nights without tasks as a share of the same nights' with them; its standard error, night by night."""
    bare, told = (np.array([night["cost_usd"] for night in of]) for of in (nights, named))
    share = float(bare.mean() / told.mean())
    off = float(np.std(bare - share * told, ddof=1)) if len(told) > 1 else np.nan
    return {
        "untasked": share,
        "untasked_error": off / float(told.mean()) / len(told) ** 0.5,
        "untasked_met": float(np.mean([night["met"] for night in nights])),
    }


def misses(found: list[dict[str, Any]]) -> list[str]:
    """What misses, in words."""
    said = []
    for cell in found:
        name = cell["cell"]
        if cell["met"] < MET_CELL - 1e-9:
            said.append(f"{name}: the floor was met in {cell['met']:.0%} of nights")
        if cell["cost"] > MOST_OF_SINGLE:
            said.append(f"{name}: {cell['cost']:.2f} of the best single model's bill")
        if cell.get("hindsight") and cell["cost"] > MOST_OF_HINDSIGHT * cell["hindsight"]:
            said.append(f"{name}: {cell['cost'] / cell['hindsight']:.2f} of the best cascade in hindsight")
        if cell.get("untasked", 0.0) > MOST_UNTASKED:
            said.append(f"{name}: {cell['untasked']:.2f} of its bill where no row names its task")
        worse = cell.get("before") and cell["cost"] > MOST_OF_BEFORE * cell["before"]
        if worse and cell["before_met"] >= MET_CELL:
            said.append(f"{name}: {cell['cost'] / cell['before']:.2f} of the build before")
    if (met := float(np.mean([cell["met"] for cell in found]))) < MET_ALL:
        said.append(f"the floor was met in {met:.1%} of all nights")
    ratios = [cell["cost"] / cell["before"] for cell in found if "before" in cell]
    if ratios and (ratio := float(np.mean(ratios))) > MEAN_OF_BEFORE:
        said.append(f"in the mean of cells {ratio:.2f} of the build before")
    return said


def line_of(cell: dict[str, Any]) -> str:
    said = f"{cell['cell']:42} {cell['cost']:.4f} of the best, learning {cell['learning']:.3f}, met {cell['met']:.0%}"
    if "before" in cell:
        said += f"; before {cell['before']:.3f}, met {cell['before_met']:.0%}: {cell['cost'] / cell['before']:.2f}"
    if "untasked" in cell:
        said += (
            f"; without tasks {cell['untasked']:.3f} ± {cell['untasked_error']:.3f} of it, "
            f"met {cell['untasked_met']:.0%}"
        )
    return said + (f"; hindsight {cell['hindsight']:.4f}" if "hindsight" in cell else "")


def played(
    folder: Path, cells: list[Cell], seeds: range, ref: str | None, *, untasked: bool
) -> list[dict[str, Any]]:
    """Every cell, in the build before first and then without tasks; a line of each on stderr."""
    before: dict[str, list[dict[str, float]]] = {}
    if ref is not None:
        plain = {replace(cell, answers=False) for cell in cells if cell.kind != "free"}
        order = given_to(folder, sorted(plain, key=lambda cell: cell.name), seeds)
        with tree_of(ref) as tree:
            before = {line["cell"]: line["nights"] for line in played_by(tree, __file__, order)}
    bare: dict[str, list[dict[str, float]]] = {}
    if untasked:
        order = given_to(folder, cells, seeds, untasked=True)
        bare = {line["cell"]: line["nights"] for line in played_by(HERE, __file__, order)}
    by_name, found = {cell.name: cell for cell in cells}, []
    for line in played_by(HERE, __file__, given_to(folder, cells, seeds)):
        cell = by_name[line["cell"]]
        found.append(summed(cell, line["nights"], before.get(replace(cell, answers=False).name)))
        found[-1] |= untasked_of(bare[cell.name], line["nights"]) if untasked else {}
        print(line_of(found[-1]), file=sys.stderr, flush=True)
    return found


@contextmanager
def tree_of(ref: str) -> Iterator[Path]:
    """The worktree that REF names, or one of that commit for as long as it is needed."""
    if Path(ref).is_dir():
        yield Path(ref).resolve()
        return
    with TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        check_out(ref, tree)
        try:
            yield tree
        finally:
            take_away(tree)


def main() -> int:
    ask = argparse.ArgumentParser(description="a night's cost on recorded outcomes")
    ask.add_argument("folder", type=Path, nargs="?")
    ask.add_argument("--before")
    ask.add_argument("--untasked", action="store_true")
    ask.add_argument("--cells", default="")
    ask.add_argument("--seeds", type=int, default=40)
    ask.add_argument("--first", type=int, default=0)
    ask.add_argument("--rows", default="0,2000,500,200")
    ask.add_argument("--play", help=argparse.SUPPRESS)
    given = ask.parse_args()
    if given.play:
        order = json.loads(given.play)
        cells = [Cell(**cell) for cell in order["cells"]]
        for line in play(
            Path(order["folder"]), cells, range(*order["seeds"]), untasked=order.get("untasked", False)
        ):
            print(json.dumps(line), flush=True)
        return 0
    files = [] if given.folder is None else [(n, "answer" in t.column_names) for n, t in tables(given.folder)]
    cells = cells_of(files, [int(count) for count in given.rows.split(",")], given.cells.split())
    if not cells:
        print(
            f"no cells in {given.folder}: *.parquet with the columns of `thirdshift backtest`",
            file=sys.stderr,
        )
        return 2
    seeds = range(given.first, given.first + given.seeds)
    found = played(given.folder.resolve(), cells, seeds, given.before, untasked=given.untasked)
    missed = misses(found)
    print(
        json.dumps(
            {
                "benchmark": "routing",
                "seeds": given.seeds,
                "first": given.first,
                "misses": missed,
                "cells": found,
            }
        )
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
