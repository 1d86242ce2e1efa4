"""The crew: one engine per endpoint, and the road of a shard, the same for every purpose.

A shard is written down (`shards/<id>.npy`: its rows) before it is sent, answered by its endpoint's engine, sealed into a
part by the process that journalled it, and landed: ingested, scored, counted. Threads of Prefect's task runner call
`answer`; one thread calls `land`, because one process at a time writes the warehouse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.loading import engine_for
from flows.screen import Bar, Tally
from router.values import Desk, Endpoint, Engine, Failure, FailureKind, Purpose, Shard
from warehouse.frozen import RowSource
from warehouse.journal import FileJournal

NOT_SENT = frozenset({FailureKind.BUDGET, FailureKind.DEADLINE, FailureKind.CANCELLED})
"""Failures that leave a request as it was: it can be sent later, and has no result yet."""


@dataclass(frozen=True, slots=True)
class Work:
    """A shard to be done."""

    shard_id: str
    endpoint: str
    purpose: Purpose
    rows: NDArray[np.int64]


class Crew:
    """The engines of one night. Close it: workers and connections are held until then."""

    def __init__(self, run_id: str, folder: Path, endpoints: Mapping[str, Endpoint], desk: Desk, journal: FileJournal) -> None:
        self.run_id, self.folder = run_id, folder
        self.endpoints, self.desk, self.journal = endpoints, desk, journal
        self.engines: dict[str, Engine] = {}
        self.tally: Tally | None = None
        self.bar: Bar | None = None
        self.stopped: Counter[FailureKind] = Counter()
        """Requests not sent, by the reason."""

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *error: object) -> None:
        for engine in self.engines.values():
            engine.close()

    def works(self, purpose: Purpose, placed: Sequence[tuple[str, NDArray[np.int64]]]) -> list[Work]:
        """Name shards (endpoint, rows) and write them down; numbers go on from what the run already has."""
        home = self.folder / "shards"
        home.mkdir(mode=0o700, exist_ok=True)
        number = 1 + max((int(path.stem.split("-")[0]) for path in home.glob("*.npy")), default=0)
        works = []
        for offset, (endpoint, rows) in enumerate(placed):
            work = Work(f"{number + offset:05d}-{purpose}-{endpoint}", endpoint, purpose, rows)
            np.save(home / f"{work.shard_id}.npy", rows)
            works.append(work)
        return works

    def answer(self, work: Work) -> None:
        """Have a shard answered, and seal it. Runs in a thread of its own; returns when the shard is done."""
        engine = self.engines[work.endpoint]
        shard = Shard(self.run_id, work.shard_id, work.endpoint, work.purpose, RowSource(self.folder, work.rows))
        ticket = engine.submit(shard, key=f"{self.run_id}/{work.shard_id}")
        for reply in engine.collect(ticket):
            failed = isinstance(reply, Failure)
            if isinstance(reply, Failure) and reply.kind in NOT_SENT:
                self.stopped[reply.kind] += 1
            if self.tally is not None:
                self.tally.count(failed=failed)
        self.journal.seal(work.shard_id)

    def man(self, works: Sequence[Work]) -> None:
        """Have an engine ready for every endpoint that `works` name."""
        for name in {work.endpoint for work in works} - set(self.engines):
            self.engines[name] = engine_for(self.endpoints[name], self.desk)

    def stop(self) -> None:
        """Send nothing more; what is in flight may finish."""
        for engine in self.engines.values():
            engine.stop()
