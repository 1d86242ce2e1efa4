"""The journal: what was sent and what became of it, a line each, so that kill -9 loses nothing that was acknowledged.

One file per shard, `journal/<shard_id>.jsonl`; what belongs to no shard goes to `overhead.jsonl`. A line is
written by one `write` to a file opened for appending: the kernel has it when the call returns, whatever
happens to this process. A thread syncs once a second, for the machine's own death. Sealing makes a part of
a journal and then removes it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from thirdshift.router.values import Intent, Outcome
from thirdshift.warehouse.errors import JournalError
from thirdshift.warehouse.journal import parts
from thirdshift.warehouse.journal.files import private_dir, sync
from thirdshift.warehouse.journal.records import decode, encode
from thirdshift.world import REAL, World

OVERHEAD = "overhead"
SYNC_SECONDS = 1.0


class FileJournal:
    """`interfaces.Journal` in files. Safe from any thread; close it, or use it as a context manager."""

    def __init__(self, folder: Path, world: World = REAL) -> None:
        """Journals that `recover` left for adoption are taken up where they end."""
        self._folder, self._world = folder, world
        self._dir = private_dir(private_dir(folder) / "journal")
        self._lock = threading.Lock()
        self._sealing = threading.Lock()
        """Shards of one plan end about together, and each is in memory whole while it is sealed."""
        self._files: dict[str, int] = {}
        self._dirty: set[str] = set()
        self._shard_of: dict[str, str] = {}
        self._sync_error: OSError | None = None
        self._stop_syncing: Callable[[], None] | None = None
        for path in _journals(folder):
            self._shard_of |= dict.fromkeys(_read(path).pending, path.stem)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sent(self, intents: Iterable[Intent]) -> None:
        """Record attempts about to be made. Raises JournalError where that fails, and then nothing may be
        sent.
        """
        lines: dict[str, list[bytes]] = {}
        shards: dict[str, str] = {}
        for intent in intents:
            shard_id = intent.shard_id or OVERHEAD
            shards[intent.entry_id] = shard_id
            lines.setdefault(shard_id, []).append(encode(intent))
        with self._lock:
            self._append(lines)
            self._shard_of |= shards

    def settled(self, outcomes: Iterable[Outcome]) -> None:
        """Record what became of attempts. JournalError on an entry that was not sent, or is sealed."""
        lines: dict[str, list[bytes]] = {}
        done: list[str] = []
        with self._lock:
            for outcome in outcomes:
                shard_id = self._shard_of.get(outcome.entry_id)
                if shard_id is None:
                    raise JournalError(
                        f"entry {outcome.entry_id}: an outcome, but no attempt of that id is open"
                    )
                done.append(outcome.entry_id)
                lines.setdefault(shard_id, []).append(encode(outcome))
            self._append(lines)
            for entry_id in done:
                self._shard_of.pop(entry_id, None)

    def seal(self, shard_id: str) -> Path | None:
        """Make a part of a shard's journal and remove it; None if there is none. Attempts without an
        outcome become unsettled, so seal when the shard is done.
        """
        with self._lock:
            handle = self._files.pop(shard_id, None)
            if handle is not None:
                os.close(handle)
            self._dirty.discard(shard_id)
            self._shard_of = {e: s for e, s in self._shard_of.items() if s != shard_id}
        with self._sealing:
            return _seal(self._folder, shard_id, self._world)

    def close(self) -> None:
        """Sync and close the files; what they hold stays. Idempotent."""
        if self._stop_syncing is not None:
            self._stop_syncing()
        with self._lock:
            for handle in self._files.values():
                self._world.sync(handle)
                os.close(handle)
            self._files.clear()

    def _append(self, lines: dict[str, list[bytes]]) -> None:
        if self._sync_error is not None:
            raise JournalError(f"{self._dir}: the disk does not keep what is written: {self._sync_error}")
        grown: list[tuple[int, int]] = []
        try:
            for shard_id, texts in lines.items():
                handle = self._file(shard_id)
                grown.append((handle, os.fstat(handle).st_size))
                _write(handle, b"".join(texts), self._world)
                self._dirty.add(shard_id)
        except (OSError, JournalError) as error:
            # all lines or none: what was not acknowledged must not be found later
            for handle, before in grown:
                with suppress(OSError):
                    os.ftruncate(handle, before)
            if isinstance(error, JournalError):
                raise
            raise JournalError(
                f"{self._dir / shard_id}.jsonl: cannot be written: {error.strerror}; free some space there"
            ) from error

    def _file(self, shard_id: str) -> int:
        handle = self._files.get(shard_id)
        if handle is None:
            path = self._dir / f"{shard_id}.jsonl"
            _cut_torn_line(path)
            try:
                handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            except OSError as error:
                raise JournalError(f"{path}: cannot be opened for writing: {error.strerror}") from error
            sync(self._dir, self._world)
            self._files[shard_id] = handle
            if self._stop_syncing is None:
                self._stop_syncing = self._world.repeat("journal-sync", SYNC_SECONDS, self._sync_dirty)
        return handle

    def _sync_dirty(self) -> None:
        with self._lock:
            handles = [os.dup(self._files[shard_id]) for shard_id in self._dirty]
            self._dirty.clear()
        for handle in handles:
            try:
                self._world.sync(handle)
            except OSError as error:
                self._sync_error = error
            finally:
                os.close(handle)


def recover(folder: Path, adopt: Collection[str] = (), world: World = REAL) -> list[str]:
    """Seal the journals that a dead process left, except those of the shards in `adopt` (batches that go on elsewhere).

    Returns the shards sealed. One that is corrupt is left as it is and named in a JournalError, after all
    others are sealed.
    """
    for leftover in (folder / "parts").glob(".*.tmp"):
        leftover.unlink()
    sealed: list[str] = []
    bad: list[JournalError] = []
    for path in _journals(folder):
        if path.stem in adopt:
            continue
        try:
            sealed.extend([path.stem] if _seal(folder, path.stem, world) else [])
        except JournalError as error:
            bad.append(error)
    if bad:
        raise JournalError("; ".join(str(error) for error in bad)) from bad[0]
    return sealed


def pending(folder: Path, shard_id: str) -> list[Intent]:
    """Return the attempts of a shard that have no outcome yet."""
    path = folder / "journal" / f"{shard_id}.jsonl"
    return list(_read(path).pending.values()) if path.exists() else []


def attempts(folder: Path, shard_id: str) -> list[tuple[Intent, Outcome | None]]:
    """Return all attempts in a shard's open journal, each with its outcome; None where there is none yet."""
    path = folder / "journal" / f"{shard_id}.jsonl"
    contents = _read(path) if path.exists() else _Contents()
    return [(intent, contents.outcomes.get(entry)) for entry, intent in contents.intents.items()]


def open_journals(folder: Path) -> list[str]:
    """Return the ids of the shards whose journals are not sealed."""
    return [path.stem for path in _journals(folder)]


def _journals(folder: Path) -> list[Path]:
    return sorted((folder / "journal").glob("*.jsonl"))


# --- sealing ------------------------------------------------------------------------------------------------


def _seal(folder: Path, shard_id: str, world: World) -> Path | None:
    path = folder / "journal" / f"{shard_id}.jsonl"
    if not path.exists():
        return None
    contents = _read(path)
    part = _already(folder, shard_id, contents.intents) if contents.intents else None
    if contents.intents and part is None:
        entries = parts.entries((i, contents.outcomes.get(e)) for e, i in contents.intents.items())
        try:
            part = parts.write(folder, shard_id, entries, world)
        except OSError as error:
            raise JournalError(f"{path}: cannot be sealed: {error.strerror}; the journal is kept") from error
    path.unlink()
    return part


def _already(folder: Path, shard_id: str, entries: Collection[str]) -> Path | None:
    """Return the part that a process wrote before it died without removing the journal; None where there is none."""
    for part in parts.of_shard(folder, shard_id):
        if set(entries) <= set(parts.read(part, ["entry_id"])["entry_id"].to_pylist()):
            return part
    return None


@dataclass(slots=True)
class _Contents:
    intents: dict[str, Intent] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """Keep the last of an entry's outcomes."""

    @property
    def pending(self) -> dict[str, Intent]:
        return {e: i for e, i in self.intents.items() if e not in self.outcomes}


def _read(path: Path) -> _Contents:
    """Read all records. A last line without its end was never acknowledged, and is left out."""
    contents = _Contents()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.endswith(b"\n"):
                    _take(contents, line, path, number)
    except OSError as error:
        raise JournalError(f"{path}: this journal cannot be read: {error.strerror}") from error
    return contents


def _take(contents: _Contents, line: bytes, path: Path, number: int) -> None:
    try:
        record = decode(line)
    except ValueError as error:
        raise JournalError(
            f"{path}: line {number} of this journal is damaged; nothing was removed. Restore the file from a backup, or"
            " delete that line: if it was an outcome, its attempt then shows as unsettled"
        ) from error
    if isinstance(record, Intent):
        contents.intents[record.entry_id] = record
    elif record.entry_id in contents.intents:
        contents.outcomes[record.entry_id] = record
    else:
        raise JournalError(
            f"{path}: line {number} is the outcome of an attempt that the journal lacks; nothing was removed"
        )


# --- writing ------------------------------------------------------------------------------------------------


def _write(handle: int, data: bytes, world: World) -> None:
    written = world.write(handle, data)
    while written < len(data):
        written += world.write(handle, data[written:])


def _cut_torn_line(path: Path) -> None:
    """Cut off a dead process's torn last line, which was never acknowledged, before more is appended."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
