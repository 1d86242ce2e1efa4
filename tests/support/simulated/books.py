"""What the files of a run say: its entries from sealed parts and open journals, as whoever resumes would read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from thirdshift.flows.planning.measured.run_queries import FinalReplies
from thirdshift.router.values import (
    Answer,
    Endpoint,
    Failure,
    FailureKind,
    Intent,
    LedgerStatus,
    Mode,
    Outcome,
    Purpose,
)
from thirdshift.warehouse.journal import parts
from thirdshift.warehouse.journal.journal import attempts, open_journals

COLUMNS = [
    "entry_id", "shard_id", "started_at", "row", "endpoint", "purpose", "status", "cost_usd", "settled_at", "reply",
    "valid", "failure_kind", "final", "provider_ref", "output",
]  # fmt: skip
PartKey = tuple[str, int, int]
"""A part's name, size and time: the next life finds it in another folder."""
CAN_PASS = (FailureKind.OVERLOADED, FailureKind.RATE_LIMITED)


class Entry(NamedTuple):
    """One attempt."""

    entry_id: str
    shard_id: str
    started_at: float
    """Seconds since 1970."""
    row: int
    endpoint: str
    purpose: str
    status: LedgerStatus
    cost_usd: Decimal
    settled_at: float | None
    reply: str | None
    """`answer`, `failure`, or nothing yet."""
    valid: bool | None
    failure_kind: str | None
    final: bool | None
    provider_ref: str | None
    output: str | None

    @property
    def usable(self) -> bool:
        """Whether it is an answer that is paid and stays."""
        return self.reply == "answer" and bool(self.final)


class RunBooks:
    """One run's, over all lives; a part is read once."""

    def __init__(self) -> None:
        self._read: dict[PartKey, list[Entry]] = {}
        self._open: dict[bytes, list[Entry]] = {}
        """By what an open journal says."""
        self._last: tuple[list[PartKey], list[Entry]] = ([], [])
        """The parts that were looked at last, and their entries."""

    def sealed(self, folder: Path) -> list[Entry]:
        """The entries of all parts, each once."""
        found = {_key(path): path for path in parts.of_run(folder)}
        if [*found] != self._last[0]:
            known: dict[str, Entry] = {}
            for key, path in found.items():
                for entry in self._of(key, path):
                    known.setdefault(entry.entry_id, entry)
            self._last = [*found], list(known.values())
        return self._last[1]

    def _of(self, key: PartKey, path: Path) -> list[Entry]:
        if key not in self._read:
            self._read[key] = _entries(path)
        return self._read[key]

    def repeated(self, folder: Path) -> int:
        """How many entries stand in more than one part, or twice in one."""
        every = (self._of(_key(path), path) for path in parts.of_run(folder))
        counts = Counter(entry.entry_id for entry in chain.from_iterable(every))
        return sum(count > 1 for count in counts.values())

    def everything(self, folder: Path) -> list[Entry]:
        """Those and what stands in open journals; an attempt without an outcome may have cost all that it could."""
        known = {entry.entry_id: entry for entry in self.sealed(folder)}
        for shard_id in open_journals(folder):
            for entry in self._journalled(folder, shard_id):
                known.setdefault(entry.entry_id, entry)
        return list(known.values())

    def _journalled(self, folder: Path, shard_id: str) -> list[Entry]:
        """An open journal's entries. What two lives find in it is read once."""
        told = (folder / "journal" / f"{shard_id}.jsonl").read_bytes()
        if told not in self._open:
            self._open[told] = [_entry(*attempt) for attempt in attempts(folder, shard_id)]
        return self._open[told]


def _key(path: Path) -> PartKey:
    stat = path.stat()
    return path.name, stat.st_size, stat.st_mtime_ns


def _entries(path: Path) -> list[Entry]:
    table = pq.ParquetFile(path).read(COLUMNS, use_threads=False)
    for name in ("started_at", "settled_at"):  # as whole microseconds: instants are slow to make
        table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.int64()))
    columns = {name: table[name].to_pylist() for name in COLUMNS}
    columns["started_at"] = [at / 1e6 for at in columns["started_at"]]
    columns["settled_at"] = [None if at is None else at / 1e6 for at in columns["settled_at"]]
    columns["status"] = [LedgerStatus(status) for status in columns["status"]]
    return list(map(Entry._make, zip(*(columns[name] for name in Entry._fields), strict=True)))


def _entry(intent: Intent, outcome: Outcome | None) -> Entry:
    reply = None if outcome is None else outcome.reply
    return Entry(
        intent.entry_id,
        intent.shard_id or "",
        intent.started_at.timestamp(),
        intent.row or 0,
        intent.endpoint,
        intent.purpose,
        LedgerStatus.UNSETTLED if outcome is None else outcome.status,
        intent.reserved_usd if outcome is None else outcome.cost_usd,
        None if outcome is None else outcome.settled_at.timestamp(),
        "answer" if isinstance(reply, Answer) else None if reply is None else "failure",
        reply.valid if isinstance(reply, Answer) else None,
        reply.kind if isinstance(reply, Failure) else None,
        None if outcome is None else outcome.final,
        intent.provider_ref if outcome is None else outcome.provider_ref or intent.provider_ref,
        reply.output if isinstance(reply, Answer) else None,
    )


def replies(entries: Sequence[Entry], endpoints: Sequence[Endpoint]) -> FinalReplies:
    """What the query REPLIES of `run_queries.py` makes of them."""
    places = {endpoint.name: place for place, endpoint in enumerate(endpoints)}
    groups: dict[tuple[int, str], list[Entry]] = {}
    for entry in _heard(entries, {end.name for end in endpoints if end.mode is Mode.BATCH}):
        groups.setdefault((entry.row, entry.endpoint), []).append(entry)
    newest = sorted(groups.items(), key=lambda group: max(entry.settled_at or 0.0 for entry in group[1]))
    answers = [[entry for entry in group if entry.reply == "answer"] for _, group in newest]
    return FinalReplies(
        row=np.array([row for (row, _), _ in newest], np.int64),
        endpoint=np.array([places[name] for (_, name), _ in newest], np.int32),
        answered=np.array([bool(held) for held in answers], bool),
        repaired=np.array([any(entry.purpose == "repair" for entry in held) for held in answers], bool),
        served=np.array([any(entry.purpose == "main" for entry in held) for held in answers], bool),
        limited=np.array(
            [all(entry.failure_kind == FailureKind.RATE_LIMITED for entry in group) for _, group in newest],
            bool,
        ),
    )


def answers(
    entries: Sequence[Entry], endpoints: Sequence[Endpoint], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32], list[str]]:
    """What the query ANSWERS of `run_queries.py` makes of them: of one endpoint's answers to a row the best, then the
    latest."""
    places, wanted = {endpoint.name: place for place, endpoint in enumerate(endpoints)}, set(rows.tolist())
    best: dict[tuple[int, int], Entry] = {}
    for entry in sorted(
        (
            entry
            for entry in entries
            if entry.reply == "answer" and entry.row in wanted and entry.purpose != Purpose.JUDGE
        ),
        key=_rank,
    ):
        best[entry.row, places[entry.endpoint]] = entry
    keys = sorted(best)
    return (
        np.array([row for row, _ in keys], np.int64),
        np.array([endpoint for _, endpoint in keys], np.int32),
        [best[key].output or "" for key in keys],
    )


def _rank(entry: Entry) -> tuple[bool, float, str]:
    return entry.valid is not False, entry.settled_at or 0.0, entry.entry_id


def _heard(entries: Sequence[Entry], batches: set[str]) -> Iterator[Entry]:
    """Final replies to a night's requests, without what a batch has left undone."""
    for entry in entries:
        undone = entry.failure_kind == FailureKind.EXPIRED or entry.purpose == Purpose.JUDGE
        passing = entry.failure_kind in CAN_PASS and entry.endpoint in batches
        if entry.reply is not None and entry.final and not undone and not passing:
            yield entry
