"""Opening a shift: one process per run; what an earlier one left is taken in; the run is entered in the warehouse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from engines.escrow import RunEscrow
from flows import earlier_nights, settle
from flows.adopting import Left, left_behind
from flows.errors import BrokeOff, UserError
from flows.harvesting import harvest_of, with_turnarounds
from flows.paces import with_paces
from flows.run_folder import OWNERS_ALONE, locked, masked, recall, remember
from flows.running import Call
from flows.screen import Screen
from flows.setting import Setting, setting_of
from flows.shift import Shift
from warehouse import parts
from warehouse.errors import PublishError, WarehouseError, of_storage
from warehouse.files import write_whole
from warehouse.intake import frozen
from warehouse.journal import FileJournal, recover
from warehouse.store import Warehouse

ASIDE = "aside"
"""A file of this name in a run's folder holds the id that the run is being given."""
BRIEFLY = 5.0
"""How long a run that broke off waits for the warehouse, to be entered as failed."""


class ChangedJob(UserError):
    """A resumed job asks for something else than the run did."""


@contextmanager
def opened(run_id: str, call: Call, screen: Screen | None = None) -> Iterator[Shift]:
    """The shift of a run, new or gone on with; closed with what it holds, however it ends.

    Raises UserError: the job or its input is wrong, another process is on the run, or the job has changed; BrokeOff
    where something was sent and then could not be kept (a full disk, a warehouse that is not let go).
    """
    screen = screen or Screen()
    place: Path | None = None
    try:
        setting = setting_of(call, run_id)
        place = setting.folder
        if call.fresh or (place / ASIDE).exists():
            _set_aside(setting, screen)
        with masked(OWNERS_ALONE) as users_mask, ExitStack() as held, locked(setting.folder):
            left = left_behind(setting.folder, tuple(setting.reached.values()))
            recover(setting.folder, adopt=left.shards)
            held.enter_context(earlier_nights.sharing(setting))
            setting = _entered(setting, call, screen)
            with FileJournal(setting.folder) as journal:
                shift = _shift(setting, journal, screen, left)
                shift.users_mask = users_mask
                with shift.held, shift.crew, _failing(setting, screen):
                    yield shift
    except (WarehouseError, OSError) as error:
        raise told_of(error, place) from error


def told_of(error: WarehouseError | OSError, folder: Path | None) -> Exception:
    """What could not be read or kept, as a user's to mend; the error itself where it is none of the disk's."""
    message = of_storage(error, folder)
    if message is None:
        return error
    if folder is None or not (folder / "shards").exists():
        return UserError(message)
    return BrokeOff(f"{message}; what was answered is kept: thirdshift resume {folder.name}")


@contextmanager
def _failing(setting: Setting, screen: Screen) -> Iterator[None]:
    """A run that broke off is not left as running; it can be gone on with all the same."""
    try:
        yield
    except PublishError:
        raise  # the run itself is done
    except BaseException:
        with (
            suppress(WarehouseError, OSError),  # what broke it off may be the warehouse
            Warehouse.open(setting.warehouse, wait_seconds=BRIEFLY, say=screen.say) as warehouse,
        ):
            warehouse.update_run(setting.run_id, status="failed")
        raise


def _set_aside(setting: Setting, screen: Screen) -> None:
    """Give an earlier run of this id another one; its answers and its money stay."""
    if recall(setting.folder) is None:
        return
    with locked(setting.folder):
        left = left_behind(setting.folder, tuple(setting.reached.values()))
        left.settle(setting.run_id, setting.folder, tuple(setting.reached.values()), screen.say)
        recover(setting.folder)
        taken = {path.name for path in setting.folder.parent.iterdir()}
        mark = setting.folder / ASIDE
        aside = next(name for n in count(1) if (name := f"{setting.run_id}~{n}") not in taken)
        if mark.exists():  # a process died on the way
            aside = mark.read_text(encoding="utf-8")
        if aside == setting.run_id:
            mark.unlink()
            return
        write_whole(mark, aside.encode())
        with Warehouse.open(setting.warehouse, say=screen.say) as warehouse:
            if warehouse.run(aside) is None:
                warehouse.ingest(*parts.of_run(setting.folder))
                warehouse.rename_run(setting.run_id, aside)
        given = setting.folder.rename(setting.folder.with_name(aside))
        (given / ASIDE).unlink()
    screen.say(f"the earlier run {setting.run_id} is now {aside}")


def _entered(setting: Setting, call: Call, screen: Screen) -> Setting:
    """Check against what the run was before, and enter it as running."""
    before = recall(setting.folder)
    with Warehouse.open(setting.warehouse, say=screen.say) as warehouse:
        row = warehouse.run(setting.run_id)
        begun = before if frozen(setting.folder) is not None else None
        if begun is not None and begun["job_hash"] != setting.job.job_hash:
            raise ChangedJob(
                f"run {setting.run_id} was begun with another input, request, scorer or floor than {setting.job.path} "
                "has now; put them back, or start anew with --fresh"
            )
        if row is not None:
            _check_text(row)
            setting = setting_of(call, setting.run_id, started=row["started_at"])
        if row is None or row["status"] != "done":
            warehouse.start_run(_run_row(setting, row))
    remember(setting.folder, {"call": call.as_parameters(), "job_hash": setting.job.job_hash})
    return setting


def _check_text(row: dict[str, Any]) -> None:
    """A run whose text was purged can be read, but not gone on with: what it would send is gone."""
    if row["purged_at"] is not None and row["status"] != "done":
        raise UserError(
            f"run {row['run_id']}: its text was purged on {row['purged_at']:%Y-%m-%d}, so that there is nothing to "
            "send; start anew with --fresh"
        )


def _run_row(setting: Setting, before: dict[str, Any] | None) -> dict[str, Any]:
    job = setting.job
    return {
        "run_id": setting.run_id,
        "job": job.name,
        "params": dict(job.given),
        "status": "running",
        "outcomes": [],
        "started_at": before["started_at"] if before else setting.clock(),
        "deadline": setting.deadline,
        "floor": job.quality.floor if setting.scorer is not None else None,
        "cap_usd": setting.cap_usd,
        "planned_usd": before["planned_usd"] if before else None,
        "config": job.canonical() | {"emulated": setting.call.emulated},
        "job_hash": job.job_hash,
        "input_fingerprint": before["input_fingerprint"] if before else None,
        "version": version("thirdshift"),
    }


def _shift(setting: Setting, journal: FileJournal, screen: Screen, left: Left) -> Shift:
    """The shift with what earlier processes left taken in: their journals sealed, their parts ingested."""
    with Warehouse.open(setting.warehouse, say=screen.say) as warehouse:
        known = warehouse.ingested(setting.run_id)
        missing = [part for part in parts.of_run(setting.folder) if part.name not in known]
        if missing and not known and frozen(setting.folder) is not None:
            # the file was lost: entries need their requests' tags
            warehouse.save_requests(setting.run_id, setting.folder, setting.job.tags, setting.job.charge_by)
        warehouse.ingest(*missing)
        spent = warehouse.spent(setting.run_id)
        setting = earlier_nights.within_window(warehouse, setting, screen.say)
        late = setting.job.on_deadline == "realtime"
        endpoints = with_turnarounds(setting.endpoints, warehouse, cut_short=late)
        setting, paces = with_paces(replace(setting, endpoints=endpoints), warehouse)
        row = warehouse.run(setting.run_id) or {}
        shift = Shift(setting, RunEscrow(setting.cap_usd, spent + left.booked_usd), journal, screen, left)
        if late:
            shift.crew.harvest = harvest_of(endpoints, setting.deadline, warehouse)
        for each in paces if row.get("status") != "done" else ():
            screen.say(each)
        if row.get("status") == "done":
            shift.over = settle.summary(warehouse, setting, row)
    return shift
