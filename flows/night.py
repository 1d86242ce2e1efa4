"""The night as Prefect sees it: one flow, a task per shard."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, cast

from prefect import flow, tags, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed, wait
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from thirdshift.flows.dispatch.work import ShardWork
from thirdshift.flows.execution.opening import open_run
from thirdshift.flows.execution.run import Run
from thirdshift.flows.execution.slots import unlimited
from thirdshift.flows.execution.stages import run_stages
from thirdshift.flows.orchestration.approval_form import ask_in_prefect
from thirdshift.flows.orchestration.artifacts import ProgressArtifacts, leave_end, leave_plan
from thirdshift.flows.orchestration.concurrency import slots_for
from thirdshift.flows.orchestration.events import tell_end
from thirdshift.flows.orchestration.invocation import console, run_name, with_schedule
from thirdshift.flows.orchestration.server import DRAIN_SECONDS, guard_server, temporary
from thirdshift.flows.orchestration.shutdown import KEEP_SECONDS, stoppable
from thirdshift.flows.runs.options import RunOptions
from thirdshift.flows.runs.summary import RunSummary, checked
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
) -> RunSummary:
    """Run one job, from its input to its results. Raises NotDone where its exit code is not 0."""
    options = with_schedule(RunOptions.from_parameters(locals()))
    guard_server()
    run_id = str(options.run_id)
    slots = unlimited if temporary() else slots_for
    with (
        open_run(run_id, options, console(), ask=ask_in_prefect, slots_for=slots) as run,
        stoppable(run_id, run.dispatcher, partial(keep, run)),
    ):
        if run.finished is not None:
            run.publish(run.finished)
            return checked(run.finished)
        summary = run_stages(run, partial(send, run, ProgressArtifacts(run)), partial(leave_plan, run))
    leave_end(run, summary)
    tell_end(run.context, summary)
    if temporary():
        time.sleep(DRAIN_SECONDS)
    return checked(summary)


def keep(run: Run) -> None:
    """Enter a run that is told to stop as interrupted, where the warehouse is to be had."""
    with suppress(WarehouseError, OSError):
        run.keep("interrupted", KEEP_SECONDS / 2)


@task(task_run_name="{purpose} {endpoint} {shard_id}", cache_policy=NO_CACHE)
def answer(run: Run, shard_id: str, endpoint: str, purpose: str) -> None:  # noqa: ARG001 (purpose names the task run)
    """Have one shard answered, start to end; its work is the engine's, and so is retrying."""
    with run.slots.of(endpoint):
        run.dispatcher.answer(shard_id)


def send(run: Run, artifacts: ProgressArtifacts, shards: Sequence[ShardWork]) -> None:
    """Have shards answered, side by side; their parts land as they finish."""
    with run.sending(shards), artifacts.watching(shards):
        futures = {submitted(run, shard): shard for shard in shards}
        try:
            for future in as_completed(list(futures)):
                run.land(futures[future], failed=fault_of(future))
        except BaseException:  # cancelled: what is in flight is paid for, and stays
            run.slots.stop()
            run.dispatcher.stop()
            wait(list(futures), timeout=GRACE_SECONDS)
            raise


def submitted(run: Run, shard: ShardWork) -> PrefectFuture[None]:
    """Submit the shard's task. A tag costs a question to the API, which a temporary one has no time for."""
    with nullcontext() if temporary() else tags(shard.endpoint, shard.purpose.value):
        return answer.submit(run, shard.shard_id, shard.endpoint, shard.purpose.value)


def fault_of(future: PrefectFuture[None]) -> str | None:
    """Say why a shard broke; None where it did not."""
    try:
        future.result()
    except WarehouseError:
        raise  # what cannot be kept must not be paid for, wherever it is asked
    except Exception as error:  # noqa: BLE001 (whatever broke, the night goes on with the other endpoints)
        return f"{type(error).__name__}: {error}" if not str(error) else str(error)
    return None
