"""What a job's earlier runs mean for this one: answers it need not pay for, a budget they share, text to erase."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from thirdshift.flows.console import money, spent
from thirdshift.flows.dispatch.dead_runs import take_in
from thirdshift.flows.errors import UserError
from thirdshift.flows.formats import counted
from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.planning.history import changed_endpoints
from thirdshift.flows.runs.context import RunContext
from thirdshift.flows.runs.folder import RunAlive, folder_of_dead, locked
from thirdshift.router.values import Mode
from thirdshift.warehouse.errors import WarehouseError
from thirdshift.warehouse.exchange.purge import outlived_runs, purge_outlived
from thirdshift.warehouse.intake.frozen import column
from thirdshift.warehouse.journal.run_folder import folder_to_change
from thirdshift.warehouse.store import ledger
from thirdshift.warehouse.store.ledger import spent_in_window
from thirdshift.warehouse.store.reuse import answered_before, reuse
from thirdshift.warehouse.store.store import Warehouse

Say = Callable[[str], None]

REUSED = "select row, endpoint from responses where run_id = $run_id and reused_from is not null"
OTHERS = "select run_id from runs where job = $job and run_id <> $run_id and status <> 'done'"
"""Runs that are done have left nothing in journals; there is one for every night there was."""


# --- answers ---------------------------------------------------------------------------------------------------------


def take_over(warehouse: Warehouse, context: RunContext, columns: RequestColumns, say: Say) -> RequestColumns:
    """`reuse: answered`: earlier answers become replies of this run; their requests stay with who answered them.

    Taken are answers by endpoints that the job still has, with the same model and parameters, and that its policy
    allows. The columns come back with nothing else allowed for these requests, so that neither pilot nor plan nor
    repair sends them.
    """
    if context.job.reuse == "answered" and not (context.folder / "shards").exists():  # nothing was sent yet
        answers = _usable(_earlier_answers(warehouse, context, columns), context, columns)
        reuse(warehouse, context.run_id, answers)
        if answers.num_rows:
            saved = pc.sum(answers["saved_usd"]).as_py() or Decimal(0)
            say(f"{answers.num_rows:,} answers of earlier runs reused, {money(saved)} saved")
    held = warehouse.query(REUSED, run_id=context.run_id)
    endpoint = _positions(held["endpoint"], context)
    at = columns.positions(np.asarray(held["row"], np.int64))
    allowed = columns.allowed.copy()
    allowed[at[endpoint >= 0]] = False
    allowed[at[endpoint >= 0], endpoint[endpoint >= 0]] = True
    return replace(columns, allowed=allowed)


def _earlier_answers(warehouse: Warehouse, context: RunContext, columns: RequestColumns) -> pa.Table:
    seconds, job = context.job.reuse_max_age, context.job.name
    return answered_before(
        warehouse,
        job,
        pc.unique(_hashes(context, columns)),
        None if seconds is None else timedelta(seconds=seconds),
        context.clock(),
        but_run=context.run_id,
        emulated=context.call.emulated,
        by_sample=context.by_sample,
        changed=changed_endpoints(warehouse, job, context.endpoints),
    )


def _usable(answers: pa.Table, context: RunContext, columns: RequestColumns) -> pa.Table:
    """Leave out answers by endpoints that are gone, are another model now, or are not allowed for the request."""
    models = {endpoint.name: endpoint.model for endpoint in context.endpoints}
    same = [
        models.get(row["endpoint"]) == row["model"]
        for row in answers.select(["endpoint", "model"]).to_pylist()
    ]
    answers = answers.filter(pa.array(same, pa.bool_()))
    if not answers.num_rows:
        return answers
    endpoint = _positions(answers["endpoint"], context)
    which = pc.index_in(_hashes(context, columns), value_set=answers["request_hash"].combine_chunks())
    answer = np.asarray(pc.fill_null(which, -1), np.int64)
    asked = np.flatnonzero(answer >= 0)
    refused = answer[asked[~columns.allowed[asked, endpoint[answer[asked]]]]]
    fine = np.ones(answers.num_rows, bool)
    fine[refused] = False
    return answers.filter(pa.array(fine))


def _hashes(context: RunContext, columns: RequestColumns) -> pa.Array:
    hashes = column(context.folder, "request_hash")
    taken = hashes.take(pa.array(columns.rows))
    return taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken


def _positions(names: pa.ChunkedArray, context: RunContext) -> NDArray[np.int64]:
    known = pa.array([endpoint.name for endpoint in context.endpoints], pa.string())
    return np.asarray(pc.fill_null(pc.index_in(names, value_set=known), -1), np.int64)


# --- money -----------------------------------------------------------------------------------------------------------


@contextmanager
def sharing(context: RunContext) -> Iterator[None]:
    """Be alone with the budget that the job's runs of a day or month share: two at once could pass the cap together."""
    if context.job.budget.window == "run":
        yield
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(context.folder.with_name(_share(context.job.name))))
        except RunAlive as error:
            raise UserError(
                f"another run of {context.job.name} is alive, and with budget.window: {context.job.budget.window} "
                "they would share one cap; wait for it or stop it"
            ) from error
        yield


def _share(job: str) -> str:
    """Return the name of the lock's folder, beside those of runs; a job's name can be longer than a file's."""
    return f".budget-{blake2b(job.encode(), digest_size=8).hexdigest()}"


def within_window(warehouse: Warehouse, context: RunContext, say: Say) -> RunContext:
    """Return the context with its cap less what the job's other runs have spent in `budget.window`."""
    window, cap = context.job.budget.window, context.cap_usd
    if window == "run" or cap is None:
        return context
    _settle_others(warehouse, context)
    everyone, others = (
        spent_in_window(
            warehouse, context.job.name, window, context.clock(), but_run=but, emulated=context.call.emulated
        )
        for but in (None, context.run_id)
    )
    # the budget counts all that this run has spent; what it spent before the window began is not of this cap
    before = ledger.spending(warehouse, context.run_id).most_usd - (everyone.most_usd - others.most_usd)
    left = max(cap - others.most_usd, Decimal(0))
    if others.most_usd:
        say(
            f"other runs of this {window}: {spent(others.settled_usd, others.unsettled_usd)}; the cap is {money(cap)}, "
            f"and {money(left)} are left of it"
        )
    return replace(context, cap_usd=left + before)


def _settle_others(warehouse: Warehouse, context: RunContext) -> None:
    """Take in what killed runs of the job left in journals and at batch tiers: they have spent it, or can have."""
    names = warehouse.query(OTHERS, job=context.job.name, run_id=context.run_id)["run_id"].to_pylist()
    tiers = {endpoint.name for endpoint in context.reached.values() if endpoint.mode is Mode.BATCH}
    for run_id in names:
        folder = folder_to_change(context.warehouse, run_id)
        if folder is not None:
            with locked(folder):
                take_in(warehouse, run_id, folder, tiers)


# --- text ------------------------------------------------------------------------------------------------------------


_BEGAN, _AT = datetime.now(UTC), time.monotonic()


def seen_to_pass() -> datetime:
    """Return the time by a clock that nobody sets: one that jumps ahead must not erase what is still wanted."""
    return _BEGAN + timedelta(seconds=time.monotonic() - _AT)


def forget(context: RunContext, say: Say) -> None:
    """`retention_days`: erase the text of the job's runs that are older. Where that fails, tonight's run is done all the
    same: it is said, and the job's next run does it."""
    days = context.job.retention_days
    if days is None:
        return
    path, job = context.warehouse, context.job.name
    now = min(context.clock(), seen_to_pass())
    if days >= now.toordinal():  # before any date: nothing is as old
        return
    before = now - timedelta(days=days)
    try:
        alive = [
            run_id for run_id in outlived_runs(path, job, before) if folder_of_dead(path, run_id) is None
        ]
        done = purge_outlived(path, job, before, alive=[context.run_id, *alive], say=say)
    except (WarehouseError, OSError) as error:
        say(
            f"retention_days: text older than {days} days is not erased yet ({error}); `thirdshift purge` does it"
        )
        return
    if done.requests:
        erased = f"{counted(done.requests, 'request')} in {counted(len(done.runs), 'run')}"
        say(f"older than {days} days: the text of {erased} is erased")
