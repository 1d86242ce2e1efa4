"""The runs of a warehouse, the newest first: how each stands, what it has spent, what may be claimed of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from thirdshift.flows.errors import UserError
from thirdshift.flows.runs.folder import folder_of_dead, known_runs
from thirdshift.flows.verdicts import floor_words, verdicts_of
from thirdshift.warehouse.errors import WarehouseError
from thirdshift.warehouse.store.read_only import reading

RUNS = """
with claims as (
    select run_id, arg_max(struct_pack(certified, lower_bound, floor), issued_at) as claim
    from certificates where task is null group by run_id
), spent as (
    select run_id, coalesce(sum(cost_usd) filter (where status not in ('unsettled', 'reserved')), 0) as settled_usd,
           coalesce(sum(cost_usd) filter (where status in ('unsettled', 'reserved')), 0) as unsettled_usd
    from ledger group by run_id
)
select r.run_id, r.job, r.status, r.started_at, r.finished_at,
       coalesce(s.settled_usd, 0) as spent_usd, coalesce(s.unsettled_usd, 0) as unsettled_usd,
       r.outcomes, c.claim.certified as certified, c.claim.lower_bound as lower_bound, c.claim.floor as floor
from runs r left join claims c using (run_id) left join spent s using (run_id)
order by r.started_at desc, r.run_id desc
"""
LATEST = "select run_id from runs order by started_at desc, run_id desc limit 1"
INTERRUPTED = "interrupted"
"""The status of a run that is not finished and that no process is on: `resume` goes on with it."""
COLUMNS = (
    "job",
    "started_at",
    "finished_at",
    "spent_usd",
    "unsettled_usd",
    "certified",
    "lower_bound",
    "floor",
)


def runs_of(path: Path) -> list[dict[str, Any]]:
    """Return a row for each run of a warehouse, also for those that died before it knew them. Raises UserError."""
    try:
        with reading(path) as query:
            rows = query(RUNS).to_pylist()
    except WarehouseError as error:
        raise UserError(str(error)) from error
    listed = {row["run_id"] for row in rows}
    early = [run_id for run_id in known_runs(path) if run_id not in listed]
    return [_row({"run_id": run_id, "status": "running"}, path) for run_id in early] + [
        _row(row, path) for row in rows
    ]


def latest_run(path: Path) -> str:
    """Return the id of the run that was started last. Raises UserError where there is none."""
    try:
        with reading(path) as query:
            run_ids = query(LATEST)["run_id"].to_pylist()
    except WarehouseError as error:
        raise UserError(str(error)) from error
    if not run_ids:
        raise UserError(f"{path}: no run yet; run a job first, or name another file with --warehouse")
    return str(run_ids[0])


def _row(run: dict[str, Any], path: Path) -> dict[str, Any]:
    status = run["status"]
    if status == "running" and folder_of_dead(path, run["run_id"]) is not None:
        status = INTERRUPTED
    row = {"run_id": run["run_id"], "status": status} | {name: run.get(name) for name in COLUMNS}
    row |= {"spent_usd": row["spent_usd"] or 0, "unsettled_usd": row["unsettled_usd"] or 0}
    row["outcomes"] = json.loads(run.get("outcomes") or "[]")
    return row | {"verdict": _verdict(row)}


def _verdict(row: dict[str, Any]) -> str:
    """Say what a run came to; where it is not over, how to go on."""
    if row["status"] == "running":
        return ""
    if row["status"] in (INTERRUPTED, "budget", "deadline"):
        return f"thirdshift resume {row['run_id']}"
    words = [verdict.replace("_", " ") for verdict in verdicts_of(row["outcomes"])]
    if row["certified"]:
        words.insert(0, f"≥ {row['lower_bound']:.3f}, {floor_words(row['floor'], certified=True)}")
    return "; ".join(words) or "nothing certified"
