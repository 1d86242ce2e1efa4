"""Options of `migrate`, `purge`, `export` and `ledger`; flows/cli/maintenance_commands.py does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thirdshift.flows.cli.options import JsonOption, WarehouseOption, warehouse_file
from thirdshift.flows.errors import UserError

ledger = typer.Typer(
    help="Sum up what was spent; hold it against a provider's invoice.", pretty_exceptions_enable=False
)

RunOption = Annotated[
    str | None, typer.Option("--run", metavar="RUN_ID", help="Of this run alone.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Make these commands part of `app`."""
    app.command(epilog="Example: thirdshift migrate --warehouse warehouse.duckdb")(migrate)
    app.command(epilog="Example: thirdshift purge --before 2026-08-01")(purge)
    app.command(epilog="Example: thirdshift export results --run monday --output monday.parquet")(export)
    app.add_typer(ledger, name="ledger")


def migrate(warehouse: WarehouseOption = None, as_json: JsonOption = False) -> None:
    """Bring a warehouse of an earlier version up to this one. A copy is made beside it first."""
    from thirdshift.flows.cli.maintenance_commands import migrate_warehouse

    raise typer.Exit(migrate_warehouse(warehouse_file(warehouse), as_json=as_json))


def purge(
    request_ids: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="An id a line, or Parquet with a column request_id.", show_default=False
        ),
    ] = None,
    before: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="All of the runs begun before this day (UTC).", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, and change nothing.")
    ] = False,
    warehouse: WarehouseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Erase text of requests and answers: tables, parts, journals, frozen input. Ids, figures and money stay."""
    from thirdshift.flows.cli.maintenance_commands import purge_text

    raise typer.Exit(
        purge_text(warehouse_file(warehouse), request_ids, before, dry_run=dry_run, as_json=as_json)
    )


def export(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="A .parquet file.")],
    table: Annotated[
        str, typer.Argument(metavar="TABLE", help="Any table or view of the warehouse.")
    ] = "results",
    run: RunOption = None,
    warehouse: WarehouseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a table or view to a Parquet file."""
    from thirdshift.flows.cli.maintenance_commands import export_table

    raise typer.Exit(export_table(warehouse_file(warehouse), table, output, run, as_json=as_json))


@ledger.callback(invoke_without_command=True, epilog="Example: thirdshift ledger --run monday --json")
def summed(
    context: typer.Context,
    run: RunOption = None,
    warehouse: WarehouseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what was spent, by run, endpoint and purpose."""
    if context.invoked_subcommand is not None:
        if as_json or run is not None or warehouse is not None:
            raise UserError(
                f"options of the summary do not go before `ledger {context.invoked_subcommand}`; put its own after it"
            )
        return
    from thirdshift.flows.cli.maintenance_commands import show_ledger

    raise typer.Exit(show_ledger(warehouse_file(warehouse), run, as_json=as_json))


@ledger.command(epilog="Example: thirdshift ledger reconcile openai-2026-11.csv --provider openai")
def reconcile(
    invoice: Annotated[
        Path,
        typer.Argument(
            metavar="INVOICE",
            help="A CSV: a usage export of OpenAI's or Anthropic's, or columns of these names: day and model, or id (the "
            "provider's of an attempt); cost_usd, or input_tokens and output_tokens.",
            show_default=False,
        ),
    ],
    provider: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose it is, as in ledger.provider.", show_default=False),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Where the invoice names no days.", show_default=False),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="DATE", help="Not this day itself.", show_default=False)
    ] = None,
    settle: Annotated[
        bool,
        typer.Option("--settle", help="Write down what the invoice says that unsettled attempts have cost."),
    ] = False,
    warehouse: WarehouseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the ledger with an invoice: what agrees, is ours only, theirs only, or differs. Exit 0 in any case."""
    from thirdshift.flows.cli.maintenance_commands import reconcile_invoice

    place = warehouse_file(warehouse)
    raise typer.Exit(
        reconcile_invoice(place, invoice, provider, since, until, settling=settle, as_json=as_json)
    )
