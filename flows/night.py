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
from thirdshift.flows.execution.run import Run
from thirdshift.flows.execution.sending import LANES
from thirdshift.flows.execution.sending import send as send_shards
from thirdshift.flows.execution.slots import unlimited
from thirdshift.flows.execution.stages import run_stages
from thirdshift.flows.orchestration.approval_form import asker
from thirdshift.flows.orchestration.artifacts import ProgressArtifacts, leave_end, leave_plan
from thirdshift.flows.orchestration.concurrency import slots_for
from thirdshift.flows.orchestration.events import tell_end
from thirdshift.flows.orchestration.invocation import console, run_name, with_schedule
from thirdshift.flows.orchestration.server import DRAIN_SECONDS, temporary
from thirdshift.flows.runs.options import RunOptions
from thirdshift.flows.runs.summary import RunSummary, checked

SIDE_BY_SIDE = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=LANES))


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
    run_id = str(options.run_id)
    slots = unlimited if temporary() else slots_for
    with open_run(run_id, options, console(), ask=asker(), slots_for=slots) as run:
        if run.finished is not None:
            run.publish(run.finished)
            run.tidy()
            return checked(run.finished)
        summary = run_stages(run, partial(send, run, ProgressArtifacts(run)), partial(leave_plan, run))
    leave_end(run, summary)
    tell_end(run.context, summary)
    if temporary():
        time.sleep(DRAIN_SECONDS)
    return checked(summary)


@task(task_run_name="{purpose} {endpoint} {shard_id}", cache_policy=NO_CACHE)
def answer(run: Run, shard_id: str, endpoint: str, purpose: str) -> None:  # noqa: ARG001 (purpose names the task run)
    """Have one shard answered, start to end; its work is the engine's, and so is retrying."""
    with run.slots.of(endpoint):
        run.dispatcher.answer(shard_id)


def send(run: Run, artifacts: ProgressArtifacts, shards: Sequence[ShardWork]) -> None:
    """Have shards answered, a task each; their parts land as they finish."""
    with artifacts.watching(shards):
        send_shards(run, shards, partial(submitted, run), as_completed, wait)


def submitted(run: Run, shard: ShardWork) -> PrefectFuture[None]:
    """Submit the shard's task. A tag costs a question to the API, which a temporary one has no time for."""
    with nullcontext() if temporary() else tags(shard.endpoint, shard.purpose.value):
        return answer.submit(run, shard.shard_id, shard.endpoint, shard.purpose.value)
