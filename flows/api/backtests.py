"""What a run would have cost and scored, on outcomes already known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from thirdshift.flows.api.jobs import AnyPath
from thirdshift.flows.errors import UserError, why_unread
from thirdshift.router.backtesting import backtest as played
from thirdshift.router.backtesting.played_night import BacktestSettings
from thirdshift.router.backtesting.recorded_outcomes import OutcomesError


@dataclass(frozen=True, slots=True)
class BacktestFigures:
    """What one run came to, or the mean of several. Costs are USD of the whole batch."""

    floor: float
    quality: float
    """The mean score of what was served."""
    cost_usd: float
    """All that was paid: what was served, and what was learnt from."""
    cost_learning_usd: float
    scores_used: float
    met: float
    """Whether `quality` reaches `floor`; of several runs the share that did."""
    certified: float
    """Whether the audit showed it; of several runs the share."""
    cost_best_single: float
    """Everything by the model with the best mean."""
    quality_best_single: float
    cost_best_mix: float | None
    """The cheapest random mix of models that reaches the floor; None where none does."""
    cost_mix_at_quality: float | None
    """The cheapest random mix that reaches `quality`."""
    cost_oracle: float | None
    """The cheapest choice by somebody who knows every score; None where no choice reaches the floor."""


@dataclass(frozen=True, slots=True)
class BacktestReport:
    """What `backtest --json` prints: each run's figures, and their means (None where a figure is None in any run)."""

    repeats: tuple[BacktestFigures, ...]
    mean: BacktestFigures


def backtest(
    outcomes: AnyPath | pa.Table,
    settings: BacktestSettings,
    *,
    endpoints: Sequence[str] = (),
    shortlist: int | None = None,
    seed: int = 0,
    repeat: int = 1,
) -> BacktestReport:
    """Play whole runs on recorded outcomes, pilot, plan, audit and repair, and return what they cost and scored.

    `outcomes`: Parquet or a table with request_id, prompt, task, model, score, input_tokens, output_tokens, cost_usd, one
    row per request and model. `endpoints`: only these models; else `shortlist` of them, spread over the frontier of means;
    without either 8, and up to three cheap ones beside them where `answer` tells who agrees with whom.
    Run k of a seed plays with (seed, k). Raises UserError where the outcomes are none.
    """
    return backtest_with_notes(
        outcomes, settings, endpoints=endpoints, shortlist=shortlist, seed=seed, repeat=repeat
    )[0]


def backtest_with_notes(
    outcomes: AnyPath | pa.Table,
    settings: BacktestSettings,
    *,
    endpoints: Sequence[str],
    shortlist: int | None,
    seed: int,
    repeat: int,
) -> tuple[BacktestReport, list[str]]:
    """As `backtest`, with what there is to say of the outcomes."""
    name = "outcomes" if isinstance(outcomes, pa.Table) else str(outcomes)
    try:
        table = outcomes if isinstance(outcomes, pa.Table) else pq.read_table(Path(outcomes))
        answer, notes = played.backtest(
            table, settings, endpoints=endpoints, shortlist=shortlist, seed=seed, repeat=repeat
        )
    except (OSError, pa.ArrowException, OutcomesError) as error:
        raise UserError(f"{name}: {why_unread(error)}") from error
    repeats = tuple(BacktestFigures(**figures) for figures in answer["repeats"])
    return BacktestReport(repeats, BacktestFigures(**answer["mean"])), notes
