"""The `backtest` command: what a night would have cost and scored, on outcomes already known."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from thirdshift.flows.errors import UserError
from thirdshift.router.backtesting.backtest import BacktestSettings, backtest
from thirdshift.router.backtesting.recorded_outcomes import OutcomesError

SHOWN = (
    "floor",
    "quality",
    "cost_usd",
    "cost_learning_usd",
    "scores_used",
    "met",
    "certified",
    "cost_best_single",
    "cost_best_mix",
    "cost_oracle",
)


def show_backtest(
    outcomes: Path,
    settings: BacktestSettings,
    *,
    endpoints: tuple[str, ...],
    shortlist: int,
    seed: int,
    repeat: int,
    as_json: bool,
) -> int:
    """Play the nights and print their figures; 0. Raises UserError where the file is no outcomes file."""
    try:
        table = pq.read_table(outcomes)
        answer, said = backtest(
            table, settings, endpoints=endpoints, shortlist=shortlist, seed=seed, repeat=repeat
        )
    except (OSError, pa.ArrowException, OutcomesError) as error:
        raise UserError(f"{outcomes}: {error}") from error
    for line in said:
        print(line, file=sys.stderr)
    if as_json:
        print(json.dumps(answer))
    else:
        Console(highlight=False).print(_table(answer))
    return 0


def _table(answer: dict[str, Any]) -> Table:
    """The mean of all repeats; costs of the whole batch in USD."""
    table = Table("figure", f"mean of {len(answer['repeats'])}")
    table.columns[1].justify = "right"
    for name in SHOWN:
        value = answer["mean"][name]
        table.add_row(name, "none" if value is None else f"{value:,.4f}")
    return table
