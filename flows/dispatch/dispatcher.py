"""The crew: one engine per endpoint, and the road of a shard, the same for every purpose.

A shard is written down (`shards/<id>.npy`: its rows) before it is sent, answered by its endpoint's engine, and sealed
into a part by the process that journalled it. Threads of Prefect's task runner call `answer`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from thirdshift.engines.registry import engine_for
from thirdshift.flows.console import ProgressCounts, RunConsole
from thirdshift.flows.dispatch.harvest import Harvest
from thirdshift.flows.dispatch.work import ShardWork, rows_file
from thirdshift.flows.runs.context import RunContext
from thirdshift.flows.runs.folder import mark_of
from thirdshift.router.interfaces import Budget, Engine, EngineContext, Shard
from thirdshift.router.values import Endpoint, Failure, FailureKind, Mode, Purpose
from thirdshift.warehouse.intake.frozen import RowSource
from thirdshift.warehouse.journal.journal import FileJournal

REDRAW_SECONDS = 0.2

NOT_SENT = frozenset({FailureKind.BUDGET, FailureKind.DEADLINE, FailureKind.CANCELLED})
"""Failures that leave a request as it was: it can be sent later, and has no result yet."""
FOR_SCORES = frozenset({Purpose.JUDGE, Purpose.AUDIT})
"""What is sent so that answers can be scored."""


def context_lent(
    context: RunContext,
    journal: FileJournal,
    budget: Budget,
    committed: dict[str, dict[str, Decimal]],
    console: RunConsole,
) -> EngineContext:
    """What a run lends to its engines. With several endpoints none is waited for that wants to be left alone for hours."""
    return EngineContext(
        journal,
        budget,
        context.deadline,
        committed,
        context.folder,
        elsewhere=len(context.endpoints) > 1,
        say=lambda words: console.say(words, style="yellow"),
    )


class Dispatcher:
    """The engines of one night. Close it: workers and connections are held until then."""

    def __init__(
        self,
        run_id: str,
        folder: Path,
        endpoints: Mapping[str, Endpoint],
        engine_context: EngineContext,
        journal: FileJournal,
    ) -> None:
        self.run_id, self.folder = run_id, folder
        self.mark = mark_of(folder)
        self.endpoints, self.engine_context, self.journal = endpoints, engine_context, journal
        self.engines: dict[str, Engine] = {}
        self._former: list[tuple[str, Engine]] = []
        """Closed when the cap stopped the pilot; their workers have lived all the same."""
        self.tally: ProgressCounts | None = None
        self._redraw: Callable[[], None] = lambda: None
        self._drawn = 0.0
        self._under_way: dict[str, ShardWork] = {}
        self.stopped: Counter[FailureKind] = Counter()
        """Requests not sent, by the reason."""
        self.judge_context = engine_context
        """The context of judges' calls, which have a limit of their own."""
        self.unscored: Counter[FailureKind] = Counter()
        """Scores not asked for, by the reason: the night's answers are none the worse."""
        self.not_run: dict[str, list[int]] = {}
        """Rows that a batch left undone, by endpoint; for whoever takes them out."""
        self.harvest: Harvest | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Release connections and workers. Idempotent."""
        if self.harvest is not None:
            self.harvest.close()
        self._close_engines()

    def _close_engines(self) -> None:
        with ExitStack() as closing:  # one that cannot keep its records does not leave the others open
            for engine in self.engines.values():
                closing.callback(engine.close)

    def works(self, purpose: Purpose, placed: Sequence[tuple[str, NDArray[np.int64]]]) -> list[ShardWork]:
        """Name shards (endpoint, rows) and write them down; numbers go on from what the run already has."""
        home = self.folder / "shards"
        home.mkdir(mode=0o700, exist_ok=True)
        number = 1 + max((int(path.stem.split("-")[0]) for path in home.glob("*.npy")), default=0)
        works = []
        for offset, (endpoint, rows) in enumerate(placed):
            work = ShardWork(
                f"{number + offset:05d}-{purpose}-{endpoint}", endpoint, purpose, rows, datetime.now(UTC)
            )
            np.save(rows_file(self.folder, work.shard_id), rows)
            works.append(work)
        return works

    def answer(self, shard_id: str) -> None:
        """Have a shard answered, and seal it. Runs in a thread of its own; returns when the shard is done."""
        work = self._under_way[shard_id]
        engine = self.engines[self._lane(work)]
        requests = work.requests or RowSource(self.folder, work.unanswered)
        shard = Shard(self.run_id, work.shard_id, work.endpoint, work.purpose, requests)
        # another warehouse, or a run set aside, may have used the same names at the same provider
        ticket = engine.submit(shard, key=f"{self.run_id}~{self.mark}/{work.shard_id}")
        if self.harvest is not None:
            self.harvest.watch(engine, ticket, work.endpoint, work.begun)
        for reply in engine.collect(ticket):
            failed = isinstance(reply, Failure) or reply.valid is False
            if isinstance(reply, Failure) and (reply.kind in NOT_SENT or reply.kind is FailureKind.EXPIRED):
                self._not_run(work, reply)
            self._count(failed=failed, batch=self.endpoints[work.endpoint].mode is Mode.BATCH)
        self.journal.seal(work.shard_id)

    def _not_run(self, work: ShardWork, failure: Failure) -> None:
        """Nothing was billed. Where there is time another endpoint answers it; else it waits for another day."""
        if work.purpose in FOR_SCORES and failure.kind is not FailureKind.CANCELLED:
            self.unscored[failure.kind] += 1
            return
        endpoint = work.endpoint
        closed = self.harvest is not None and endpoint in self.harvest.closed
        late = self.engine_context.deadline is not None and datetime.now(UTC) >= self.engine_context.deadline
        if late and failure.kind in (FailureKind.EXPIRED, FailureKind.CANCELLED):
            self.stopped[FailureKind.DEADLINE] += 1
        elif closed or failure.kind is FailureKind.EXPIRED:
            self.not_run.setdefault(endpoint, []).append(failure.row)
        else:
            self.stopped[failure.kind] += 1

    def take_not_run(self) -> list[tuple[str, NDArray[np.int64]]]:
        """What batches have left undone since this was asked last, by endpoint."""
        taken, self.not_run = self.not_run, {}
        return [(endpoint, np.array(rows, np.int64)) for endpoint, rows in taken.items()]

    @property
    def closed(self) -> set[str]:
        """Endpoints that are sent no more batches tonight."""
        return set() if self.harvest is None else self.harvest.closed

    def tally_of(self, works: Sequence[ShardWork], spent_usd: Decimal) -> ProgressCounts:
        """What is to come, and when from batch tiers."""
        batches = [work for work in works if self.endpoints[work.endpoint].mode is Mode.BATCH]
        waits = [
            work.begun.timestamp() + (self.endpoints[work.endpoint].turnaround_seconds or 0.0)
            for work in batches
        ]
        return ProgressCounts(
            sum(len(work.unanswered) for work in works),
            spent_usd,
            batched=sum(len(work.unanswered) for work in batches),
            batched_until=max(waits, default=0.0),
        )

    def show(self, tally: ProgressCounts, redraw: Callable[[], None]) -> None:
        """Count into `tally` from now on; `redraw` is called as it grows."""
        self.tally, self._redraw = tally, redraw

    def _count(self, *, failed: bool, batch: bool) -> None:
        if self.tally is not None:
            self.tally.count(failed=failed, batch=batch)
            if time.monotonic() - self._drawn > REDRAW_SECONDS:
                self._drawn = time.monotonic()
                self._redraw()

    def ensure_engines(self, works: Sequence[ShardWork]) -> None:
        """Have an engine ready for every endpoint that `works` name."""
        self._under_way = {work.shard_id: work for work in works}
        for work in works:
            if (lane := self._lane(work)) not in self.engines:
                engine_context = self.judge_context if work.purpose is Purpose.JUDGE else self.engine_context
                self.engines[lane] = engine_for(self.endpoints[work.endpoint], engine_context)

    def _lane(self, work: ShardWork) -> str:
        """An endpoint that judges too has a second engine for it, whose money is apart; but not a second set of
        workers."""
        apart = work.purpose is Purpose.JUDGE and self.endpoints[work.endpoint].workers is None
        return f"{work.endpoint} as judge" if apart else work.endpoint

    def start_over(self) -> None:
        """Forget that money ran out: an engine that the cap has halted is made anew when it is wanted."""
        self._close_engines()
        self._former += self.engines.items()
        self.engines.clear()
        self.stopped.pop(FailureKind.BUDGET, None)
        self.unscored.pop(FailureKind.BUDGET, None)

    def stop(self) -> None:
        """Send nothing more; what is in flight may finish."""
        for engine in self.engines.values():
            engine.stop()

    @property
    def busy(self) -> bool:
        """Whether something is in flight: money is set aside for it."""
        return bool(self.engine_context.budget.reserved_usd)

    def worker_lifetimes(self) -> list[tuple[str, Any]]:
        """(endpoint, life) of every local worker so far."""
        return [
            (name, life)
            for name, engine in (*self._former, *self.engines.items())
            if isinstance(engine, HasWorkers)
            for life in engine.worker_lifetimes()
        ]


@runtime_checkable
class HasWorkers(Protocol):
    """An engine with workers of its own."""

    def worker_lifetimes(self) -> Sequence[Any]: ...
