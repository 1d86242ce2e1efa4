"""The command line of `report`. The work is in flows/report/page.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thirdshift.flows.cli.completion import run_ids


def register(app: typer.Typer) -> None:
    """Make the command part of `app`."""
    app.command(epilog="Example: thirdshift report monday --output monday.html")(report)


def report(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", show_default=False, autocompletion=run_ids)],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The page to write.", show_default=False)
    ],
    warehouse: Annotated[
        Path | None, typer.Option("--warehouse", metavar="FILE", help="The DuckDB file.", show_default=False)
    ] = None,
    texts: Annotated[
        bool, typer.Option("--texts", help="Show text of the slowest and dearest requests, too.")
    ] = False,
) -> None:
    """One HTML page of a run: what it cost, what it is worth, what happened. Needs no network; also for a stopped run."""
    from thirdshift.flows.report.page import write_report

    raise typer.Exit(write_report(run_id, output, warehouse or Path("warehouse.duckdb"), texts=texts))
