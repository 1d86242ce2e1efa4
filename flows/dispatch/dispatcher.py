"""The dispatcher: one engine per endpoint, and the way of a shard, the same for every purpose.

A shard is written down (`shards/<id>.npy`: its rows) before it is sent, answered by its endpoint's engine, and sealed
into a part by the process that journalled it. Threads call `answer`, this process's or those of Prefect's task runner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from thirdshift.engines.core.budget import BatchBudget, RunBudget
from thirdshift.engines.registry import engine_for
from thirdshift.flows.console import ProgressCounts, RunConsole
from thirdshift.flows.dispatch.harvest import Harvest
from thirdshift.flows.dispatch.waits import Waits
from thirdshift.flows.dispatch.work import ShardWork, rows_file
from thirdshift.flows.planning.measured.throughput import HasWorkers
from thirdshift.flows.runs.context import RunContext
from thirdshift.flows.runs.folder import mark_of
from thirdshift.flows.runs.spot_prices import price_now
from thirdshift.flows.telemetry.telemetry import NoTelemetry, Telemetry
from thirdshift.router.interfaces import Budget, Engine, EngineContext, Journal, Shard, Ticket
from thirdshift.router.values import Endpoint, Failure, FailureKind, Mode, Purpose
from thirdshift.warehouse.intake.frozen import RowSource
from thirdshift.warehouse.journal.files import sync
from thirdshift.warehouse.journal.journal import FileJournal

REDRAW_SECONDS = 0.2

NOT_SENT = frozenset({FailureKind.BUDGET, FailureKind.DEADLINE, FailureKind.CANCELLED})
"""Failures that leave a request as it was: it can be sent later, and has no result yet."""
CAN_PASS = frozenset({FailureKind.OVERLOADED, FailureKind.RATE_LIMITED})
"""Failures of a batch's lines that another batch may not meet."""
FOR_SCORES = frozenset({Purpose.JUDGE, Purpose.AUDIT})
"""What is sent so that answers can be scored."""


def context_lent(
    context: RunContext,
    journal: Journal,
    budget: Budget,
    committed: dict[str, dict[str, Decimal]],
    console: RunConsole,
    rented_until: Mapping[str, Sequence[datetime]],
) -> EngineContext:
    """What a run lends to its engines. With several endpoints none is waited for that wants to be left alone for hours."""

    def say(words: str) -> None:
        console.say(words, style="yellow")

    def hourly_usd(name: str) -> Decimal | None:
        return price_now(context.reached[name], context.job.base, say)

    return EngineContext(
        journal,
        budget,
        context.deadline,
        committed,
        context.folder,
        rented_until,
        elsewhere=len(context.endpoints) > 1,
        say=say,
        hourly_usd=hourly_usd,
        world=context.world,
    )


class Dispatcher:
    """Has the shards of one run answered, each by its endpoint's engine.

    Close it: workers and connections are held until then.
    """

    def __init__(
        self,
        run_id: str,
        folder: Path,
        endpoints: Mapping[str, Endpoint],
        engine_context: EngineContext,
        journal: FileJournal,
        *,
        judge_context: EngineContext | None = None,
        harvest: Harvest | None = None,
        emulation: AbstractContextManager[Mapping[str, Endpoint]] | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        """`endpoints`: all that may be sent to, by name. `judge_context`: for judges' calls, whose money has a limit of
        its own; None: they share `engine_context`. `harvest`: cuts late batches short. `emulation`: entered by
        `connect`, gives the same endpoints as they are reached in a rehearsal.
        """
        self.run_id, self.folder = run_id, folder
        self.mark = mark_of(folder, engine_context.world)
        self.endpoints, self.engine_context, self.journal = endpoints, engine_context, journal
        self.judge_context = judge_context or engine_context
        whole = engine_context.budget
        self._for_batches = (
            BatchBudget(whole, lambda: bool(self._at_once)) if isinstance(whole, RunBudget) else None
        )
        self.harvest = harvest
        self._telemetry = telemetry or NoTelemetry()
        self._emulation, self._emulator = emulation, ExitStack()
        self.engines: dict[str, Engine] = {}
        self._former: list[tuple[str, Engine]] = []
        """Engines closed when the cap stopped the pilot; their workers have lived all the same."""
        self.progress: ProgressCounts | None = None
        self._redraw: Callable[[], None] = lambda: None
        self._drawn = 0.0
        self._world = engine_context.world
        self._under_way: dict[str, ShardWork] = {}
        self._at_once: set[str] = set()
        """Shards under way that are no batches."""
        self.stopped: Counter[FailureKind] = Counter()
        """Requests not sent, by the reason."""
        self.unscored: Counter[FailureKind] = Counter()
        """Scores not asked for, by the reason: the run's answers are none the worse."""
        self._workers: dict[str, int] = {}
        """How many workers each endpoint of ours is to have; one that is not named decides by its pending requests."""
        self.not_run: dict[str, list[int]] = {}
        """Rows that a batch ended without running, by endpoint, until `take_not_run`."""
        self.passing: dict[str, list[int]] = {}
        """Rows that a batch's server failed at by a fault that can pass, by endpoint, until `take_passing`."""
        self.given_up: set[str] = set()
        """Batch tiers of which a shard broke off: each try waits for a provider that does not answer."""
        self.waits = Waits()
        self.awaited: Collection[str] | None = None
        """Endpoints that may be sent more after what is being sent; None: any may. A worker of another that is done with
        it need not be kept."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
        self._emulator.close()

    def connect(self) -> None:
        """Start the emulated provider of a rehearsal, which knows the frozen input; nothing for a real run."""
        if self._emulation is not None:
            self.endpoints = self._emulator.enter_context(self._emulation)
            self._emulation = None

    def close(self) -> None:
        """Release connections and workers. Idempotent."""
        if self.harvest is not None:
            self.harvest.close()
        self._close_engines()

    def _close_engines(self) -> None:
        with ExitStack() as closing:  # one that cannot keep its records does not leave the others open
            for engine in self.engines.values():
                closing.callback(engine.close)

    def create_shards(
        self, purpose: Purpose, rows_by_endpoint: Sequence[tuple[str, NDArray[np.int64]]]
    ) -> list[ShardWork]:
        """Name a shard for each (endpoint, rows) and write its rows down, so that they outlive the machine: without them a
        batch is not taken up again. Numbers go on from the run's last shard."""
        home = self.folder / "shards"
        home.mkdir(mode=0o700, exist_ok=True)
        number = 1 + max((int(path.stem.split("-")[0]) for path in home.glob("*.npy")), default=0)
        shards = []
        for offset, (endpoint, rows) in enumerate(rows_by_endpoint):
            shard = ShardWork(
                f"{number + offset:05d}-{purpose}-{endpoint}", endpoint, purpose, rows, self._world.now()
            )
            with rows_file(self.folder, shard.shard_id).open("wb") as file:
                np.save(file, rows)
                file.flush()
                self._world.sync(file.fileno())
            shards.append(shard)
        sync(home, self._world)
        return shards

    def answer(self, shard_id: str) -> None:
        """Have a shard answered, and seal it. Runs in a thread of its own; returns when the shard is done."""
        work = self._under_way[shard_id]
        endpoint = self.endpoints[work.endpoint]
        with self._telemetry.shard(shard_id, endpoint, work.purpose, len(work.unanswered)):
            self._answer(work)

    def submit(self, work: ShardWork) -> tuple[Engine, Ticket]:
        """Hand a shard to its engine, once however often this is called."""
        engine = self.engines[self._lane(work)]
        requests = work.requests or RowSource(self.folder, work.unanswered)
        shard = Shard(
            self.run_id, work.shard_id, work.endpoint, work.purpose, requests, work.first_attempt, work.barred
        )
        # another warehouse, or a run set aside, may have used the same names at the same provider
        ticket = engine.submit(shard, key=f"{self.run_id}~{self.mark}/{work.shard_id}")
        if self.harvest is not None:
            self.harvest.watch(engine, ticket, work.endpoint, work.begun)
        return engine, ticket

    def _answer(self, work: ShardWork) -> None:
        engine, ticket = self.submit(work)
        for reply in engine.collect(ticket):
            batch, sent = self.endpoints[work.endpoint].mode is Mode.BATCH, True
            if isinstance(reply, Failure):
                sent = reply.kind not in NOT_SENT and reply.kind is not FailureKind.EXPIRED
                self._failed(work, engine, reply, sent=sent)
            failed = isinstance(reply, Failure) or reply.valid is False
            self._count(failed=failed, batch=batch, sent=sent)
        self._at_once.discard(work.shard_id)
        self.journal.seal(work.shard_id)

    def _failed(self, work: ShardWork, engine: Engine, failure: Failure, *, sent: bool) -> None:
        """Note what a failure asks for: a wait, another endpoint, or a later look."""
        batch = self.endpoints[work.endpoint].mode is Mode.BATCH
        if failure.kind is FailureKind.RATE_LIMITED and not batch:
            self.waits.note(work.endpoint, engine, self.engine_context.deadline)
        if not sent:
            self._not_run(work, failure)
        elif batch and failure.kind in CAN_PASS and work.purpose not in FOR_SCORES:
            self.passing.setdefault(work.endpoint, []).append(failure.row)

    def _not_run(self, work: ShardWork, failure: Failure) -> None:
        """Note a request that was not run, and so not billed: another endpoint may answer it, or the run stops."""
        if work.purpose in FOR_SCORES and failure.kind is not FailureKind.CANCELLED:
            self.unscored[failure.kind] += 1
            return
        endpoint = work.endpoint
        closed = self.harvest is not None and endpoint in self.harvest.closed
        late = self.engine_context.deadline is not None and self._world.now() >= self.engine_context.deadline
        if late and failure.kind in (FailureKind.EXPIRED, FailureKind.CANCELLED):
            self.stopped[FailureKind.DEADLINE] += 1
        elif closed or failure.kind is FailureKind.EXPIRED:
            self.not_run.setdefault(endpoint, []).append(failure.row)
        else:
            self.stopped[failure.kind] += 1

    def take_not_run(self) -> list[tuple[str, NDArray[np.int64]]]:
        """Return and forget the rows that batches ended without running, by endpoint."""
        taken, self.not_run = self.not_run, {}
        return [(endpoint, np.array(rows, np.int64)) for endpoint, rows in taken.items()]

    def take_passing(self) -> list[tuple[str, NDArray[np.int64]]]:
        """Return and forget the rows that another batch may answer, by endpoint."""
        taken, self.passing = self.passing, {}
        return [(endpoint, np.array(rows, np.int64)) for endpoint, rows in taken.items()]

    @property
    def closed(self) -> set[str]:
        """Endpoints that are sent no more batches in this run."""
        return self.given_up if self.harvest is None else self.given_up | self.harvest.closed

    def give_up(self, work: ShardWork) -> None:
        """Ask no more of what has broken off as a whole: a batch tier that cannot be told what to place, or for scores."""
        if self.endpoints[work.endpoint].mode is Mode.BATCH:
            self.given_up.add(work.endpoint)
        if work.purpose in FOR_SCORES:
            self.unscored[FailureKind.CONNECTION] += len(work.unanswered)

    def progress_counts(self, shards: Sequence[ShardWork], bill: Callable[[], str]) -> ProgressCounts:
        """Return counts that start at nothing done: how many requests are to come, and when from batch tiers.

        `bill` says what is spent.
        """
        batches = [shard for shard in shards if self.endpoints[shard.endpoint].mode is Mode.BATCH]
        ends = [
            shard.begun.timestamp() + (self.endpoints[shard.endpoint].turnaround_seconds or 0.0)
            for shard in batches
        ]
        return ProgressCounts(
            sum(len(shard.unanswered) for shard in shards),
            bill,
            batched=sum(len(shard.unanswered) for shard in batches),
            batched_until=max(ends, default=0.0),
        )

    def show(self, progress: ProgressCounts, redraw: Callable[[], None]) -> None:
        """Count into `progress` from now on; `redraw` is called as it grows."""
        self.progress, self._redraw = progress, redraw

    def _count(self, *, failed: bool, batch: bool, sent: bool) -> None:
        if self.progress is not None:
            self.progress.count(failed=failed, batch=batch, sent=sent)
            now = self._world.monotonic()
            if now - self._drawn > REDRAW_SECONDS:
                self._drawn = now
                self._redraw()

    def ensure_engines(self, shards: Sequence[ShardWork]) -> None:
        """Have an engine ready for every endpoint that `shards` name."""
        self._under_way = {shard.shard_id: shard for shard in shards}
        batches = {shard.shard_id for shard in shards if self.endpoints[shard.endpoint].mode is Mode.BATCH}
        self._at_once = self._under_way.keys() - batches
        for shard in shards:
            if (lane := self._lane(shard)) not in self.engines:
                self.engines[lane] = engine_for(self.endpoints[shard.endpoint], self._context_for(shard))
                self._apply_workers(lane)
        self._keep_idle(kept=not batches)  # what comes next waits for batches for hours

    def _context_for(self, shard: ShardWork) -> EngineContext:
        """What the shard's engine is lent. Batches leave money to what is sent beside them."""
        if shard.purpose is Purpose.JUDGE:
            return self.judge_context
        if self.endpoints[shard.endpoint].mode is Mode.BATCH and self._for_batches is not None:
            return replace(self.engine_context, budget=self._for_batches)
        return self.engine_context

    def leave_to_realtime(self, expected_usd: Decimal) -> None:
        """Have batches leave so much of the cap to what is sent beside them."""
        if self._for_batches is not None:
            self._for_batches.leave(expected_usd)

    def text_only(self) -> None:
        """Let engines that are made from now on know that no request holds anything but text."""
        self.engine_context = replace(self.engine_context, text_only=True)

    def rest(self) -> None:
        """Have idle workers stop: nothing is sent for a while."""
        self._keep_idle(kept=False)

    def _keep_idle(self, *, kept: bool) -> None:
        for lane, engine in self.engines.items():
            if isinstance(engine, HasIdleWorkers):
                engine.keep_idle(kept=kept and (self.awaited is None or lane in self.awaited))

    def plan_workers(self, counts: Mapping[str, int]) -> None:
        """Have so many workers run for each endpoint named, engines that are made later included."""
        self._workers.update(counts)
        for lane in self.engines:
            self._apply_workers(lane)

    def _apply_workers(self, lane: str) -> None:
        engine = self.engines[lane]
        if lane in self._workers and isinstance(engine, HasWorkerCount):
            engine.plan_workers(self._workers[lane])

    def _lane(self, work: ShardWork) -> str:
        """Name the shard's engine: an endpoint that judges too has a second one, whose money is apart, but never a
        second set of workers."""
        apart = work.purpose is Purpose.JUDGE and self.endpoints[work.endpoint].workers is None
        return f"{work.endpoint} as judge" if apart else work.endpoint

    def start_over(self) -> None:
        """Forget that money ran out: an engine that the cap has stopped is made anew when it is wanted."""
        self._close_engines()
        self._former += self.engines.items()
        self.engines.clear()
        self.stopped.pop(FailureKind.BUDGET, None)
        self.unscored.pop(FailureKind.BUDGET, None)

    def stop(self) -> None:
        """Send nothing more; what is in flight may finish."""
        for engine in self.engines.values():
            engine.stop()

    def seal_live(self) -> None:
        """Seal what is under way in real time. A batch goes on at its provider, and `resume` adopts it."""
        for shard in self._under_way.values():
            if self.endpoints[shard.endpoint].mode is not Mode.BATCH:
                self.journal.seal(shard.shard_id)

    @property
    def busy(self) -> bool:
        """Whether something is in flight: money is reserved for it."""
        return bool(self.engine_context.budget.reserved_usd)

    def worker_lifetimes(self) -> list[tuple[str, Any]]:
        """Return (endpoint, lifetime) of every local worker so far."""
        return [
            (name, lifetime)
            for name, engine in (*self._former, *self.engines.items())
            if isinstance(engine, HasWorkers)
            for lifetime in engine.worker_lifetimes()
        ]


@runtime_checkable
class HasWorkerCount(Protocol):
    """An engine that can be told how many workers to run."""

    def plan_workers(self, count: int) -> None: ...


@runtime_checkable
class HasIdleWorkers(Protocol):
    """An engine that can be told whether its idle workers are kept."""

    def keep_idle(self, *, kept: bool) -> None: ...
