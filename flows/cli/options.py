"""Options that several commands have, each said once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from thirdshift.flows.errors import UserError


def _on_disk(path: Path | None) -> Path | None:
    """Raises UserError for a URI, which would become a folder called `s3:`."""
    if path is not None and re.match(r"\w{2,}:/", str(path)):
        raise UserError(f"--warehouse {path}: a warehouse is a file on a disk of this machine, no URI")
    return path


def _warehouse(otherwise: str) -> Any:
    return typer.Option(
        "--warehouse",
        metavar="FILE",
        help=f"The DuckDB file; without it, {otherwise}.",
        show_default=False,
        callback=_on_disk,
    )


WarehouseOption = Annotated[Path | None, _warehouse("warehouse.duckdb here")]
JobsWarehouseOption = Annotated[Path | None, _warehouse("the job's")]
RehearsalsWarehouseOption = Annotated[Path | None, _warehouse("warehouse.rehearsal.duckdb beside the job's")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, all else on stderr.")]


def warehouse_file(named: Path | None) -> Path:
    """Return the warehouse that is named; else the one of this folder."""
    return (named or Path("warehouse.duckdb")).resolve()
