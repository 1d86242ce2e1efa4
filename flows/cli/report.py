"""Options of `report`; flows/report/page.py does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thirdshift.flows.cli.completion import run_ids
from thirdshift.flows.cli.options import WarehouseOption, warehouse_file


def register(app: typer.Typer) -> None:
    """Make the command part of `app`."""
    app.command(epilog="Example: thirdshift report monday --output monday.html")(report)


def report(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The page to write.", show_default=False)
    ],
    run_id: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN_ID", help="Without it, the latest run.", show_default=False, autocompletion=run_ids
        ),
    ] = None,
    warehouse: WarehouseOption = None,
    texts: Annotated[
        bool, typer.Option("--texts", help="Show text of the slowest and dearest requests, too.")
    ] = False,
) -> None:
    """One HTML page of a run: what it cost, what it is worth, what happened. Needs no network; also for a stopped run."""
    from thirdshift.flows.dispatch.dead_runs import enter_interrupted
    from thirdshift.flows.report.page import write_report
    from thirdshift.flows.runs.listing import latest_run

    place = warehouse_file(warehouse)
    enter_interrupted(place)
    raise typer.Exit(write_report(run_id or latest_run(place), output, place, texts=texts))
