"""Erasure from the command line: what goes, from which file, and what is not touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from thirdshift.flows.cli.maintenance_commands import day_of
from thirdshift.flows.errors import UserError
from thirdshift.flows.formats import jsonable, printable
from thirdshift.flows.runs.folder import alive_runs
from thirdshift.warehouse.errors import WarehouseError
from thirdshift.warehouse.exchange.purge import purge
from thirdshift.warehouse.exchange.purge_survey import PurgeSurvey, survey
from thirdshift.warehouse.store.locks import check_exists

NAMED = 5
"""Unknown ids that a message names."""


def purge_text(path: Path, ids: Path | None, before: str | None, *, dry_run: bool, as_json: bool) -> int:
    """Erase the text of requests, or of runs that began before a day, or say what would go; return 0.

    Raises UserError: no run has one of the ids (nothing is erased then), or what is wrong with the warehouse.
    """
    if (ids is None) == (before is None):
        raise UserError("purge takes --request-ids FILE or --before DATE, one of them")
    wanted = _read_ids(ids) if ids is not None else []
    moment = None if before is None else day_of(before, "--before")
    try:
        check_exists(path)
        plan = survey(path, request_ids=wanted, before=moment)
        if plan.unknown:
            more = f" and {len(plan.unknown) - NAMED:,} more" if len(plan.unknown) > NAMED else ""
            names = ", ".join(plan.unknown[:NAMED])
            raise UserError(f"--request-ids {ids}: no run in {path} has {names}{more}; nothing was erased")
        told = asdict(plan) | {"files": [asdict(file) for file in plan.files], "dry_run": dry_run}
        if not dry_run:
            done = purge(path, request_ids=wanted, before=moment, alive=alive_runs(path))
            told = told | asdict(done) | {"from": told["files"]}
    except WarehouseError as error:
        raise UserError(str(error)) from error
    if as_json:
        print(json.dumps(told, default=jsonable))
    else:
        print("\n".join(printable(line) for line in _lines(plan, dry_run=dry_run)))
    return 0


def _lines(plan: PurgeSurvey, *, dry_run: bool) -> Iterator[str]:
    did = "would erase" if dry_run else "erased"
    yield f"{did} the text of {plan.requests:,} requests in {len(plan.runs):,} runs"
    yield "from the warehouse's tables results, responses, requests and judgements"
    for file in plan.files:
        yield f"from {file.path}: {file.requests:,} requests"
    for copy in plan.copies:
        yield f"not touched: {copy}"
    if plan.runs:
        yield "not touched: files exported or reported before, and the input that was read"
    if dry_run:
        yield "nothing was changed; without --dry-run it is done"


def _read_ids(path: Path) -> list[str]:
    """Read request ids: one a line, or the column request_id of a Parquet file. Raises UserError."""
    try:
        if path.suffix == ".parquet":
            return [
                str(request_id)
                for request_id in pq.read_table(path, columns=["request_id"])["request_id"].to_pylist()
            ]
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise UserError(
            f"--request-ids {path}: cannot be read: {error}; give a text file with an id a line, or Parquet with a "
            "column request_id"
        ) from error
    ids = [line for line in lines if line.strip()]
    if not ids:
        raise UserError(f"--request-ids {path}: there is no id in it")
    return ids
