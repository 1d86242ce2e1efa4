"""Complete ids of runs for the shell; nothing here may fail or be slow."""

from __future__ import annotations

from pathlib import Path

import typer


def run_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the ids of the runs beside the warehouse that the command line names so far, newest first."""
    from thirdshift.flows.runs.folder import known_runs

    named = ctx.params.get("warehouse")
    return [
        run_id for run_id in known_runs(Path(named or "warehouse.duckdb")) if run_id.startswith(incomplete)
    ]
