"""The command line of people's scores: `labels export` and `labels import`. The work is in flows/cli/labels_io.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

labels = typer.Typer(
    help="Have people score a random part of a run's answers, and certify by their scores.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

WarehouseOption = Annotated[Path, typer.Option("--warehouse", metavar="FILE", help="The DuckDB file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, all else on stderr.")]
DEFAULT = Path("warehouse.duckdb")


@labels.command(epilog="Example: thirdshift labels export monday --output monday.csv --count 300")
def export(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="A .csv or .parquet file.")],
    count: Annotated[int, typer.Option(min=1, metavar="N", help="How many answers.")] = 300,
    warehouse: WarehouseOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Write answers drawn at random, with an empty column `score` for people to fill in."""
    from thirdshift.flows.cli.labels_io import export_labels

    raise typer.Exit(export_labels(warehouse.resolve(), run_id, output, count, as_json=as_json))


@labels.command("import", epilog="Example: thirdshift labels import monday.csv")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    run_id: Annotated[
        str | None,
        typer.Option("--run-id", metavar="ID", help="Where the file does not say.", show_default=False),
    ] = None,
    warehouse: WarehouseOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Take people's scores in, even days later: the run's certificate is issued anew, by their opinion."""
    from thirdshift.flows.cli.labels_io import import_labels

    raise typer.Exit(import_labels(warehouse.resolve(), file, run_id, as_json=as_json))
