"""Recorded outcomes as columns: which models and requests a backtest is about, and the yardsticks that know everything."""

from __future__ import annotations

import sys
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
SHORTLIST = 8
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


def read(
    table: pa.Table, endpoints: Sequence[str] = (), shortlist: int | None = None
) -> tuple[Outcomes, list[str]]:
    """The outcomes that are played, and a line for everything that was left out.

    `shortlist`: so many models and no more; None: SHORTLIST, with voters beside them where the outcomes tell answers.
    """
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise OutcomesError(
            f"the outcomes have no column {', '.join(missing)}; needed are {', '.join(COLUMNS)}"
        )
    endpoints = tuple(dict.fromkeys(endpoints))
    every, sentences = _complete(table, endpoints)
    if endpoints:
        return every.only([every.models.index(name) for name in endpoints if name in every.models]), sentences
    chosen = shortlisted(every, shortlist or SHORTLIST)
    if shortlist is None and every.answer is not None and (more := voters(every, chosen)):
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
    _refuse_nameless(table)
    models, model = np.unique(_texts(table, "model"), return_inverse=True)
    unknown = sorted(set(endpoints) - set(models.tolist()))
    if unknown:
        raise OutcomesError(f"no outcomes of {', '.join(unknown)}; there are {', '.join(models)}")
    ids, row = np.unique(_texts(table, "request_id"), return_inverse=True)
    _refuse_repeated(ids, models, row, model)
    score, cost = (
        _matrix(table, name, most, row, model, (len(ids), len(models)))
        for name, most in (("score", 1.0), ("cost_usd", sys.float_info.max))
    )
    known = np.isfinite(score) & np.isfinite(cost)
    share = known.mean(axis=0)
    named = np.isin(models, list(endpoints)) if endpoints else np.ones(len(models), dtype=bool)
    kept = named & (share >= COVERAGE)
    sentences = [
        f"{models[m]} left out: outcomes for {share[m]:.1%} of {len(ids):,} requests, needed are {COVERAGE:.0%}"
        for m in np.flatnonzero(named & ~kept)
    ]
    if not kept.any():
        raise OutcomesError(
            "; ".join(["no model has outcomes for 97 % of the requests: nothing can be compared", *sentences])
        )
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


def _refuse_nameless(table: pa.Table) -> None:
    for name in ("request_id", "model"):
        if nulls := table.column(name).null_count:
            raise OutcomesError(f"{name} is null in {nulls:,} rows; name the request and the model of each")


def _refuse_repeated(
    ids: NDArray[np.str_], models: NDArray[np.str_], row: NDArray[np.intp], model: NDArray[np.intp]
) -> None:
    """Which of two outcomes holds cannot be told, and the costs of both would have been paid."""
    cells, count = np.unique(row * len(models) + model, return_counts=True)
    if len(cells) < len(row):
        first = int(cells[count > 1][0])
        raise OutcomesError(
            f"{len(row) - len(cells):,} rows repeat a request and model, such as {ids[first // len(models)]} of "
            f"{models[first % len(models)]}; keep one row per request and model"
        )


def _matrix(
    table: pa.Table,
    name: str,
    most: float,
    row: NDArray[np.intp],
    model: NDArray[np.intp],
    shape: tuple[int, int],
) -> Floats:
    """A column of numbers by request and model, NaN where there is none. Raises OutcomesError outside of 0 to `most`."""
    try:
        values = table.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise OutcomesError(f"{name} is {table.schema.field(name).type}; needed are numbers") from error
    wrong = np.flatnonzero((values < 0) | (values > most))
    if len(wrong):
        at = int(wrong[0])
        bounds = "from 0 to 1" if most == 1.0 else "a finite number, 0 or more"
        raise OutcomesError(
            f"{name} of {len(wrong):,} rows is not {bounds}, such as {values[at]:g} of "
            f"{table.column('request_id')[at].as_py()} by {table.column('model')[at].as_py()}"
        )
    matrix = np.full(shape, np.nan)
    matrix[row, model] = values
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


def oracle_usd(outcomes: Outcomes, quality: float) -> float | None:
    """Per request: the cheapest assignment that reaches `quality`, every score known; None where none does.

    As in a mix of models, chance may choose between two assignments, those on either side of the price of quality at
    which it is reached: so no mix is cheaper.
    """
    score, cost = outcomes.score, outcomes.cost_usd
    best = score == score.max(axis=1, keepdims=True)
    dear = _means(outcomes, np.where(best, cost, np.inf))
    if dear[0] < quality - 1e-12:
        return None
    cheap, low, high = _means(outcomes, cost), 0.0, 1e6 * float(cost.max()) + 1.0
    if cheap[0] >= quality:
        return cheap[1]
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        means = _means(outcomes, cost - middle * score)
        if means[0] >= quality:
            high, dear = middle, means
        else:
            low, cheap = middle, means
    share = min((quality - cheap[0]) / (dear[0] - cheap[0]), 1.0) if dear[0] > cheap[0] else 1.0
    return (1 - share) * cheap[1] + share * dear[1]


def _means(outcomes: Outcomes, loss: Floats) -> tuple[float, float]:
    """Mean score and cost where each request goes where its loss is least."""
    line, choice = np.arange(len(outcomes)), loss.argmin(axis=1)
    return float(outcomes.score[line, choice].mean()), float(outcomes.cost_usd[line, choice].mean())
