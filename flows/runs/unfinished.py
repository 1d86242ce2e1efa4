"""Runs that were cut short: a job without params goes on with its last one, and a dead one is not called running."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from thirdshift.flows.jobs.building import input_spec
from thirdshift.flows.jobs.job import Job
from thirdshift.flows.runs.folder import folder_of_dead, known_runs, recall
from thirdshift.warehouse.errors import WarehouseError
from thirdshift.warehouse.intake.intake import gives_same_rows
from thirdshift.warehouse.intake.sources import find
from thirdshift.warehouse.journal.run_folder import run_folder
from thirdshift.warehouse.store.read_only import reading

STATUS = "select status from runs where run_id = $run_id"
CUT_SHORT = frozenset({"running", "interrupted", "failed", "budget", "deadline"})
"""Statuses of a run that can be gone on with."""


def input_state(job: Job) -> list[list[Any]] | None:
    """What tells that the input's files are as they were: path, bytes and time of change of each. None: it cannot be
    told (a query, an object store)."""
    if not isinstance(job.input, str) or "://" in job.input:
        return None
    try:
        files = find(job.input, job.base)
        states = [(path, os.stat(path)) for path in files.paths]
    except (WarehouseError, OSError):
        return None
    return [[path, state.st_size, state.st_mtime_ns] for path, state in states]


def facts_of(job: Job, call: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of how a run was called, to find it again."""
    return {"call": dict(call), "job_hash": job.job_hash, "job": job.name, "input": input_state(job)}


def unfinished_run(
    job: Job, warehouse: Path, *, emulated: bool, say: Callable[[str], None] = lambda _: None
) -> str | None:
    """The last run of this job, where it is over the same input and was cut short; None where there is none, or where it
    is done or alive. Of one that was cut short and is not gone on with it is said why."""
    if not warehouse.exists():
        return None
    for run_id in known_runs(warehouse):
        facts = recall(run_folder(warehouse, run_id)) or {}
        if facts.get("job") != job.name or bool(facts.get("call", {}).get("emulated")) != emulated:
            continue
        if not _cut_short(warehouse, run_id):
            return None
        change = _change(job, warehouse, run_id, facts)
        if change is None:
            return run_id
        say(f"{run_id} was cut short, and {change}: this is a new run")
        return None
    return None


def _change(job: Job, warehouse: Path, run_id: str, facts: Mapping[str, Any]) -> str | None:
    """What is not as it was when the run began; None where all is. An input that is no local file is read for it."""
    if facts.get("job_hash") != job.job_hash:
        return "the job asks for something else since"
    state, resume = (
        input_state(job),
        f"`thirdshift resume {run_id}` goes on with the rows that it was begun on",
    )
    if state is not None:
        return None if state == facts.get("input") else f"its input has changed since ({resume})"
    try:
        same = gives_same_rows(input_spec(job), run_folder(warehouse, run_id))
    except WarehouseError as error:
        return f"its input cannot be read ({error})"
    return None if same else f"its input gives other rows now ({resume})"


def _cut_short(warehouse: Path, run_id: str) -> bool:
    if folder_of_dead(warehouse, run_id) is None:
        return False
    try:
        with reading(warehouse) as ask:
            statuses = ask(STATUS, run_id=run_id)["status"].to_pylist()
    except WarehouseError:
        return False
    return bool(statuses) and statuses[0] in CUT_SHORT
