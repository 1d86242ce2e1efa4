"""Opening a run: one process per run; what an earlier one left is taken in; the run is entered in the warehouse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from thirdshift.engines.core.budget import RunBudget
from thirdshift.flows.console import RunConsole
from thirdshift.flows.console import spent as money_spent
from thirdshift.flows.dispatch.dead_runs import enter_interrupted
from thirdshift.flows.dispatch.dispatcher import Dispatcher, context_lent
from thirdshift.flows.dispatch.emulation import emulated
from thirdshift.flows.dispatch.harvest import harvest_of, with_turnarounds
from thirdshift.flows.dispatch.recovery import Orphans, find_orphans
from thirdshift.flows.errors import BrokeOff, UserError
from thirdshift.flows.execution import earlier_runs
from thirdshift.flows.execution.approval import ApprovalLimit, Ask, ask_nobody
from thirdshift.flows.execution.notices import Notifier
from thirdshift.flows.execution.run import Run
from thirdshift.flows.execution.slots import SlotsFor, UnlimitedSlots, unlimited
from thirdshift.flows.planning.measured.throughput import with_throughput
from thirdshift.flows.planning.paid_hours import rented_until
from thirdshift.flows.quality import finishing
from thirdshift.flows.quality.scoring import judge_context
from thirdshift.flows.runs.context import RunContext, context_for, with_clusters, writable
from thirdshift.flows.runs.folder import OWNERS_ALONE, locked, masked, recall, remember
from thirdshift.flows.runs.ids import checked_run_id
from thirdshift.flows.runs.options import RunOptions
from thirdshift.flows.runs.unfinished import facts_of
from thirdshift.flows.telemetry.telemetry import NoTelemetry, Telemetry, telemetry_for
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.values import Endpoint
from thirdshift.warehouse.errors import PublishError, WarehouseError, of_storage
from thirdshift.warehouse.intake.intake import frozen
from thirdshift.warehouse.journal import parts
from thirdshift.warehouse.journal.files import write_whole
from thirdshift.warehouse.journal.journal import FileJournal, recover
from thirdshift.warehouse.memory import hold_little
from thirdshift.warehouse.store import ledger, requests, runs
from thirdshift.warehouse.store.dispatch import paid_ahead
from thirdshift.warehouse.store.ingest import enter_under_way, ingest_parts, ingested_parts, missing_parts
from thirdshift.warehouse.store.store import Warehouse
from thirdshift.world import REAL, World

ASIDE = "aside"
"""A file of this name in a run's folder holds the id that the run is being given."""
LAST_SHARD = """
select coalesce(max(try_cast(split_part(shard_id, '-', 1) as integer)), 0) from shards where run_id = $run_id
"""
BRIEFLY = 5.0
"""How long a run that broke off waits for the warehouse, to be entered as failed."""


class ChangedJob(UserError):
    """A resumed job asks for something else than the run did."""


@contextmanager
def open_run(
    run_id: str,
    call: RunOptions,
    console: RunConsole | None = None,
    *,
    ask: Ask = ask_nobody,
    slots_for: SlotsFor = unlimited,
    world: World = REAL,
) -> Iterator[Run]:
    """Open a run, new or resumed, and release its resources on exit.

    `ask`: who approves of a plan above `budget.approve_above_usd`. Raises UserError: the job or its input is wrong,
    another process is on the run, or the job has changed; BrokeOff where something was sent and then could not be kept
    (a full disk, a warehouse that stays locked).
    """
    console = console or RunConsole()
    folder: Path | None = None
    hold_little()
    try:
        context = context_for(call, run_id, world=world)
        folder = context.folder
        enter_interrupted(context.warehouse)
        if call.fresh or (folder / ASIDE).exists():
            _set_aside(context, console)
        with masked(OWNERS_ALONE) as users_mask, ExitStack() as sharing, locked(context.folder):
            orphans = find_orphans(context.folder, tuple(context.reached.values()))
            recover(context.folder, orphans.shard_ids, world)
            sharing.enter_context(earlier_runs.sharing(context))
            context = _entered(context, call, console)
            with FileJournal(context.folder, world) as journal:
                run = _run(context, journal, console, orphans, users_mask, ask, slots_for)
                with closing(run.telemetry), closing(run.notifier), run.dispatcher, _failing(run):
                    yield run
    except (WarehouseError, OSError) as error:
        raise storage_error(error, folder) from error


def storage_error(error: WarehouseError | OSError, folder: Path | None) -> Exception:
    """Return the error as one that a user can mend; the error itself where it is not about storage."""
    message = of_storage(error, folder)
    if message is None:
        return error
    if folder is None or not (folder / "shards").exists():
        return UserError(message)
    return BrokeOff(f"{message}; what was answered is kept: thirdshift resume {folder.name}")


@contextmanager
def _failing(run: Run) -> Iterator[None]:
    """A run that broke off is not left as running, nor its ledger short; it can be gone on with all the same."""
    try:
        yield
    except PublishError as error:
        run.notifier.broke_off(error)
        raise  # the run itself is done
    except BaseException as error:
        run.notifier.broke_off(error)
        run.telemetry.close(error)
        with suppress(WarehouseError, OSError):  # what broke it off may be the warehouse
            run.keep("failed" if isinstance(error, Exception) else "interrupted", BRIEFLY)
        raise


def _set_aside(context: RunContext, console: RunConsole) -> None:
    """Give an earlier run of this id another one; its answers and its money stay."""
    if recall(context.folder) is None:
        _set_row_aside(context, console)
        return
    with locked(context.folder):
        orphans = find_orphans(context.folder, tuple(context.reached.values()))
        reached = tuple(context.reached.values())
        orphans.cancel_and_book(context.run_id, context.folder, reached, console.say, context.world)
        recover(context.folder, world=context.world)
        taken = {path.name for path in context.folder.parent.iterdir()}
        mark = context.folder / ASIDE
        aside = next(name for n in count(1) if (name := f"{context.run_id}~{n}") not in taken)
        if mark.exists():  # a process died on the way
            aside = checked_run_id(mark.read_text(encoding="utf-8"))
        if aside == context.run_id:
            mark.unlink()
            return
        write_whole(mark, aside.encode())
        with Warehouse.open(context.warehouse, say=console.say) as warehouse:
            if runs.get(warehouse, aside) is None:
                ingest_parts(warehouse, *parts.of_run(context.folder))
                runs.rename(warehouse, context.run_id, aside)
        given = context.folder.rename(context.folder.with_name(aside))
        (given / ASIDE).unlink()
    console.say(f"the earlier run {context.run_id} is now {aside}")


def _set_row_aside(context: RunContext, console: RunConsole) -> None:
    """Set a run aside whose folder is gone: what the warehouse has of it gets another id."""
    if not context.warehouse.exists():
        return
    with Warehouse.open(context.warehouse, say=console.say) as warehouse:
        if runs.get(warehouse, context.run_id) is None:
            return
        names = (f"{context.run_id}~{n}" for n in count(1))
        aside = next(
            name for name in names
            if runs.get(warehouse, name) is None and not context.folder.with_name(name).exists()
        )  # fmt: skip
        runs.rename(warehouse, context.run_id, aside)
    console.say(f"the earlier run {context.run_id} is now {aside}")


def _without_folder(warehouse: Warehouse, context: RunContext, console: RunConsole) -> None:
    """A run whose folder is gone goes on with what its warehouse knows: answers, money, the numbers of its shards."""
    spent = ledger.spending(warehouse, context.run_id)
    last = warehouse.scalar(LAST_SHARD, run_id=context.run_id)
    if last:
        home = context.folder / "shards"
        home.mkdir(mode=0o700, exist_ok=True)
        np.save(home / f"{int(last):05d}-gone.npy", np.zeros(0, np.int64))  # numbers go on from here
    sums = money_spent(spent.settled_usd, spent.unsettled_usd)
    console.say(
        f"{context.run_id}: its folder is gone, and what was in flight with it; its ledger knows {sums}, which counts "
        "against the cap, and what it was answered is kept",
        "yellow",
    )


def _entered(context: RunContext, call: RunOptions, console: RunConsole) -> RunContext:
    """Check against what the run was before, and enter it as running."""
    before = recall(context.folder)
    with Warehouse.open(context.warehouse, say=console.say) as warehouse:
        row = runs.get(warehouse, context.run_id)
        begun = before if frozen(context.folder) is not None else None
        if begun is not None and begun["job_hash"] != context.job.job_hash:
            raise ChangedJob(
                f"run {context.run_id} was begun with another input, request, scorer or floor than {context.job.path} "
                "has now; put them back, or start anew with --fresh"
            )
        if row is not None:
            _check_text(row)
            context = context_for(call, context.run_id, started=row["started_at"], world=context.world)
            if before is None and row["status"] != "done":
                _without_folder(warehouse, context, console)
        if row is None or row["status"] != "done":
            writable(context)
            runs.start(warehouse, _run_row(context, row))
    remember(context.folder, facts_of(context.job, call.as_parameters()))
    return context


def _check_text(row: dict[str, Any]) -> None:
    """A run whose text was purged can be read, but not gone on with: what it would send is gone."""
    if row["purged_at"] is not None and row["status"] != "done":
        raise UserError(
            f"run {row['run_id']}: its text was purged on {row['purged_at']:%Y-%m-%d}, so that there is nothing to "
            "send; start anew with --fresh"
        )


def _run_row(context: RunContext, before: dict[str, Any] | None) -> dict[str, Any]:
    job = context.job
    return {
        "run_id": context.run_id,
        "job": job.name,
        "params": dict(job.given),
        "status": "running",
        "outcomes": [],
        "started_at": before["started_at"] if before else context.clock(),
        "deadline": context.deadline,
        "floor": job.quality.floor if context.aim is not None or context.scorer is not None else None,
        "cap_usd": context.cap_usd,
        "planned_usd": before["planned_usd"] if before else None,
        "config": job.canonical() | {"emulated": context.call.emulated},
        "job_hash": job.job_hash,
        "input_fingerprint": before["input_fingerprint"] if before else None,
        "version": version("thirdshift"),
    }


def _run(
    context: RunContext,
    journal: FileJournal,
    console: RunConsole,
    orphans: Orphans,
    users_mask: int,
    ask: Ask,
    slots_for: SlotsFor,
) -> Run:
    """Make the run with what earlier processes left taken in: their journals sealed, their parts ingested."""
    with Warehouse.open(context.warehouse, say=console.say) as warehouse:
        _ingest_missing(warehouse, context)
        enter_under_way(warehouse, context.run_id, context.folder, orphans.shard_ids)
        spent = ledger.spending(warehouse, context.run_id)
        context = earlier_runs.within_window(warehouse, context, console.say)
        endpoints = with_turnarounds(
            context.endpoints, warehouse, cut_short=context.job.on_deadline == "realtime"
        )
        row = runs.get(warehouse, context.run_id) or {}
        over = row.get("status") == "done"
        context = replace(context, endpoints=endpoints)
        context, sentences = with_throughput(context if over else with_clusters(context), warehouse)
        for sentence in () if over else sentences:
            console.say(sentence)
        ahead = orphans.committed_usd  # in the ledger as in flight; it is set aside below
        budget = RunBudget(context.cap_usd, spent.most_usd - ahead, unsettled_usd=spent.unsettled_usd - ahead)
        telemetry = _telemetry(context, console, over=over)
        rented = rented_until(context.endpoints, paid_ahead(warehouse, context.run_id, context.clock()))
        observed = telemetry.journal(journal, orphans.committed)
        lent = context_lent(context, observed, budget, orphans.set_aside(budget), console, rented)
        dispatcher = _dispatcher(warehouse, context, journal, lent, telemetry, over=over)
        finished = finishing.summary(warehouse, context, row) if over else None
    notifier = Notifier(context, console.say)
    return Run(
        context,
        budget,
        journal,
        console,
        dispatcher,
        UnlimitedSlots() if over else slots_for(context, console.say),
        ApprovalLimit(context, notifier.asking(ask)),
        notifier,
        telemetry,
        orphans=orphans,
        finished=finished,
        users_mask=users_mask,
    )


def _dispatcher(
    warehouse: Warehouse,
    context: RunContext,
    journal: FileJournal,
    lent: EngineContext,
    telemetry: Telemetry,
    *,
    over: bool,
) -> Dispatcher:
    """Who sends shards and cuts batches short. `over`: the run is done, and nothing will be sent."""
    late = context.job.on_deadline == "realtime"
    return Dispatcher(
        context.run_id,
        context.folder,
        context.reached,
        lent,
        journal,
        judge_context=None if over else judge_context(warehouse, context, lent),
        harvest=harvest_of(context.endpoints, context.deadline, warehouse, context.world) if late else None,
        emulation=_emulation(context),
        telemetry=telemetry,
    )


def _telemetry(context: RunContext, console: RunConsole, *, over: bool) -> Telemetry:
    """Return what tells a collector of the run; a rehearsal tells nobody, nor does a run that was over before."""
    if over or context.call.emulated:
        return NoTelemetry()
    return telemetry_for(context.run_id, context.job.name, console.say)


def _ingest_missing(warehouse: Warehouse, context: RunContext) -> None:
    """Ingest the parts that earlier processes sealed and did not ingest."""
    missing = missing_parts(warehouse, context.run_id, context.folder)
    lost = missing and not ingested_parts(warehouse, context.run_id)
    if lost and frozen(context.folder) is not None:
        # the file was lost: entries need their requests' tags
        requests.save(warehouse, context.run_id, context.folder, context.job.tags, context.job.charge_by)
    ingest_parts(warehouse, *missing)


def _emulation(context: RunContext) -> AbstractContextManager[Mapping[str, Endpoint]] | None:
    """Return the emulated provider of a rehearsal, not started: it reads the frozen input. None for a real run."""
    if not context.call.emulated:
        return None
    answering = {endpoint.name for endpoint in context.endpoints}
    judge = next((name for name in context.reached if name not in answering), None)
    return emulated(tuple(context.reached.values()), context.folder, context.call.outcomes, judge=judge)
