"""What the audit's answers are, and which of them a run has drawn: both as they are kept with the run.

A draw shuffles, by a recorded seed, every request of the population whose served answer had no score when it was drawn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from thirdshift.flows.quality.scoring import baselines_of
from thirdshift.flows.runs.context import RunContext
from thirdshift.router.certification.scorers import Basis
from thirdshift.warehouse.store.judgements import BASELINE_SCORES, SERVED
from thirdshift.warehouse.store.store import Warehouse

Floats = NDArray[np.float64]

DRAW = "audit.json"


@dataclass(frozen=True, slots=True)
class ServedAnswers:
    """The population, by request: what is served and what is known of its score. Columns of one length."""

    row: NDArray[np.int64]
    task: NDArray[np.object_]
    endpoint: list[str]
    score: Floats
    """NaN: not known yet. An answer that is none scores 0, and so does one that cannot be judged: the bound holds then."""
    predicted: Floats
    baseline: Floats
    """The baseline's score of the same request, for a relative floor; NaN: not known."""


def served(warehouse: Warehouse, context: RunContext, population: NDArray[np.int64]) -> ServedAnswers:
    """Return the served answers of `population`, rows that the claim is about; those without a result are left out."""
    answers = warehouse.query(SERVED, run_id=context.run_id)
    answers = answers.filter(pa.array(np.isin(np.asarray(answers["row"], np.int64), population)))
    row = np.asarray(answers["row"], np.int64)
    score = np.asarray(answers["score"].cast(pa.float64()).fill_null(np.nan), np.float64).copy()
    answered, in_vain = (np.asarray(answers[name], np.bool_) for name in ("answered", "in_vain"))
    score[~answered | (np.isnan(score) & in_vain)] = 0.0
    if context.basis is Basis.AGREEMENT:  # the baseline agrees with itself
        own = np.isin(np.array(answers["endpoint"].to_pylist(), np.object_), baselines_of(context))
        score[own & answered] = 1.0
    baseline_scores = warehouse.query(BASELINE_SCORES, run_id=context.run_id, endpoints=baselines_of(context))
    by_row = dict(zip(baseline_scores["row"].to_pylist(), baseline_scores["score"].to_pylist(), strict=True))
    baseline = np.array([by_row.get(number, np.nan) for number in row.tolist()], np.float64)
    predicted = np.asarray(answers["predicted"].cast(pa.float64()).fill_null(np.nan), np.float64)
    task = answers["task"].to_numpy()
    return ServedAnswers(row, task, answers["endpoint"].fill_null("").to_pylist(), score, predicted, baseline)


@dataclass(frozen=True, slots=True)
class Draw:
    """One round's audit."""

    number: int
    """1 for the first; each repair is followed by another."""
    seed: int
    drawn_at: str
    sizes: Mapping[str, int]
    """So many of the order's first are asked for: of all under "", of a task's under its name."""
    population: NDArray[np.int64]
    """Rows that the claim is about."""
    served_by: NDArray[np.str_]
    """Whose answer each of them was served when it was drawn; "": nobody's."""
    order: NDArray[np.int64]
    """Those of them that had no score, shuffled."""
    sample: int = 0
    """Where the rows that can be scored are a random sample of all: so many, and they come first in `order`."""

    def still_served(self, view: ServedAnswers) -> bool:
        """Return whether every answer drawn is the one that is served now."""
        same = len(view.row) == len(self.population) and bool((view.row == self.population).all())
        return same and view.endpoint == self.served_by.tolist()

    def asked(self, tasks: Mapping[int, str]) -> NDArray[np.int64]:
        """Return the rows to be scored, in the order drawn. `tasks`: by row."""
        wanted = set(self.order[: self.sizes.get("", 0)].tolist())
        for task, size in self.sizes.items():
            of_task = [row for row in self.order.tolist() if task and tasks.get(row) == task]
            wanted |= set(of_task[:size])
        return np.array([row for row in self.order.tolist() if row in wanted], np.int64)


def seed_of(run_id: str, number: int) -> int:
    """Return the seed of a run's draw `number`."""
    return int.from_bytes(blake2b(f"{run_id} {number}".encode(), digest_size=8).digest())


def load(folder: Path) -> Draw | None:
    """Return the run's latest draw."""
    path = folder / DRAW
    if not path.exists():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    with np.load(folder / f"audit-{values['number']}.npz") as rows:
        return Draw(**values, **{name: rows[name] for name in ("population", "served_by", "order")})


def save(folder: Path, draw: Draw) -> None:
    """Write a draw to the run's folder: its rows beside, then its head, renamed into place."""
    rows = {"population": draw.population, "served_by": draw.served_by, "order": draw.order}
    np.savez(folder / f"audit-{draw.number}.npz", **rows)  # type: ignore[arg-type] # numpy's stubs
    values = {name: getattr(draw, name) for name in ("number", "seed", "drawn_at", "sizes", "sample")}
    beside = folder / f"{DRAW}.tmp"
    beside.write_text(json.dumps(values), encoding="utf-8")
    beside.rename(folder / DRAW)
