"""Options of `labels export` and `labels import`; flows/cli/labels_io.py does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thirdshift.flows.cli.completion import run_ids
from thirdshift.flows.cli.options import JsonOption, WarehouseOption, warehouse_file
from thirdshift.flows.errors import UserError

labels = typer.Typer(
    help="Have people score a random part of a run's answers, and certify by their scores.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

RunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN_ID", help="Without it, the latest run.", show_default=False, autocompletion=run_ids
    ),
]


@labels.command(epilog="Example: thirdshift labels export monday --output monday.csv --count 300")
def export(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="A .csv or .parquet file.")],
    run_id: RunArgument = None,
    count: Annotated[int, typer.Option(min=1, metavar="N", help="How many answers.")] = 300,
    warehouse: WarehouseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write answers drawn at random, with an empty column `score` for people to fill in."""
    from thirdshift.flows.cli.labels_io import export_labels
    from thirdshift.flows.runs.listing import latest_run

    place = warehouse_file(warehouse)
    raise typer.Exit(export_labels(place, run_id or latest_run(place), output, count, as_json=as_json))


@labels.command("import", epilog="Example: thirdshift labels import monday --input monday.csv")
def import_(
    run_id: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN_ID",
            help="Without it, the run that the file names.",
            show_default=False,
            autocompletion=run_ids,
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--input", "-i", metavar="FILE", help="The file, filled in.", show_default=False),
    ] = None,
    named: Annotated[str | None, typer.Option("--run-id", metavar="ID", hidden=True)] = None,
    warehouse: WarehouseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take people's scores in, even days later: the run's certificate is issued anew, by their opinion.

    Takes RUN_ID as `export` does, and the file by --input; a file alone is enough where it names its run.
    """
    from thirdshift.flows.cli.labels_io import import_labels

    if file is None and run_id is not None:  # a file alone
        file, run_id = Path(run_id), None
    if file is None:
        raise UserError("labels import: name the file that people have filled in: --input FILE")
    raise typer.Exit(import_labels(warehouse_file(warehouse), file, run_id or named, as_json=as_json))
