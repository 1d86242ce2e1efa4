"""Runs whose process is gone: entered as interrupted, with what they were answered and what that cost.

A process that is killed cannot say so itself. Whoever opens the warehouse next does it, so that the tables say the same
to every reader of SQL as the commands say on screen.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from thirdshift.flows.runs.folder import RunAlive, folder_of_dead, locked
from thirdshift.router.values import Mode
from thirdshift.warehouse.errors import WarehouseError
from thirdshift.warehouse.store import ledger, runs
from thirdshift.warehouse.store.read_only import reading
from thirdshift.warehouse.store.store import Warehouse

RUNNING = "select run_id, config from runs where status = 'running'"
BRIEFLY = 0.5
"""How long a command waits to write what it found: less than it takes to move away from readers. Where another process
writes, the next command does it."""


def enter_interrupted(path: Path) -> None:
    """Enter the runs that no process is on as interrupted, and take in what they left in journals.

    Batches that a provider still has are left for `resume`; what they can cost is in the ledger until then, as in flight.
    Does nothing where there is no warehouse, where it is in use, or where it is not to be written to.
    """
    if not path.exists():
        return
    with suppress(WarehouseError, OSError):
        with reading(path, wait_seconds=BRIEFLY, say=_in_silence) as ask:
            running = ask(RUNNING).to_pylist()
            folders = [(row, folder_of_dead(path, row["run_id"])) for row in running]
        dead = [(row, folder) for row, folder in folders if folder is not None]
        if dead:
            with Warehouse.open(path, wait_seconds=BRIEFLY, say=_in_silence) as warehouse:
                for row, folder in dead:
                    _enter(warehouse, folder, row)


def _enter(warehouse: Warehouse, folder: Path, row: dict[str, Any]) -> None:
    run_id = row["run_id"]
    if not folder.exists():
        _mark(warehouse, run_id)
        return
    with suppress(RunAlive, WarehouseError), locked(folder):
        with suppress(WarehouseError):  # a damaged journal: `resume` names it
            take_in(warehouse, run_id, folder, _batch_tiers(row["config"]))
        _mark(warehouse, run_id)


def take_in(warehouse: Warehouse, run_id: str, folder: Path, tiers: Collection[str]) -> None:
    """Take in what a dead process left in a run's journals, whose lock the caller holds. What the batch tiers named still
    have stays in its journal for `resume`, and is in the ledger as in flight, at the most it can cost.

    Raises WarehouseError where a journal is damaged.
    """
    from thirdshift.flows.dispatch.recovery import orphans_at  # brings engines, which few commands need
    from thirdshift.warehouse.journal.journal import recover
    from thirdshift.warehouse.store.ingest import enter_under_way, ingest_parts, missing_parts

    under_way = orphans_at(folder, tiers).shard_ids
    recover(folder, adopt=under_way)
    ingest_parts(warehouse, *missing_parts(warehouse, run_id, folder))
    enter_under_way(warehouse, run_id, folder, under_way)


def _mark(warehouse: Warehouse, run_id: str) -> None:
    cost = ledger.spending(warehouse, run_id)
    runs.update(
        warehouse,
        run_id,
        status="interrupted",
        spent_usd=cost.settled_usd,
        unsettled_usd=cost.unsettled_usd,
    )


def _batch_tiers(config: str | None) -> set[str]:
    endpoints = json.loads(config or "{}").get("endpoints") or []
    return {endpoint["name"] for endpoint in endpoints if endpoint.get("mode") == Mode.BATCH}


def _in_silence(_: str) -> None:
    """Nobody need know that a command could not write this down just now."""
