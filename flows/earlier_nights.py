"""What a job's earlier nights mean for this one: answers it need not pay for, and a budget they share."""

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

from flows.adopting import left_behind
from flows.deciding import Columns
from flows.errors import UserError
from flows.run_folder import RunAlive, alive_runs, folder_of, locked
from flows.screen import money
from flows.setting import Setting
from warehouse import parts
from warehouse.earlier import answered_before, reuse, spent_in_window
from warehouse.frozen import column
from warehouse.journal import recover
from warehouse.purge import purge_outlived
from warehouse.store import Warehouse

Say = Callable[[str], None]

REUSED = "select row, endpoint from responses where run_id = $run_id and reused_from is not null"
OTHERS = "select run_id from runs where job = $job and run_id <> $run_id"


# --- answers ---------------------------------------------------------------------------------------------------------


def take_over(warehouse: Warehouse, setting: Setting, columns: Columns, say: Say) -> Columns:
    """`reuse: answered`: earlier answers become replies of this run; their requests stay with who answered them.

    Taken are answers by endpoints that the job still has, with the same model, and that its policy allows. The columns
    come back with nothing else allowed for these requests, so that neither pilot nor plan nor repair sends them.
    """
    if setting.job.reuse == "answered" and not (setting.folder / "shards").exists():  # nothing was sent yet
        found = _usable(_found(warehouse, setting, columns), setting, columns)
        reuse(warehouse, setting.run_id, found)
        if found.num_rows:
            saved = pc.sum(found["saved_usd"]).as_py() or Decimal(0)
            say(f"{found.num_rows:,} answers of earlier runs reused, {money(saved)} saved")
    held = warehouse.query(REUSED, run_id=setting.run_id)
    endpoint = _positions(held["endpoint"], setting)
    at = columns.positions(np.asarray(held["row"], np.int64))
    allowed = columns.allowed.copy()
    allowed[at[endpoint >= 0]] = False
    allowed[at[endpoint >= 0], endpoint[endpoint >= 0]] = True
    return replace(columns, allowed=allowed)


def _found(warehouse: Warehouse, setting: Setting, columns: Columns) -> pa.Table:
    seconds = setting.job.reuse_max_age
    return answered_before(
        warehouse,
        setting.job.name,
        pc.unique(_hashes(setting, columns)),
        None if seconds is None else timedelta(seconds=seconds),
        setting.clock(),
        but_run=setting.run_id,
        emulated=setting.call.emulated,
    )


def _usable(found: pa.Table, setting: Setting, columns: Columns) -> pa.Table:
    """Without answers by endpoints that are gone, are another model now, or are not allowed for the request."""
    models = {endpoint.name: endpoint.model for endpoint in setting.endpoints}
    same = [
        models.get(row["endpoint"]) == row["model"] for row in found.select(["endpoint", "model"]).to_pylist()
    ]
    found = found.filter(pa.array(same, pa.bool_()))
    if not found.num_rows:
        return found
    endpoint = _positions(found["endpoint"], setting)
    which = pc.index_in(_hashes(setting, columns), value_set=found["request_hash"].combine_chunks())
    answer = np.asarray(pc.fill_null(which, -1), np.int64)
    asked = np.flatnonzero(answer >= 0)
    refused = answer[asked[~columns.allowed[asked, endpoint[answer[asked]]]]]
    fine = np.ones(found.num_rows, bool)
    fine[refused] = False
    return found.filter(pa.array(fine))


def _hashes(setting: Setting, columns: Columns) -> pa.Array:
    hashes = column(setting.folder, "request_hash")
    taken = hashes.take(pa.array(columns.rows))
    return taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken


def _positions(names: pa.ChunkedArray, setting: Setting) -> NDArray[np.int64]:
    known = pa.array([endpoint.name for endpoint in setting.endpoints], pa.string())
    return np.asarray(pc.fill_null(pc.index_in(names, value_set=known), -1), np.int64)


# --- money -----------------------------------------------------------------------------------------------------------


@contextmanager
def sharing(setting: Setting) -> Iterator[None]:
    """Alone with the budget that the job's runs of a day or month share: two at once could pass the cap together."""
    if setting.job.budget.window == "run":
        yield
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(setting.folder.with_name(_share(setting.job.name))))
        except RunAlive as error:
            raise UserError(
                f"another run of {setting.job.name} is alive, and with budget.window: {setting.job.budget.window} "
                "they would share one cap; wait for it or stop it"
            ) from error
        yield


def _share(job: str) -> str:
    """A folder of the lock, beside those of runs; a job's name can be longer than a file's."""
    return f".budget-{blake2b(job.encode(), digest_size=8).hexdigest()}"


def within_window(warehouse: Warehouse, setting: Setting, say: Say) -> Setting:
    """`budget.window`: the setting with the cap less what the job's other runs have spent in it."""
    window, cap = setting.job.budget.window, setting.cap_usd
    if window == "run" or cap is None:
        return setting
    under_way = _settle_others(warehouse, setting)
    everyone, others = (
        spent_in_window(
            warehouse, setting.job.name, window, setting.clock(), but_run=but, emulated=setting.call.emulated
        )
        for but in (None, setting.run_id)
    )
    spent = under_way + others
    # the escrow counts all that this run has spent; what it spent before the window began is not of this cap
    before = warehouse.spent(setting.run_id) - (everyone - others)
    left = max(cap - spent, Decimal(0))
    if spent:
        say(f"other runs of this {window} have spent {money(spent)} of {money(cap)}: {money(left)} are left")
    return replace(setting, cap_usd=left + before)


def _settle_others(warehouse: Warehouse, setting: Setting) -> Decimal:
    """Take in what killed runs of the job left in journals: they have spent it. What batches of theirs can still cost,
    and have cost so far, is in no part yet; it is returned."""
    under_way = Decimal(0)
    names = warehouse.query(OTHERS, job=setting.job.name, run_id=setting.run_id)["run_id"].to_pylist()
    for run_id in names:
        folder = folder_of(setting.warehouse, run_id)
        if not folder.is_dir():
            continue
        with locked(folder):
            left = left_behind(folder, tuple(setting.reached.values()))
            under_way += left.booked_usd
            under_way += sum((sum(entries.values()) for entries in left.committed.values()), Decimal(0))
            recover(folder, adopt=left.shards)
            known = warehouse.ingested(run_id)
            for part in parts.of_run(folder):
                if part.name not in known:
                    warehouse.ingest(part)
    return under_way


# --- text ------------------------------------------------------------------------------------------------------------


_BEGAN, _AT = datetime.now(UTC), time.monotonic()


def seen_to_pass() -> datetime:
    """The time of day by a clock that nobody sets: one that jumps ahead tonight must not erase what is still wanted."""
    return _BEGAN + timedelta(seconds=time.monotonic() - _AT)


def forget(setting: Setting, say: Say) -> None:
    """`retention_days`: erase the text of the job's runs that are older."""
    days = setting.job.retention_days
    if days is None:
        return
    done = purge_outlived(
        setting.warehouse,
        setting.job.name,
        min(setting.clock(), seen_to_pass()) - timedelta(days=days),
        alive=[setting.run_id, *alive_runs(setting.warehouse)],
        say=say,
    )
    if done.requests:
        say(
            f"older than {days} days: the text of {done.requests:,} requests in {len(done.runs):,} runs is erased"
        )
