"""What a night costs on recorded outcomes, beside a plain baseline, the best fixed mix and the oracle.

    .venv/bin/python benchmarks/routing.py FOLDER [--seeds 40] [--only NAME] [--jobs 1]

FOLDER holds outcome files (columns as `thirdshift backtest` reads them). A cell is a file and a floor, 0.95 or 0.90 of the
best single model's mean, at confidence 0.95 and 600 scores a model. Files whose tasks end in /easy and /hard are two;
models whose cost was imputed are left out, but in the hard half. Ends with one JSON line; exits 1 where a figure misses.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

from thirdshift.router.backtesting.backtest import (
    LABELS_PER_ENDPOINT,
    BacktestSettings,
    Played,
    figures,
    play,
    population_of,
)
from thirdshift.router.backtesting.recorded_outcomes import Outcomes, best_mix_usd, read

FLOORS = (0.95, 0.90)
CONFIDENCE = 0.95
MISSES_CELL, MISSES_ALL = 5 / 40, 0.07
COST_CELL, COST_MEAN, REST = 0.80, 0.65, 1.05
PRIOR_DEGREES_OF_FREEDOM = 10.0
"""For the baseline: scores that a task's mean is shrunk by."""
FOLDS = 5
NINETY_FIVE = 1.6449
MULTIPLIERS = np.concatenate([[0.0], np.logspace(-4, 3, 120)])


@dataclass(frozen=True)
class Cell:
    name: str
    outcomes: Outcomes
    floor: float


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


def cells(folder: Path, only: str) -> list[Cell]:
    found = []
    for name, table in tables(folder):
        if only in name:
            outcomes, _ = read(table)
            found += [Cell(name, outcomes, floor) for floor in FLOORS]
    return found


# --- the baseline -----------------------------------------------------------------------------------------------------


def task_means(task: NDArray[np.int32], tasks: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
    counts = np.bincount(task, minlength=tasks)[:, None]
    sums = np.zeros((tasks, values.shape[1]))
    np.add.at(sums, task, values)
    means: NDArray[np.float64] = (sums + PRIOR_DEGREES_OF_FREEDOM * values.mean(axis=0)) / (
        counts + PRIOR_DEGREES_OF_FREEDOM
    )
    return means


def baseline(outcomes: Outcomes, text: Any, floor: float, rng: np.random.Generator) -> tuple[bool, float]:
    """A uniform pilot on all candidates, shrunk task means and ridge on TF-IDF, the multiplier chosen so that the lower
    bound of a five-fold paired estimate clears the floor; without one, the best of the pilot for all. (met, USD)

    An answer is expected to cost what the model's answers cost in the pilot; with scikit-learn's default ridge.
    """
    score, cost, task, tasks = outcomes.score, outcomes.cost_usd, outcomes.task, len(outcomes.tasks)
    pilot = rng.choice(len(task), min(LABELS_PER_ENDPOINT, len(task)), replace=False)
    rest = np.setdiff1d(np.arange(len(task)), pilot)

    price = cost[pilot].mean(axis=0)

    def predicted(train: NDArray[np.int64], test: NDArray[np.int64]) -> NDArray[np.float64]:
        means = task_means(task[train], tasks, score[train])
        if not len(test):  # every request was in the pilot
            return means[task[test]]
        ridge = Ridge(solver="sparse_cg").fit(text[train], score[train] - means[task[train]])
        quality: NDArray[np.float64] = means[task[test]] + ridge.predict(text[test]).reshape(len(test), -1)
        return quality

    fold = rng.permutation(len(pilot)) % FOLDS
    quality = np.zeros_like(score[pilot])
    for k in range(FOLDS):
        quality[fold == k] = predicted(pilot[fold != k], pilot[fold == k])
    baseline = int(score[pilot].mean(axis=0).argmax())
    chosen, line = np.full(len(pilot), baseline), np.arange(len(pilot))
    others = np.full(len(rest), baseline)
    for multiplier in MULTIPLIERS * price.max():
        choice = (price - multiplier * quality).argmin(axis=1)
        paired = score[pilot, choice] - floor * score[pilot, baseline]
        if paired.mean() >= NINETY_FIVE * paired.std(ddof=1) / np.sqrt(len(paired)):
            chosen, others = choice, (price - multiplier * predicted(pilot, rest)).argmin(axis=1)
            break
    mean = (score[pilot[line], chosen].sum() + score[rest, others].sum()) / len(task)
    return mean >= floor * score.mean(axis=0).max(), float(cost[pilot].sum() + cost[rest, others].sum())


# --- a cell -----------------------------------------------------------------------------------------------------------


def rest_of(outcomes: Outcomes, played: Played) -> tuple[float, float]:
    """On requests not looked at before the plan: what serving cost, and the best mix at the quality realised there."""
    rows = np.flatnonzero(~played.looked)
    if not len(rows):
        return 0.0, 0.0
    choice = played.choice[rows]
    mix = best_mix_usd(outcomes, float(outcomes.score[rows, choice].mean()))
    if mix is None:  # better than the best single model: no mix does that
        mix = float(outcomes.cost_usd[:, outcomes.score.mean(axis=0).argmax()].mean())
    return float(outcomes.cost_usd[rows, choice].sum()), mix * len(rows)


def measure(cell: Cell, seeds: int) -> dict[str, Any]:
    outcomes, settings = cell.outcomes, BacktestSettings(cell.floor, True, None, CONFIDENCE)
    population = population_of(outcomes, np.random.default_rng(0))
    text = TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, 2), max_features=50_000)
    words = text.fit_transform(outcomes.prompts).tocsr()
    nights, rest, plain = [], [], []
    for seed in range(seeds):
        played = play(outcomes, population, settings, np.random.default_rng([seed, 0]))
        nights.append(figures(outcomes, settings, played))
        rest.append(rest_of(outcomes, played))
        plain.append(baseline(outcomes, words, cell.floor, np.random.default_rng([seed, 1])))
    single = nights[0]["cost_best_single"]
    share = {name: np.mean([night[name] for night in nights]) / single for name in nights[0] if "cost" in name
             and all(night[name] is not None for night in nights)}  # fmt: skip
    return {
        "cell": f"{cell.name} {cell.floor:.2f}",
        "requests": len(outcomes),
        "models": len(outcomes.models),
        "ours": share["cost_usd"],
        "learning": share["cost_learning_usd"],
        "baseline": float(np.mean([usd for _, usd in plain])) / single,
        "best_mix": share["cost_best_mix"],
        "oracle": share["cost_oracle"],
        "missed": sum(not night["met"] for night in nights),
        "baseline_missed": sum(not met for met, _ in plain),
        "certified": float(np.mean([night["certified"] for night in nights])),
        "quality": float(np.mean([night["quality"] / night["quality_best_single"] for night in nights])),
        "rest": sum(a for a, _ in rest) / max(sum(b for _, b in rest), 1e-12),
        "scores": float(np.mean([night["scores_used"] for night in nights])),
    }


def verdict(found: list[dict[str, Any]], seeds: int) -> list[str]:
    """What misses, in words."""
    said = []
    for cell in found:
        if cell["missed"] > MISSES_CELL * seeds:
            said.append(f"{cell['cell']}: the floor was missed in {cell['missed']} of {seeds} nights")
        if cell["ours"] > COST_CELL * cell["baseline"]:
            said.append(f"{cell['cell']}: {cell['ours'] / cell['baseline']:.2f} of the baseline's cost")
        if cell["rest"] > REST:
            said.append(f"{cell['cell']}: what was not looked at cost {cell['rest']:.2f} of the best mix")
    ratio = float(np.mean([cell["ours"] / cell["baseline"] for cell in found]))
    missed = sum(cell["missed"] for cell in found) / (seeds * len(found))
    if ratio > COST_MEAN:
        said.append(f"mean cost is {ratio:.3f} of the baseline's")
    if missed > MISSES_ALL:
        said.append(f"the floor was missed in {missed:.1%} of all nights")
    return said


def main() -> int:
    ask = argparse.ArgumentParser(description="a night's cost on recorded outcomes")
    ask.add_argument("folder", type=Path)
    ask.add_argument("--seeds", type=int, default=40)
    ask.add_argument("--only", default="")
    ask.add_argument("--jobs", type=int, default=1)
    given = ask.parse_args()
    todo = cells(given.folder, given.only)
    if not todo:
        print(
            f"no outcomes in {given.folder}: *.parquet with the columns of `thirdshift backtest`",
            file=sys.stderr,
        )
        return 2
    with ProcessPoolExecutor(given.jobs, initializer=threadpool_limits, initargs=(1,)) as pool:
        found = []
        for cell in pool.map(measure, todo, [given.seeds] * len(todo)):
            found.append(cell)
            print(
                f"{cell['cell']:32} ours {cell['ours']:.3f} (learning {cell['learning']:.3f})  "
                f"baseline {cell['baseline']:.3f}  ratio {cell['ours'] / cell['baseline']:.2f}  "
                f"mix {cell['best_mix']:.3f}  oracle {cell['oracle']:.3f}  missed {cell['missed']} "
                f"(baseline {cell['baseline_missed']})  rest/mix {cell['rest']:.2f}",
                file=sys.stderr,
                flush=True,
            )
    said = verdict(found, given.seeds)
    ratio = float(np.mean([cell["ours"] / cell["baseline"] for cell in found]))
    print(
        json.dumps(
            {"benchmark": "routing", "seeds": given.seeds, "ratio": ratio, "misses": said, "cells": found}
        )
    )
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
