"""Shards sent side by side and landed as they finish, by threads of this process or by Prefect's task runner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from thirdshift.flows.console import RunConsole
from thirdshift.flows.dispatch.work import ShardWork
from thirdshift.flows.execution.opening import open_run
from thirdshift.flows.execution.run import Run
from thirdshift.flows.execution.stages import run_stages
from thirdshift.flows.execution.stopping import KEEP_SECONDS, stoppable
from thirdshift.flows.runs.options import RunOptions
from thirdshift.flows.runs.summary import RunSummary
from thirdshift.warehouse.errors import WarehouseError
from thirdshift.world import REAL, World

LANES = 64
"""Shards under way at once; each is a thread that waits for its engine."""
GRACE_SECONDS = 20.0
"""What is in flight has this long to be answered once a run is cancelled; Prefect kills after 30."""


class Future(Protocol):
    """A shard under way."""

    def result(self) -> object:
        """Wait for the shard's end. Raises what broke it."""


def run_in_threads(
    options: RunOptions, console: RunConsole | None = None, *, world: World = REAL
) -> RunSummary:
    """Run one job in threads of this process, watched by nobody, and return how it ended. Raises as `open_run` does.

    `options.run_id` must be given.
    """
    run_id = str(options.run_id)
    with (
        open_run(run_id, options, console, world=world) as run,
        stoppable(run_id, run.dispatcher, partial(_keep, run)),
    ):
        if run.finished is not None:
            run.publish(run.finished)
            run.tidy()
            return run.finished
        with ThreadPoolExecutor(LANES, thread_name_prefix="shard") as threads:
            return run_stages(run, partial(_send_in_threads, run, threads))


def _keep(run: Run) -> None:
    """Enter a run that is told to stop as interrupted, where the warehouse is to be had."""
    run.notifier.interrupted()
    with suppress(WarehouseError, OSError):
        run.keep("interrupted", KEEP_SECONDS / 2)
    run.notifier.close()


def _send_in_threads(run: Run, threads: ThreadPoolExecutor, shards: Sequence[ShardWork]) -> None:
    def submit(shard: ShardWork) -> futures.Future[None]:
        return threads.submit(run.dispatcher.answer, shard.shard_id)

    send(run, shards, submit, futures.as_completed, futures.wait, futures.Future.done)


def send(
    run: Run,
    shards: Sequence[ShardWork],
    submit: Callable[[ShardWork], Any],
    as_completed: Callable[[list[Any]], Iterable[Any]],
    wait: Callable[..., object],
    done: Callable[[Any], bool] = lambda _: False,
) -> None:
    """Have shards answered side by side and land them as they finish, those together that have finished by then.

    `submit` starts a shard and returns its future; `as_completed`, `wait` and `done` are those of that kind of future.
    """
    with run.sending(shards):
        under_way = {submit(shard): shard for shard in shards}
        try:
            for future in as_completed(list(under_way)):
                shard = under_way.pop(future)
                run.land(shard, failed=fault_of(future), more=any(map(done, under_way)))
        except BaseException:  # cancelled: what is in flight is paid for, and stays
            run.slots.stop()
            run.dispatcher.stop()
            wait(list(under_way), timeout=GRACE_SECONDS)
            raise


def fault_of(future: Future) -> str | None:
    """Say why a shard broke; None where it did not."""
    try:
        future.result()
    except WarehouseError:
        raise  # what cannot be kept must not be paid for, wherever it is asked
    except Exception as error:  # noqa: BLE001 (whatever broke, the night goes on with the other endpoints)
        return f"{type(error).__name__}: {error}" if not str(error) else str(error)
    return None
