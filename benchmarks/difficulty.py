"""Whether `difficulty` tells which requests go wrong: its AUC against being wrong, on recorded outcomes.

    python benchmarks/difficulty.py FOLDER [--seeds 5] [--scored 150,400]

FOLDER holds outcome files (see benchmarks/routing.py). Of each, so many requests are scored on every endpoint as a pilot
would; then `difficulty` is held against what was wrong, endpoint by endpoint: of the requests that were not scored, in all
and within tasks; and of those that were, within what their level is learnt from (task or kind: it knows their scores, what
their text tells does not). Once as the file is, once with its task column dropped. Ends with one JSON line; exits 1 where
an AUC is below one half by more than chance (two standard errors).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from routing import tables
from scipy.stats import rankdata

from thirdshift.router.backtesting.backtest import population_of
from thirdshift.router.backtesting.recorded_outcomes import Outcomes, read
from thirdshift.router.prediction.difficulty import difficulty
from thirdshift.router.prediction.kinds import with_kinds
from thirdshift.router.prediction.observations import Observations, Population

CHANCE = 2.0
"""Standard errors that an AUC may be below one half."""
PARTS = ("others", "others within tasks", "scored within kinds")
"""Requests that were not scored, the same within tasks, and those that were."""


def auc(hard: NDArray[np.float64], wrong: NDArray[np.bool_]) -> tuple[float, float]:
    """The chance that of two requests the wrong one is told to be the harder, and its standard error."""
    bad = int(wrong.sum())
    good = len(wrong) - bad
    if not bad or not good:
        return np.nan, np.nan
    area = (rankdata(hard)[wrong].sum() - bad * (bad + 1) / 2) / (bad * good)
    return float(area), float(np.sqrt((bad + good + 1) / (12.0 * bad * good)))


def mean_auc(
    hard: NDArray[np.float64], score: NDArray[np.float64], parts: list[NDArray[np.int64]]
) -> tuple[float, float]:
    """Over endpoints and parts of the requests, weighed by what each tells."""
    found = [auc(hard[part], score[part, e] < 0.5) for part in parts for e in range(score.shape[1])]
    area, error = np.array([pair for pair in found if np.isfinite(pair[0])] or [(np.nan, np.nan)]).T
    weight = error**-2.0
    # endpoints are wrong at the same requests: their errors are as one
    return float(area @ weight / weight.sum()), float(np.sqrt(score.shape[1] / weight.sum()))


def figures(outcomes: Outcomes, population: Population, scored: int, seeds: int) -> dict[str, Any]:
    """The AUC by part of the requests, each with its standard error, in the mean of the seeds that know something."""
    known: dict[str, list[tuple[float, float]]] = {part: [] for part in PARTS}
    width, named = outcomes.score.shape[1], outcomes.task
    for seed in range(seeds):
        rows = np.sort(np.random.default_rng([seed, scored]).permutation(len(population))[:scored])
        seen = Observations(
            np.repeat(rows, width), np.tile(np.arange(width, dtype=np.int32), len(rows)), outcomes.score[rows].ravel()
        )  # fmt: skip
        hard = difficulty(seen, population, np.full(width, np.nan))
        if np.isnan(hard).all():
            continue
        rest = np.setdiff1d(np.arange(len(population)), rows)
        tasks = [rest[named[rest] == task] for task in np.unique(named)]
        kinds = [rows[population.task[rows] == kind] for kind in range(population.tasks)]
        for part, groups in zip(PARTS, ([rest], tasks, kinds), strict=True):
            known[part].append(mean_auc(hard, outcomes.score, groups))
    return {
        part: (float(np.nanmean([a for a, _ in found])), float(np.nanmean([e for _, e in found])))
        for part, found in known.items()
        if found
    } | {"nights": len(known[PARTS[0]]), "of": seeds}


def main() -> int:
    ask = argparse.ArgumentParser(description="the AUC of difficulty against being wrong")
    ask.add_argument("folder", type=Path)
    ask.add_argument("--seeds", type=int, default=5)
    ask.add_argument("--scored", default="150,400")
    given = ask.parse_args()
    lines, missed = [], []
    for name, table in tables(given.folder):
        outcomes, _ = read(table.drop_columns([c for c in ("answer",) if c in table.column_names]))
        population = population_of(outcomes, np.random.default_rng(0))
        untold = Population(np.zeros(len(population), np.int32), population.text, 1)
        for told, told_as in (("named", population), ("dropped", with_kinds(untold))):
            for scored in map(int, given.scored.split(",")):
                found = figures(outcomes, told_as, scored, given.seeds)
                lines.append({"file": name, "tasks": told, "scored": scored} | found)
                areas = {part: found[part] for part in PARTS if part in found}
                shown = ", ".join(f"{part} {area:.2f}" for part, (area, _) in areas.items())
                print(
                    f"{name}, tasks {told}, {scored} scored: {shown or 'null'}", file=sys.stderr, flush=True
                )
                missed += [
                    f"{name}, tasks {told}, {scored} scored: {part} {area:.3f}"
                    for part, (area, error) in areas.items()
                    if area < 0.5 - CHANCE * error
                ]
    print(json.dumps({"benchmark": "difficulty", "seeds": given.seeds, "misses": missed, "files": lines}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
