"""Options that several commands have, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

WarehouseOption = Annotated[
    Path | None,
    typer.Option(
        "--warehouse",
        metavar="FILE",
        help="The DuckDB file; without it, warehouse.duckdb here.",
        show_default=False,
    ),
]
JobsWarehouseOption = Annotated[
    Path | None,
    typer.Option(
        "--warehouse",
        metavar="FILE",
        help="The DuckDB file; without it, the job's.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, all else on stderr.")]


def warehouse_file(named: Path | None) -> Path:
    """Return the warehouse that is named; else the one of this folder."""
    return (named or Path("warehouse.duckdb")).resolve()
