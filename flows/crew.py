"""The crew: one engine per endpoint, and the road of a shard, the same for every purpose.

A shard is written down (`shards/<id>.npy`: its rows) before it is sent, answered by its endpoint's engine, and sealed
into a part by the process that journalled it. Threads of Prefect's task runner call `answer`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from engines.loading import engine_for
from flows.harvesting import Harvest
from flows.run_folder import mark_of
from flows.screen import Tally
from router.values import Desk, Endpoint, Engine, Failure, FailureKind, Mode, Purpose, RequestSource, Shard
from warehouse.frozen import RowSource
from warehouse.journal import FileJournal

REDRAW_SECONDS = 0.2

NOT_SENT = frozenset({FailureKind.BUDGET, FailureKind.DEADLINE, FailureKind.CANCELLED})
"""Failures that leave a request as it was: it can be sent later, and has no result yet."""
FOR_SCORES = frozenset({Purpose.JUDGE, Purpose.AUDIT})
"""What is sent so that answers can be scored."""


@dataclass(frozen=True, slots=True)
class Work:
    """A shard to be done."""

    shard_id: str
    endpoint: str
    purpose: Purpose
    rows: NDArray[np.int64]
    begun: datetime
    left: NDArray[np.int64] | None = None
    """Of an adopted shard: the rows that have no answer yet. None: all."""
    subject: str | None = None
    """Of a judge's shard: the endpoint whose answers it is about."""
    requests: RequestSource | None = field(default=None, repr=False)
    """What is sent, where it is not the frozen input's requests."""

    @property
    def unanswered(self) -> NDArray[np.int64]:
        return self.rows if self.left is None else self.left


def rows_file(folder: Path, shard_id: str) -> Path:
    """Where a shard's rows are written down before it is sent."""
    return folder / "shards" / f"{shard_id}.npy"


class Crew:
    """The engines of one night. Close it: workers and connections are held until then."""

    def __init__(
        self, run_id: str, folder: Path, endpoints: Mapping[str, Endpoint], desk: Desk, journal: FileJournal
    ) -> None:
        self.run_id, self.folder = run_id, folder
        self.mark = mark_of(folder)
        self.endpoints, self.desk, self.journal = endpoints, desk, journal
        self.engines: dict[str, Engine] = {}
        self._former: list[tuple[str, Engine]] = []
        """Closed when the cap stopped the pilot; their workers have lived all the same."""
        self.tally: Tally | None = None
        self._redraw: Callable[[], None] = lambda: None
        self._drawn = 0.0
        self._under_way: dict[str, Work] = {}
        self.stopped: Counter[FailureKind] = Counter()
        """Requests not sent, by the reason."""
        self.judges_desk = desk
        """Of judges' calls, which have a limit of their own."""
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

    def works(self, purpose: Purpose, placed: Sequence[tuple[str, NDArray[np.int64]]]) -> list[Work]:
        """Name shards (endpoint, rows) and write them down; numbers go on from what the run already has."""
        home = self.folder / "shards"
        home.mkdir(mode=0o700, exist_ok=True)
        number = 1 + max((int(path.stem.split("-")[0]) for path in home.glob("*.npy")), default=0)
        works = []
        for offset, (endpoint, rows) in enumerate(placed):
            work = Work(
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
            failed = isinstance(reply, Failure)
            if isinstance(reply, Failure) and (reply.kind in NOT_SENT or reply.kind is FailureKind.EXPIRED):
                self._not_run(work, reply)
            self._count(failed=failed, batch=self.endpoints[work.endpoint].mode is Mode.BATCH)
        self.journal.seal(work.shard_id)

    def _not_run(self, work: Work, failure: Failure) -> None:
        """Nothing was billed. Where there is time another endpoint answers it; else it waits for another day."""
        if work.purpose in FOR_SCORES and failure.kind is not FailureKind.CANCELLED:
            self.unscored[failure.kind] += 1
            return
        endpoint = work.endpoint
        closed = self.harvest is not None and endpoint in self.harvest.closed
        late = self.desk.deadline is not None and datetime.now(UTC) >= self.desk.deadline
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

    def tally_of(self, works: Sequence[Work], spent_usd: Decimal) -> Tally:
        """What is to come, and when from batch tiers."""
        batches = [work for work in works if self.endpoints[work.endpoint].mode is Mode.BATCH]
        waits = [
            work.begun.timestamp() + (self.endpoints[work.endpoint].turnaround_seconds or 0.0)
            for work in batches
        ]
        return Tally(
            sum(len(work.unanswered) for work in works),
            spent_usd,
            batched=sum(len(work.unanswered) for work in batches),
            batched_until=max(waits, default=0.0),
        )

    def show(self, tally: Tally, redraw: Callable[[], None]) -> None:
        """Count into `tally` from now on; `redraw` is called as it grows."""
        self.tally, self._redraw = tally, redraw

    def _count(self, *, failed: bool, batch: bool) -> None:
        if self.tally is not None:
            self.tally.count(failed=failed, batch=batch)
            if time.monotonic() - self._drawn > REDRAW_SECONDS:
                self._drawn = time.monotonic()
                self._redraw()

    def man(self, works: Sequence[Work]) -> None:
        """Have an engine ready for every endpoint that `works` name."""
        self._under_way = {work.shard_id: work for work in works}
        for work in works:
            if (lane := self._lane(work)) not in self.engines:
                desk = self.judges_desk if work.purpose is Purpose.JUDGE else self.desk
                self.engines[lane] = engine_for(self.endpoints[work.endpoint], desk)

    def _lane(self, work: Work) -> str:
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
        return bool(self.desk.escrow.reserved_usd)

    def lives(self) -> list[tuple[str, Any]]:
        """(endpoint, life) of every local worker so far."""
        return [
            (name, life)
            for name, engine in (*self._former, *self.engines.items())
            if isinstance(engine, HasLives)
            for life in engine.lives()
        ]


@runtime_checkable
class HasLives(Protocol):
    """An engine with workers of its own."""

    def lives(self) -> Sequence[Any]: ...
