"""The `backtest` command: what a run would have cost and scored, on outcomes already known."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thirdshift.flows.cli.options import JsonOption
from thirdshift.flows.console import money
from thirdshift.flows.formats import json_text

if TYPE_CHECKING:
    from rich.table import Table

    from thirdshift.flows.api.backtests import BacktestReport

app = typer.Typer()


@app.command(epilog="Example: thirdshift backtest outcomes.parquet --floor 0.95 --relative --repeat 10")
def backtest(
    outcomes: Annotated[
        Path,
        typer.Argument(
            metavar="OUTCOMES",
            help="Parquet: request_id, prompt, task, model, score, input_tokens, output_tokens, cost_usd; answer if known.",
            show_default=False,
        ),
    ],
    floor: Annotated[float, typer.Option(min=0, max=1, help="Mean score to reach.")],
    relative: Annotated[
        bool, typer.Option("--relative", help="The floor is a share of the best single model's mean.")
    ] = False,
    labels: Annotated[
        int | None,
        typer.Option(
            min=1, help="Scores that may be looked at; 600 per endpoint if not given.", show_default=False
        ),
    ] = None,
    endpoints: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Only these models.", show_default=False)
    ] = None,
    shortlist: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="So many models, spread over the frontier of means. If not given 8, and, where answers are known, cheap "
            "ones beside them to vote.",
            show_default=False,
        ),
    ] = None,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999)] = 0.95,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    repeat: Annotated[int, typer.Option(min=1, help="Nights to play.")] = 1,
    free: Annotated[
        bool,
        typer.Option(
            "--free", help="Every answer served is scored at once, at no cost: serve, look, send on."
        ),
    ] = False,
    per_task: Annotated[
        bool, typer.Option("--per-task", help="The floor holds for every task on its own.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """What would a night have cost and scored, on outcomes already known? Pilot, plan, audit and repair are played.

    docs/backtest.md says what each figure means.
    """
    from rich.console import Console

    from thirdshift.flows.api.backtests import backtest_with_notes
    from thirdshift.router.backtesting.played_night import BacktestSettings

    named = _names(endpoints)
    if named and shortlist is not None:
        raise typer.BadParameter("--endpoints says which models are played; leave --shortlist out")
    settings = BacktestSettings(floor, relative, labels, confidence, free, per_task)
    report, notes = backtest_with_notes(
        outcomes, settings, endpoints=named, shortlist=shortlist, seed=seed, repeat=repeat
    )
    for note in notes:
        print(note, file=sys.stderr)
    if as_json:
        print(json_text(asdict(report)))
    else:
        Console(highlight=False).print(_table(report))


def _names(listed: str | None) -> tuple[str, ...]:
    if listed is None:
        return ()
    names = tuple(name.strip() for name in listed.split(","))
    if not all(names):
        raise typer.BadParameter(f"--endpoints {listed!r} holds an empty name; write them as a,b,c")
    return names


def _table(report: BacktestReport) -> Table:
    """Return a table of the mean of all repeats; costs are of the whole batch."""
    from rich.table import Table

    table = Table("figure", f"mean of {len(report.repeats)}")
    table.columns[1].justify = "right"
    for name, value in asdict(report.mean).items():
        table.add_row(name, _shown(name, value))
    return table


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "none"
    if name.startswith("cost_"):
        return money(value)
    if name in ("met", "certified"):  # of one night: 100% or 0%
        return f"{value:.0%}"
    return f"{value:,.0f}" if name == "scores_used" else f"{value:.4f}"
