"""What would a night have cost and scored, on outcomes already known?

The whole night is played with the functions that a real one uses: pilot, prediction, plan, audit, repair, certificate.
They see of the outcomes only the answers that they look at or serve, and pay for each of these once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from thirdshift.router.backtesting.audited_night import play_audited
from thirdshift.router.backtesting.free_night import play_free
from thirdshift.router.backtesting.played_night import (
    BacktestSettings,
    Played,
)
from thirdshift.router.backtesting.recorded_outcomes import Outcomes, best_mix_usd, oracle_usd, read
from thirdshift.router.prediction import features
from thirdshift.router.prediction.kinds import with_kinds
from thirdshift.router.prediction.observations import Population

Floats = NDArray[np.float64]


def play(
    outcomes: Outcomes, population: Population, settings: BacktestSettings, rng: np.random.Generator
) -> Played:
    """The whole night."""
    whole = play_free if settings.free else play_audited
    return whole(outcomes, population, settings, rng)


def figures(outcomes: Outcomes, settings: BacktestSettings, played: Played) -> dict[str, Any]:
    """The contract's figures of one night. Costs are USD of the whole batch."""
    n, line = len(outcomes), np.arange(len(outcomes))
    score = outcomes.score.mean(axis=0)
    best = int(score.argmax())
    floor = settings.floor * float(score[best]) if settings.relative else settings.floor
    quality = float(outcomes.score[line, played.choice].mean())
    served = float(outcomes.cost_usd[line, played.choice].sum())
    total = float(outcomes.cost_usd[played.paid].sum())
    mix, same = best_mix_usd(outcomes, floor), best_mix_usd(outcomes, quality)
    oracle = oracle_usd(outcomes, floor)
    return {
        "floor": floor,
        "quality": quality,
        "cost_usd": total,
        "cost_learning_usd": total - served,
        "scores_used": played.scores_used,
        "met": _met(outcomes, settings, played.choice, best, floor),
        "certified": played.certificate.certified,
        "cost_best_single": float(outcomes.cost_usd[:, best].sum()),
        "quality_best_single": float(score[best]),
        "cost_best_mix": None if mix is None else mix * n,
        "cost_mix_at_quality": None if same is None else same * n,
        "cost_oracle": None if oracle is None else oracle * n,
    }


def _met(
    outcomes: Outcomes, settings: BacktestSettings, choice: NDArray[np.int32], best: int, floor: float
) -> bool:
    """Whether the floor is met; for every task on its own where that is asked (of the best single model's mean there)."""
    served = outcomes.score[np.arange(len(outcomes)), choice]
    if not settings.per_task:
        return float(served.mean()) >= floor - 1e-12
    counts = np.bincount(outcomes.task)
    mean = np.bincount(outcomes.task, served) / counts
    of_best = np.bincount(outcomes.task, outcomes.score[:, best]) / counts
    asked = settings.floor * of_best if settings.relative else settings.floor
    return bool((mean >= asked - 1e-12).all())


def population_of(outcomes: Outcomes, rng: np.random.Generator, *, kinds: bool = True) -> Population:
    """The requests as a night sees them; `kinds`: like prompts act as tasks where none is named."""
    text = features.learn(outcomes.prompts, rng)
    columns = features.in_chunks(text, [outcomes.prompts])
    population = Population(outcomes.task, columns, len(outcomes.tasks))
    return with_kinds(population) if kinds else population


def backtest(
    table: pa.Table,
    settings: BacktestSettings,
    *,
    endpoints: Sequence[str] = (),
    shortlist: int | None = None,
    seed: int = 0,
    repeat: int = 1,
) -> tuple[dict[str, Any], list[str]]:
    """The answer of `thirdshift backtest`, and what to say on stderr. Night k of a seed plays with (seed, k)."""
    outcomes, said = read(table, endpoints, shortlist)
    population = population_of(outcomes, np.random.default_rng(seed), kinds=not settings.per_task)
    repeats = []
    for k in range(repeat):
        played = play(outcomes, population, settings, np.random.default_rng([seed, k]))
        repeats.append(figures(outcomes, settings, played))
    return {"repeats": repeats, "mean": mean_of(repeats)}, said


def mean_of(repeats: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Return the mean of each figure; null where any is null."""
    columns = {name: [figure[name] for figure in repeats] for name in repeats[0]}
    return {
        name: None if any(value is None for value in values) else float(np.mean(values))
        for name, values in columns.items()
    }
