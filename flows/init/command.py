"""Options of the command `init`; flows/init/writing.py does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thirdshift.flows.errors import UserError


def register(app: typer.Typer) -> None:
    """Make the command part of `app`."""
    app.command(epilog="Example: thirdshift init tickets.parquet --output tickets.yaml")(init)


def init(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="Parquet, JSONL or CSV; a folder, a URI, a quoted glob.", show_default=False
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The job file to write.")
    ] = Path("job.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite it.")] = False,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="A server whose models to use: its /v1/models is read.", show_default=False
        ),
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The variable that holds its key.", show_default=False),
    ] = None,
) -> None:
    """Look at the data, the keys and the devices, and write a commented job file that can be planned as it stands."""
    from thirdshift.flows.init.servers import USUAL_PORTS
    from thirdshift.flows.init.writing import write_job

    if endpoint is None and api_key_env is not None:
        raise UserError(f"--api-key-env {api_key_env}: whose key is it? name the server: --endpoint URL")
    raise typer.Exit(
        write_job(source, output, force=force, server=endpoint, key_variable=api_key_env, ports=USUAL_PORTS)
    )
