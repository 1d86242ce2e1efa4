"""Erasure: the text of requests goes from tables, parts, journals and frozen input; ids, figures and money stay.

DuckDB leaves old values in blocks it has freed, so the file is written anew at the end. Not ours to erase,
and so named in the report: backups of migrations, and what was published to `output:`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import duckdb
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from thirdshift.router.values import Answer, Failure, Intent, Outcome
from thirdshift.warehouse.errors import JournalError, StoreError
from thirdshift.warehouse.exchange.compaction import remove
from thirdshift.warehouse.intake.sources import name, quoted
from thirdshift.warehouse.journal import parts
from thirdshift.warehouse.journal.files import building, private_dir, settle, sync, write_whole
from thirdshift.warehouse.journal.journal import open_journals
from thirdshift.warehouse.journal.records import decode, encode
from thirdshift.warehouse.journal.run_folder import folder_to_change, run_folder
from thirdshift.warehouse.store import locks
from thirdshift.warehouse.store.ingest import ingest_parts, missing_parts
from thirdshift.warehouse.store.store import Warehouse

ERASED = "erased"
FROZEN_TEXT = ("metadata", "tools", "sampling", "reference")
"""Columns that become null; `messages` becomes an empty list, and `request_hash`, by which a short text
could be guessed, becomes empty. The response schema is the job's, and stays."""
LEFTOVERS = ("publish", "thirdshift-batch-*", "parts/.*.tmp", "requests/.*", ".*.tmp")
"""In a run's folder: exports and uploads that a killed process was at, files that were not complete."""
SERVER_ERRORS = "server-errors.jsonl"
"""Where engines keep what servers said (`engines.core.server_words`)."""
PART_TEXT = ("output", "reasoning", "message", "logprobs")
UNFINISHED = ".purging"
"""A file of this name beside the runs: text was erased, and the database file is to be written anew still."""
TRIES = 5
"""How often that is tried while other processes write."""
SETTLE_SECONDS = 0.2
"""How long the old file stays locked after it was replaced: whoever had opened it a moment before then tries again."""

TARGETS = """
select q.run_id, q.request_id from requests q join runs r using (run_id)
where ($before is not null and r.started_at < $before) or q.request_id in (select request_id from wanted)
order by all
"""
OUTLIVED = """
select q.run_id, q.request_id from requests q join runs r using (run_id)
where r.job = $job and r.started_at < $before and (q.request_hash is not null or r.purged_at is null)
  and not list_contains($alive, q.run_id)
order by all
"""
"""What was erased has no hash any more: a night with nothing to erase does not write the file anew."""

ERASE = (
    """update results set output = null, reasoning = null, logprobs = null, metadata = null,
              error = case when error is not null then split_part(error, ':', 1) || ': erased' end
       from targets g where g.run_id = results.run_id and g.request_id = results.request_id""",
    """update responses set output = null, reasoning = null, logprobs = null, message = null
       from targets g where g.run_id = responses.run_id and g.request_id = responses.request_id""",
    """update judgements set key = null
       from targets g where g.run_id = judgements.run_id and g.request_id = judgements.request_id""",
    """update requests set metadata = null, request_hash = null
       from targets g where g.run_id = requests.run_id and g.request_id = requests.request_id""",
    """update runs set purged_at = now(), status = case when status = 'running' then 'failed' else status end
       where run_id in (select run_id from targets)""",
)
"""A run that was not finished can't go on: what it would send is gone."""


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge erased, and what still holds text."""

    runs: tuple[str, ...]
    requests: int
    """A request counts in each run that has it."""
    files: int
    """Parts, journals and frozen inputs written anew, and folders removed."""
    backups: tuple[Path, ...]
    """Copies that migrations made, which still hold the text: delete them, or keep them, knowingly."""


def purge(
    path: Path,
    *,
    request_ids: Collection[str] = (),
    before: datetime | None = None,
    alive: Collection[str] = (),
    say: locks.Say | None = None,
) -> Purged:
    """Erase the text of these requests in all runs, or of all requests of runs started before an instant.

    `alive` names runs that a process is working on: StoreError if they are among them. Idempotent; after a
    crash, again.
    """
    if not path.exists():
        raise StoreError(f"{path}: there is no warehouse")
    request_table = pa.table({"request_id": pa.array(sorted(request_ids), pa.string())})
    with Warehouse.open(path, say=say) as warehouse:
        targets = warehouse.query(TARGETS, tables={"wanted": request_table}, before=before)
        for run_id in sorted(set(targets["run_id"].to_pylist())):
            if run_id in alive:
                raise StoreError(f"run {run_id} is being worked on; stop it, then purge again")
    return _purge(path, targets, say)


def outlived_runs(path: Path, job: str, before: datetime) -> list[str]:
    """Return the runs of `job` that started before an instant and have text still."""
    with Warehouse.open(path) as warehouse:
        targets = warehouse.query(OUTLIVED, job=job, before=before, alive=[])
    return sorted(set(targets["run_id"].to_pylist()))


def purge_outlived(
    path: Path, job: str, before: datetime, *, alive: Collection[str], say: locks.Say | None = None
) -> Purged:
    """Erase the text of all runs of `job` that started before an instant, but for those in `alive`, and remove their
    folders; one with journals stays, as a provider may have its batches still.
    """
    with Warehouse.open(path, say=say) as warehouse:
        targets = warehouse.query(OUTLIVED, job=job, before=before, alive=list(alive))
    return _purge(path, targets, say, outlived=True)


def _purge(path: Path, targets: pa.Table, say: locks.Say | None, *, outlived: bool = False) -> Purged:
    runs = sorted(set(targets["run_id"].to_pylist()))
    mark = run_folder(path, UNFINISHED)
    if runs:
        private_dir(mark.parent)
        mark.touch(mode=0o600)
    with Warehouse.open(path, say=say) as warehouse:
        folders = {run_id: folder_to_change(path, run_id) for run_id in runs}
        files = 0
        for run_id, folder in folders.items():
            if folder is None:
                continue
            if outlived and not open_journals(folder):
                ingest_parts(warehouse, *missing_parts(warehouse, run_id, folder))
                files += 1
                remove(folder)
            else:
                files += _erase_files(folder, _ids(targets, run_id))
        for statement in ERASE:
            warehouse.execute(statement, tables={"targets": targets})
    for unfinished in path.parent.glob(f"{path.name}.v*.backup.tmp"):
        unfinished.unlink()
    if mark.exists():  # also what a purge before this one left in freed blocks
        _write_anew(path, say)
        mark.unlink()
    backups = tuple(sorted(path.parent.glob(f"{path.name}.v*.backup")))
    return Purged(tuple(runs), targets.num_rows, files, backups)


def _ids(targets: pa.Table, run_id: str) -> pa.Array:
    return targets.filter(pc.equal(targets["run_id"], run_id))["request_id"].combine_chunks()


# --- files -----------------------------------------------------------------------------------------------------------


def _erase_files(folder: Path, ids: pa.Array) -> int:
    clear_leftovers(folder)
    changed = sum(_erase_part(path, ids) for path in parts.of_run(folder))
    changed += sum(
        _erase_journal(path, set(ids.to_pylist())) for path in (folder / "journal").glob("*.jsonl")
    )
    return changed + _erase_frozen(folder, ids) + _erase_server_errors(folder, set(ids.to_pylist()))


def clear_leftovers(folder: Path) -> None:
    """Finish or remove what killed processes left half done in a run's folder: all of it can hold text."""
    settle(folder)
    for pattern in LEFTOVERS:
        for leftover in folder.glob(pattern):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _erase_server_errors(folder: Path, ids: set[str]) -> int:
    """What servers said of requests, which can quote them."""
    path = folder / SERVER_ERRORS
    if not path.exists():
        return 0
    lines = path.read_bytes().splitlines(keepends=True)
    other_lines = [line for line in lines if _request_of(line) not in {*ids, None}]
    if other_lines == lines:
        return 0
    write_whole(path, b"".join(other_lines))
    return 1


def _request_of(line: bytes) -> object:
    """The id in a line; None for a line that cannot be read, and that goes too."""
    try:
        return orjson.loads(line)["request_id"]
    except (ValueError, KeyError, TypeError):
        return None


def _erase_part(path: Path, ids: pa.Array) -> int:
    table = parts.read(path)
    has_text = pc.is_valid(pc.coalesce(*(table[column] for column in PART_TEXT)))
    hit = pc.and_(pc.is_in(table["request_id"], value_set=ids), has_text)
    if not pc.any(hit).as_py():
        return 0
    for column in PART_TEXT:
        at = table.schema.get_field_index(column)
        table = table.set_column(at, column, pc.if_else(hit, pa.scalar(None, pa.string()), table[column]))
    parts.put(table, path)
    return 1


def _erase_journal(path: Path, ids: set[str]) -> int:
    lines = path.read_bytes().splitlines(keepends=True)
    try:
        new = [erased_line(line, ids) if line.endswith(b"\n") else b"" for line in lines]
    except ValueError as error:
        raise JournalError(
            f"{path}: this journal is damaged and cannot be purged; delete it or mend it"
        ) from error
    if new == lines:
        return 0
    write_whole(path, b"".join(new))
    return 1


def erased_line(line: bytes, ids: set[str]) -> bytes:
    """Return a journal's line without the text of these requests. Raises ValueError: it is no record."""
    record = decode(line)
    if isinstance(record, Intent) or record.reply is None or record.reply.request_id not in ids:
        return line
    return encode(record._replace(reply=_erased(record)))


def _erased(outcome: Outcome) -> Answer | Failure:
    if isinstance(outcome.reply, Answer):
        return replace(outcome.reply, output="", reasoning=None, logprobs=None)
    assert outcome.reply is not None  # noqa: S101  (its caller has looked)
    return replace(outcome.reply, message=ERASED)


def _erase_frozen(folder: Path, ids: pa.Array) -> int:
    """All files of the frozen input anew, whole or not at all; 1 if any row was among `ids`."""
    sources = sorted((folder / "requests").glob("part-*.parquet"))
    if not any(_holds_text(source, ids) for source in sources):
        return 0
    with building(folder) as place:
        (place / "requests").mkdir()
        for source in sources:
            with (
                pq.ParquetFile(source) as file,
                pq.ParquetWriter(
                    place / "requests" / source.name, file.schema_arrow, compression="zstd"
                ) as out,
            ):
                for group in range(file.num_row_groups):
                    out.write_table(_without_text(file.read_row_group(group), ids))
    return 1


def _holds_text(source: Path, ids: pa.Array) -> bool:
    table = pq.read_table(source, columns=["request_id", "request_hash"])
    hit = pc.and_(pc.is_in(table["request_id"], value_set=ids), pc.not_equal(table["request_hash"], ""))
    return bool(pc.any(hit).as_py())


def _without_text(table: pa.Table, ids: pa.Array) -> pa.Table:
    hit = pc.is_in(table["request_id"], value_set=ids)
    blank: dict[str, str | None] = {"messages": "[]", "request_hash": "", **dict.fromkeys(FROZEN_TEXT)}
    for column, value in blank.items():
        at = table.schema.get_field_index(column)
        values = pc.if_else(hit, pa.scalar(value, pa.string()), table[column])
        table = table.set_column(at, table.schema.field(column), values)
    return table


# --- the database file -----------------------------------------------------------------------------------------------


def _write_anew(path: Path, say: locks.Say | None) -> None:
    """Copy what is live into a new file, and put that in the old one's place; again where others wrote meanwhile."""
    for _ in range(TRIES):
        if _written_anew(path, say):
            return
    raise StoreError(
        f"{path}: another process wrote to it meanwhile; the text is erased, but may linger in freed blocks of the file "
        "until the next purge"
    )


def _written_anew(path: Path, say: locks.Say | None) -> bool:
    beside = path.with_name(f".{path.name}.compact")
    beside.unlink(missing_ok=True)
    with locks.own_lock(path):
        con = locks.connect(path, say=say)
        try:
            con.execute("checkpoint")
            con.execute(f"attach {quoted(str(beside))} as fresh")
            con.execute(f"copy from database {name(_database(con))} to fresh")
            con.execute("detach fresh")
            before = _stamp(path)
        except duckdb.Error as error:
            beside.unlink(missing_ok=True)
            raise StoreError(locks.unwritten(path, error)) from error
        finally:
            con.close()
        return _replaced(beside, path, before)


def _database(con: duckdb.DuckDBPyConnection) -> str:
    ((found,),) = con.execute("select current_database()").fetchall()
    return str(found)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _replaced(new: Path, old: Path, before: tuple[int, int]) -> bool:
    """Rename over `old` under the lock that DuckDB takes too; False if others have it or have changed it."""
    os.chmod(new, 0o600)
    sync(new)
    handle = os.open(old, os.O_RDWR)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _stamp(old) != before:
            return False
        new.replace(old)
        sync(old.parent)
        time.sleep(SETTLE_SECONDS)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
        new.unlink(missing_ok=True)
    return True
