"""The `runs` command: the runs of a warehouse, the newest first."""

from __future__ import annotations

from datetime import UTC
from typing import Annotated

import typer

from thirdshift.flows.cli.options import JsonOption, WarehouseOption, warehouse_file


def register(app: typer.Typer) -> None:
    """Make the command part of `app`."""
    app.command("runs", epilog="Example: thirdshift runs --warehouse warehouse.duckdb")(show_runs)


def show_runs(
    most: Annotated[int, typer.Option(metavar="N", min=1, help="So many of the latest.")] = 20,
    warehouse: WarehouseOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the runs, the newest first: how each stands, what it has spent, what may be claimed of it."""
    from thirdshift.flows.console import money, spent
    from thirdshift.flows.dispatch.dead_runs import enter_interrupted
    from thirdshift.flows.formats import json_text
    from thirdshift.flows.runs.listing import runs_of

    path = warehouse_file(warehouse)
    enter_interrupted(path)
    rows = runs_of(path)[:most]
    if as_json:
        print(json_text({"runs": rows}))
        return
    shown = [
        {
            "run_id": row["run_id"],
            "status": row["status"],
            "started (UTC)": f"{row['started_at'].astimezone(UTC):%Y-%m-%d %H:%M}"
            if row["started_at"]
            else "",
            "spent": spent(row["spent_usd"], row["unsettled_usd"])
            if row["unsettled_usd"]
            else money(row["spent_usd"]),
            "verdict": row["verdict"],
        }
        for row in rows
    ]
    if shown:
        import pyarrow as pa
        from rich.console import Console

        from thirdshift.flows.formats import as_table

        table = as_table(pa.Table.from_pylist(shown))
        table.columns[0].no_wrap = True  # an id is to be copied
        Console(highlight=False).print(table)
    else:
        print(f"{path}: no run yet")
