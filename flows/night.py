"""The night as Prefect sees it: one flow, a task per shard."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

from prefect import flow, tags, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed, wait
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.approving import asked_in_prefect
from flows.artifacts import leave_end, leave_plan, watching
from flows.crew import Work
from flows.events import tell_end
from flows.exits import ended
from flows.opening import opened
from flows.prefect_home import DRAIN_SECONDS, guard_server, temporary
from flows.road import travelled
from flows.running import Call
from flows.shift import Shift
from flows.started_by import run_name, screen, settled
from flows.stopping import stoppable
from flows.turns import turns_of
from warehouse.errors import WarehouseError

LANES = 64
"""Shards under way at once; each is a thread that waits for its engine."""
SIDE_BY_SIDE = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=LANES))
GRACE_SECONDS = 20.0
"""What is in flight has this long to be answered once a run is cancelled; Prefect kills after 30."""


@flow(name="night", flow_run_name=run_name, task_runner=SIDE_BY_SIDE)
def night(
    job: str,
    run_id: str | None = None,
    params: dict[str, Any] | None = None,
    cap: float | None = None,
    deadline: str | None = None,
    warehouse: str | None = None,
    yes: bool = False,
    fresh: bool = False,
    emulated: bool = False,
    outcomes: str | None = None,
) -> dict[str, Any]:
    """One night of one job, from its input to its results. Raises NotDone where its exit code is not 0."""
    call = settled(Call.from_parameters(locals()))
    guard_server()
    with opened(str(call.run_id), call, screen()) as shift, stoppable(str(call.run_id), shift.crew):
        if shift.over is not None:
            shift.publish(shift.over)
            return ended(shift.over)
        join(shift)
        summary = travelled(shift, partial(send, shift), partial(leave_plan, shift))
    leave_end(shift, summary)
    tell_end(shift, summary)
    if temporary():
        time.sleep(DRAIN_SECONDS)
    return ended(summary)


def join(shift: Shift) -> None:
    """What Prefect adds to a night: approval in its UI, and where a server is, turns at endpoints."""
    setting = shift.setting
    shift.consent.ask = partial(asked_in_prefect, setting.deadline)
    if not temporary():
        shift.turns = turns_of(setting.endpoints, setting.deadline, shift.screen.say)


@task(task_run_name="{purpose} {endpoint} {shard_id}", cache_policy=NO_CACHE)
def answer(shift: Shift, shard_id: str, endpoint: str, purpose: str) -> None:  # noqa: ARG001 (purpose names the run)
    """One shard, start to end; its work is the engine's, and so is retrying."""
    with shift.turns.of(endpoint):
        shift.crew.answer(shard_id)


def send(shift: Shift, works: Sequence[Work]) -> None:
    """Have shards answered, side by side; their parts land as they finish."""
    with shift.sending(works), watching(shift, works):
        futures = {submitted(shift, work): work for work in works}
        try:
            for future in as_completed(list(futures)):
                shift.land(futures[future], failed=fault_of(future))
        except BaseException:  # cancelled: what is in flight is paid for, and stays
            shift.turns.stop()
            shift.crew.stop()
            wait(list(futures), timeout=GRACE_SECONDS)
            raise


def submitted(shift: Shift, work: Work) -> PrefectFuture[None]:
    """A tag costs a question to the API, which a temporary one has no time for."""
    with nullcontext() if temporary() else tags(work.endpoint, work.purpose.value):
        return answer.submit(shift, work.shard_id, work.endpoint, work.purpose.value)


def fault_of(future: PrefectFuture[None]) -> str | None:
    """Why a shard broke; None where it did not."""
    try:
        future.result()
    except WarehouseError:
        raise  # what cannot be kept must not be paid for, wherever it is asked
    except Exception as error:  # noqa: BLE001 (whatever broke, the night goes on with the other endpoints)
        return f"{type(error).__name__}: {error}" if not str(error) else str(error)
    return None
