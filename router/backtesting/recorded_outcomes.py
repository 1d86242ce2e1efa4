"""Recorded outcomes as columns: which models and requests a backtest is about, and the yardsticks that know everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COVERAGE = 0.97
"""A model that answered a smaller share of the requests is left out: the contract's."""
COLUMNS = ("request_id", "prompt", "task", "model", "score", "cost_usd")
ANSWER = "answer"
VOTERS, VOTER_COST = 3, 0.25
"""Models that the shortlist leaves out, but whose answers may agree with others: so many, the best of those that cost at
most this share of the best model. As single models they are dominated; as voters they are often the best."""
BISECTIONS = 60


class OutcomesError(ValueError):
    """A table that cannot be played; the message names what is missing and what to do."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Complete: every request has an outcome for every model."""

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    task: NDArray[np.int32]
    prompts: Sequence[str]
    score: Floats
    """Shape (n, models)."""
    cost_usd: Floats
    """Shape (n, models)."""
    answer: NDArray[np.int32] | None = None
    """Shape (n, models): equal numbers in a row are equal answers, -1 agrees with nothing; None: the file does not say."""

    def __len__(self) -> int:
        return len(self.task)

    def only(self, chosen: Sequence[int]) -> Outcomes:
        names = tuple(self.models[m] for m in chosen)
        columns = list(chosen)
        answer = None if self.answer is None else self.answer[:, columns]
        return Outcomes(
            names,
            self.tasks,
            self.task,
            self.prompts,
            self.score[:, columns],
            self.cost_usd[:, columns],
            answer,
        )


def read(table: pa.Table, endpoints: Sequence[str] = (), shortlist: int = 8) -> tuple[Outcomes, list[str]]:
    """The outcomes that are played, and a line for everything that was left out."""
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise OutcomesError(
            f"the outcomes have no column {', '.join(missing)}; needed are {', '.join(COLUMNS)}"
        )
    every, sentences = _complete(table, endpoints)
    if endpoints:
        return every.only([every.models.index(name) for name in endpoints]), sentences
    chosen = shortlisted(every, shortlist)
    if every.answer is not None and (more := voters(every, chosen)):
        sentences.append(f"besides the shortlist, as voters: {', '.join(every.models[m] for m in more)}")
        chosen = [*chosen, *more]
    names = [every.models[m] for m in chosen]
    left = [name for name in every.models if name not in names]
    if left:
        sentences.append(f"shortlist {', '.join(names)}; left out: {', '.join(left)}")
    return every.only(chosen), sentences


def _complete(table: pa.Table, endpoints: Sequence[str]) -> tuple[Outcomes, list[str]]:
    if not table.num_rows:
        raise OutcomesError("the outcomes have no row; one row per request and model is needed")
    models, model = np.unique(_texts(table, "model"), return_inverse=True)
    unknown = sorted(set(endpoints) - set(models.tolist()))
    if unknown:
        raise OutcomesError(f"no outcomes of {', '.join(unknown)}; there are {', '.join(models)}")
    ids, row = np.unique(_texts(table, "request_id"), return_inverse=True)
    score, cost = (
        _matrix(table, name, row, model, (len(ids), len(models))) for name in ("score", "cost_usd")
    )
    known = np.isfinite(score) & np.isfinite(cost)
    share = known.mean(axis=0)
    named = np.isin(models, list(endpoints)) if endpoints else np.ones(len(models), dtype=bool)
    kept = named & (share >= COVERAGE)
    sentences = [
        f"{models[m]} left out: outcomes for {share[m]:.1%} of {len(ids):,} requests, needed are {COVERAGE:.0%}"
        for m in np.flatnonzero(named & ~kept)
    ]
    if endpoints and sentences:
        raise OutcomesError("; ".join(sentences))
    if not kept.any():
        raise OutcomesError("no model has outcomes for 97 % of the requests: nothing can be compared")
    rows = np.flatnonzero(known[:, kept].all(axis=1))
    if len(rows) < len(ids):
        sentences.append(
            f"{len(ids) - len(rows):,} of {len(ids):,} requests left out: not every model has an outcome"
        )
    first = np.zeros(len(ids), dtype=np.int64)
    first[row[::-1]] = np.arange(len(row))[::-1]
    some = table.take(pa.array(first[rows]))
    tasks, task = np.unique(_texts(some, "task"), return_inverse=True)
    block = np.ix_(rows, np.flatnonzero(kept))
    outcomes = Outcomes(
        tuple(models[kept].tolist()),
        tuple(tasks.tolist()),
        task.astype(np.int32),
        _texts(some, "prompt").tolist(),
        score[block],
        cost[block],
        _answers(table, row, model, (len(ids), len(models)))[block] if ANSWER in table.column_names else None,
    )
    return outcomes, sentences


def _answers(
    table: pa.Table, row: NDArray[np.intp], model: NDArray[np.intp], shape: tuple[int, int]
) -> NDArray[np.int32]:
    matrix = np.full(shape, -1, np.int32)
    codes = table.column(ANSWER).cast(pa.string()).combine_chunks().dictionary_encode().indices
    matrix[row, model] = codes.fill_null(-1).to_numpy(zero_copy_only=False)
    return matrix


def _texts(table: pa.Table, name: str) -> NDArray[np.str_]:
    return np.array([text or "" for text in table.column(name).to_pylist()], dtype=object).astype(str)


def _matrix(
    table: pa.Table, name: str, row: NDArray[np.intp], model: NDArray[np.intp], shape: tuple[int, int]
) -> Floats:
    matrix = np.full(shape, np.nan)
    matrix[row, model] = table.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
    return matrix


def shortlisted(outcomes: Outcomes, count: int) -> list[int]:
    """By mean cost, only models strictly better than all cheaper ones; of these `count`, evenly spread."""
    score, better, best = outcomes.score.mean(axis=0), [], -np.inf
    for m in sorted(range(len(score)), key=lambda m: (outcomes.cost_usd[:, m].mean(), outcomes.models[m])):
        if score[m] > best:
            better.append(m)
            best = float(score[m])
    places = np.unique(np.round(np.linspace(0, len(better) - 1, count)).astype(int))
    return [better[p] for p in places]


def voters(outcomes: Outcomes, chosen: Sequence[int]) -> list[int]:
    """Cheap models beside the chosen ones whose agreement may tell something."""
    score, cost = outcomes.score.mean(axis=0), outcomes.cost_usd.mean(axis=0)
    cheap = [m for m in range(len(score)) if m not in chosen and cost[m] <= VOTER_COST * cost[score.argmax()]]
    return sorted(
        sorted(cheap, key=lambda m: (-score[m], outcomes.models[m]))[:VOTERS], key=lambda m: cost[m]
    )


def best_mix_usd(outcomes: Outcomes, quality: float) -> float | None:
    """Per request: the cheapest fixed model, or random mix of two, whose mean score reaches `quality`."""
    score, cost = outcomes.score.mean(axis=0), outcomes.cost_usd.mean(axis=0)
    reached = [float(c) for s, c in zip(score, cost, strict=True) if s >= quality - 1e-12]
    for low, cheap in zip(score, cost, strict=True):
        for high, dear in zip(score, cost, strict=True):
            if low < quality <= high:
                share = (quality - low) / (high - low)
                reached.append(float((1 - share) * cheap + share * dear))
    return min(reached, default=None)


def oracle_usd(outcomes: Outcomes, quality: float) -> float:
    """Per request: the cheapest assignment that reaches `quality`, every score known (by one multiplier)."""
    line, low, high = np.arange(len(outcomes)), 0.0, 1e6 * float(outcomes.cost_usd.max()) + 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        choice = (outcomes.cost_usd - middle * outcomes.score).argmin(axis=1)
        enough = outcomes.score[line, choice].mean() >= quality
        low, high = (low, middle) if enough else (middle, high)
    choice = (outcomes.cost_usd - high * outcomes.score).argmin(axis=1)
    return float(outcomes.cost_usd[line, choice].mean())
