"""The night as Prefect sees it: one flow, a task per shard."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.artifacts import leave_bill, leave_plan
from flows.crew import Work
from flows.opening import opened
from flows.prefect_home import DRAIN_SECONDS, guard_server, temporary
from flows.running import Call
from flows.shift import Shift
from warehouse.errors import WarehouseError

LANES = 64
"""Shards under way at once; each is a thread that waits for its engine."""
SIDE_BY_SIDE = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=LANES))


@flow(name="night", flow_run_name="{run_id}", task_runner=SIDE_BY_SIDE)
def night(run_id: str, call: dict[str, Any]) -> dict[str, Any]:
    """One night of one job, from its input to its results. `call`: see `flows.running.Call`."""
    guard_server()
    with opened(run_id, Call.from_parameters(call)) as shift:
        if shift.over is not None:
            shift.publish(shift.over)
            return shift.over
        shift.prepare()
        while works := shift.pilot():
            send(shift, works)
        shift.plan()
        leave_plan(shift)
        while works := shift.serve():
            send(shift, works)
        while works := shift.score() or shift.repair():
            send(shift, works)
        summary = shift.close()
        leave_bill(shift, summary)
    if temporary():
        time.sleep(DRAIN_SECONDS)
    return summary


@task(task_run_name="{purpose} {endpoint} {shard_id}", cache_policy=NO_CACHE)
def answer(shift: Shift, shard_id: str, endpoint: str, purpose: str) -> None:  # noqa: ARG001 (they name the task run)
    """One shard, start to end; its work is the engine's."""
    shift.crew.answer(shard_id)


def send(shift: Shift, works: Sequence[Work]) -> None:
    """Have shards answered, side by side; their parts land as they finish."""
    with shift.sending(works):
        futures = {
            answer.submit(shift, work.shard_id, work.endpoint, work.purpose.value): work for work in works
        }
        for future in as_completed(list(futures)):
            shift.land(futures[future], failed=fault_of(future))


def fault_of(future: PrefectFuture[None]) -> str | None:
    """Why a shard broke; None where it did not."""
    try:
        future.result()
    except WarehouseError:
        raise  # what cannot be kept must not be paid for, wherever it is asked
    except Exception as error:  # noqa: BLE001 (whatever broke, the night goes on with the other endpoints)
        return f"{type(error).__name__}: {error}" if not str(error) else str(error)
    return None
