"""Running, resuming and rehearsing a job: what comes of it is a value, whatever the run came to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from thirdshift.flows.api.jobs import (
    AnyJob,
    AnyPath,
    Deadline,
    Params,
    Usd,
    instant_of,
    money_of,
    options_for,
)
from thirdshift.flows.errors import UserError
from thirdshift.flows.orchestration.server import answering, server_named, settle_environment
from thirdshift.flows.runs.folder import UnknownRun, known_runs, recall
from thirdshift.flows.runs.ids import checked_run_id
from thirdshift.flows.runs.options import RunOptions
from thirdshift.flows.runs.summary import NotDone, RunSummary
from thirdshift.warehouse.journal.run_folder import run_folder


def run(
    job: AnyJob,
    *,
    run_id: str | None = None,
    params: Params | None = None,
    cap_usd: Usd | None = None,
    deadline: Deadline | None = None,
    warehouse: AnyPath | None = None,
    yes: bool = False,
    fresh: bool = False,
) -> RunSummary:
    """Run a job to its end, or resume its unfinished run of this id, and return how it ended.

    `run_id`: the same for the same params where none is given, and a new one for a job without params. `cap_usd` and
    `deadline` override the job's; `yes` approves a plan above `budget.approve_above_usd`; `fresh` starts anew where there
    is a run of this id. A floor that is missed or a budget that is used up is no exception: the summary's `exit_code` says
    so. Raises UserError where the job, its input or the call is wrong, or the run cannot go on.
    """
    options = options_for(
        job,
        params,
        run_id=run_id,
        warehouse=warehouse,
        cap_usd=cap_usd,
        deadline=deadline,
        yes=yes,
        fresh=fresh,
    )
    return run_within(options)


def resume(
    run_id: str,
    *,
    warehouse: AnyPath,
    cap_usd: Usd | None = None,
    deadline: Deadline | None = None,
    yes: bool = False,
) -> RunSummary:
    """Go on with a run that was stopped or killed, and return how it ended. What was answered is not paid for again.

    Raises UnknownRun, RunAlive where another process is on it, and UserError as `run` does.
    """
    place = Path(warehouse).resolve()
    return run_within(
        options_to_resume(run_id, place, cap_usd=cap_usd, deadline=instant_of(deadline), yes=yes)
    )


def rehearse(
    job: AnyJob,
    *,
    outcomes: AnyPath | None = None,
    run_id: str | None = None,
    params: Params | None = None,
    cap_usd: Usd | None = None,
    deadline: Deadline | None = None,
    warehouse: AnyPath | None = None,
    fresh: bool = False,
) -> RunSummary:
    """Run a job against emulated providers, at the real prices and limits: nothing leaves the machine or is billed.

    `outcomes`: a Parquet file of recorded answers that the emulated models repeat. Writes to a warehouse of its own beside
    the job's unless one is named. Returns and raises as `run` does; no keys are needed.
    """
    options = options_for(
        job,
        params,
        run_id=run_id,
        warehouse=warehouse,
        cap_usd=cap_usd,
        deadline=deadline,
        yes=True,
        fresh=fresh,
    )
    return run_within(as_rehearsal(options, None if outcomes is None else Path(outcomes).resolve()))


def as_rehearsal(options: RunOptions, outcomes: Path | None) -> RunOptions:
    """The same call with every endpoint emulated."""
    return replace(options, emulated=True, outcomes=outcomes)


def options_to_resume(
    run_id: str, warehouse: Path, *, cap_usd: Usd | None, deadline: str | None, yes: bool
) -> RunOptions:
    """How a run is resumed: called as it was called, under its job file as it is now."""
    facts = recall(run_folder(warehouse, checked_run_id(run_id)))
    if facts is None:
        known = known_runs(warehouse)
        raise UnknownRun(
            f"no run {run_id} beside {warehouse}; "
            + (f"there are {', '.join(known[:5])}" if known else "name its warehouse with --warehouse FILE")
        )
    before = RunOptions.from_parameters(facts["call"])
    if not before.job.exists():
        raise UserError(f"run {run_id}: its job file {before.job} is gone; put it back to go on")
    return RunOptions(
        job=before.job,
        params=before.params,
        run_id=run_id,
        warehouse=warehouse,
        yes=yes or before.yes,
        cap=money_of(cap_usd),
        deadline=deadline,
        emulated=before.emulated,
        outcomes=before.outcomes,
    )


def run_within(options: RunOptions) -> RunSummary:
    """Run a job in a process that goes on afterwards, also when the run is interrupted."""
    from thirdshift.flows.execution.stopping import process_goes_on

    with process_goes_on():
        return run_to_end(options)


def run_to_end(options: RunOptions) -> RunSummary:
    """Run a job, as the flow `night` where a Prefect server is named and in threads of this process where none is.

    What is wrong with the call is raised before anything starts.
    """
    from thirdshift.flows.console import RunConsole
    from thirdshift.flows.runs.context import context_for, name_of_run, ready

    run_id = name_of_run(options, RunConsole().say)
    options = replace(options, run_id=run_id)
    ready(context_for(options, run_id))
    if not server_named():
        from thirdshift.flows.execution.sending import run_in_threads

        return run_in_threads(options)
    settle_environment()
    answering()
    from thirdshift.flows.night import night

    try:
        summary: RunSummary = night(**options.as_parameters())
        return summary
    except NotDone as over:
        return over.summary
