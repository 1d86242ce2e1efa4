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

from thirdshift.flows.dispatch.work import ShardWork
from thirdshift.flows.execution.opening import open_run
from thirdshift.flows.execution.run import Shift
from thirdshift.flows.execution.stages import run_stages
from thirdshift.flows.orchestration.approval_form import asked_in_prefect
from thirdshift.flows.orchestration.artifacts import leave_end, leave_plan, watching
from thirdshift.flows.orchestration.concurrency import slots_for
from thirdshift.flows.orchestration.events import tell_end
from thirdshift.flows.orchestration.invocation import console, run_name, settled
from thirdshift.flows.orchestration.server import DRAIN_SECONDS, guard_server, temporary
from thirdshift.flows.orchestration.shutdown import stoppable
from thirdshift.flows.runs.options import RunOptions
from thirdshift.flows.verdicts import ended
from thirdshift.warehouse.errors import WarehouseError

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
    call = settled(RunOptions.from_parameters(locals()))
    guard_server()
    with open_run(str(call.run_id), call, console()) as shift, stoppable(str(call.run_id), shift.dispatcher):
        if shift.over is not None:
            shift.publish(shift.over)
            return ended(shift.over)
        join(shift)
        summary = run_stages(shift, partial(send, shift), partial(leave_plan, shift))
    leave_end(shift, summary)
    tell_end(shift, summary)
    if temporary():
        time.sleep(DRAIN_SECONDS)
    return ended(summary)


def join(shift: Shift) -> None:
    """What Prefect adds to a night: approval in its UI, and where a server is, turns at endpoints."""
    context = shift.context
    shift.approval.ask = partial(asked_in_prefect, context.deadline)
    if not temporary():
        shift.turns = slots_for(context.endpoints, context.deadline, shift.console.say)


@task(task_run_name="{purpose} {endpoint} {shard_id}", cache_policy=NO_CACHE)
def answer(shift: Shift, shard_id: str, endpoint: str, purpose: str) -> None:  # noqa: ARG001 (purpose names the run)
    """One shard, start to end; its work is the engine's, and so is retrying."""
    with shift.turns.of(endpoint):
        shift.dispatcher.answer(shard_id)


def send(shift: Shift, works: Sequence[ShardWork]) -> None:
    """Have shards answered, side by side; their parts land as they finish."""
    with shift.sending(works), watching(shift, works):
        futures = {submitted(shift, work): work for work in works}
        try:
            for future in as_completed(list(futures)):
                shift.land(futures[future], failed=fault_of(future))
        except BaseException:  # cancelled: what is in flight is paid for, and stays
            shift.turns.stop()
            shift.dispatcher.stop()
            wait(list(futures), timeout=GRACE_SECONDS)
            raise


def submitted(shift: Shift, work: ShardWork) -> PrefectFuture[None]:
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
