"""The `run` and `resume` commands: what a call asks for, the checks before anything is spent, and how a night ends."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from thirdshift.flows.errors import UserError
from thirdshift.flows.orchestration.server import settle_environment
from thirdshift.flows.runs.folder import UnknownRun, known_runs, recall
from thirdshift.flows.runs.ids import checked_run_id
from thirdshift.flows.runs.options import RunOptions
from thirdshift.warehouse.journal.run_folder import run_folder


def run_job(call: RunOptions, *, as_json: bool) -> int:
    """Run the night under Prefect; the exit code."""
    settle_environment()
    from thirdshift.flows.formats import jsonable
    from thirdshift.flows.night import night
    from thirdshift.flows.orchestration.shutdown import kept, last_words
    from thirdshift.flows.runs.context import context_for, name_of_run, ready
    from thirdshift.flows.runs.summary import show_end
    from thirdshift.flows.verdicts import NotDone

    run_id = name_of_run(call)
    ready(context_for(call, run_id))  # every mistake is told before Prefect starts
    try:
        with last_words(run_id):
            summary = night(**replace(call, run_id=run_id).as_parameters())
    except NotDone as over:
        summary = over.summary
    except KeyboardInterrupt:
        print(f"\n{kept(run_id)}", file=sys.stderr)
        return 130
    if as_json:
        print(json.dumps(summary, default=jsonable))
    else:
        show_end(summary)
    return int(summary["exit"])


def resume_run(
    run_id: str, warehouse: Path | None, *, cap: float | None, deadline: str | None, yes: bool, as_json: bool
) -> int:
    """Go on with a run, called as it was called, under its job file as it is now."""
    place = warehouse or Path("warehouse.duckdb").resolve()
    told = recall(run_folder(place, checked_run_id(run_id)))
    if told is None:
        known = known_runs(place)
        raise UnknownRun(
            f"no run {run_id} beside {place}; "
            + (f"there are {', '.join(known[:5])}" if known else "name its warehouse with --warehouse FILE")
        )
    known_call = RunOptions.from_parameters(told["call"])
    call = RunOptions(
        job=known_call.job,
        params=known_call.params,
        run_id=run_id,
        warehouse=place,
        yes=yes or known_call.yes,
        cap=None if cap is None else Decimal(str(cap)),
        deadline=deadline,
        emulated=known_call.emulated,
        outcomes=known_call.outcomes,
    )
    if not call.job.exists():
        raise UserError(f"run {run_id}: its job file {call.job} is gone; put it back to go on")
    return run_job(call, as_json=as_json)


def rehearse_job(call: RunOptions, outcomes: Path | None, *, as_json: bool) -> int:
    """Run the job with every endpoint emulated; the exit code."""
    return run_job(replace(call, emulated=True, outcomes=outcomes), as_json=as_json)
