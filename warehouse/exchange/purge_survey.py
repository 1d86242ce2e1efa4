"""What an erasure would go into: runs, files and copies, looked at and left as they are."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from thirdshift.router.values import Outcome
from thirdshift.warehouse.exchange.purge import PART_TEXT, SERVER_ERRORS, TARGETS, erased_line
from thirdshift.warehouse.journal import parts
from thirdshift.warehouse.journal.records import decode
from thirdshift.warehouse.journal.run_folder import folder_to_change
from thirdshift.warehouse.store.store import Warehouse

UNKNOWN = """
select request_id from wanted anti join requests using (request_id) anti join rejects using (request_id) order by all
"""
CONFIGS = """
select run_id, config, published_at is not null as published from runs where run_id in (select run_id from targets)
"""


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file that holds text of requests to be erased."""

    path: Path
    requests: int
    """How many of them; a journal's or a part's attempts of one request count as one."""


@dataclass(frozen=True, slots=True)
class PurgeSurvey:
    """What an erasure would do."""

    runs: tuple[str, ...]
    requests: int
    """A request counts in each run that has it."""
    unknown: tuple[str, ...]
    """Ids that no run has, neither accepted nor refused."""
    files: tuple[TextFile, ...]
    copies: tuple[str, ...]
    """What holds the text too and is not erased, a sentence each."""


def survey(path: Path, *, request_ids: Collection[str] = (), before: datetime | None = None) -> PurgeSurvey:
    """Find what `purge` would erase with the same arguments. Raises StoreError as it does; changes nothing."""
    wanted = pa.table({"request_id": pa.array(sorted(set(request_ids)), pa.string())})
    with Warehouse.open(path) as warehouse:
        targets = warehouse.query(TARGETS, tables={"wanted": wanted}, before=before)
        unknown = warehouse.query(UNKNOWN, tables={"wanted": wanted})["request_id"].to_pylist()
        runs = warehouse.query(CONFIGS, tables={"targets": targets}).to_pylist()
    files: list[TextFile] = []
    for run_id in sorted(set(targets["run_id"].to_pylist())):
        folder = folder_to_change(path, run_id)
        if folder is not None:
            ids = targets.filter(pc.equal(targets["run_id"], run_id))["request_id"].combine_chunks()
            files += _files(folder, ids)
    names = tuple(sorted(set(targets["run_id"].to_pylist())))
    return PurgeSurvey(names, targets.num_rows, tuple(unknown), tuple(files), tuple(_copies(path, runs)))


def _files(folder: Path, ids: pa.Array) -> list[TextFile]:
    """The files of a run's folder in which these requests have text, with how many of them."""
    known = set(ids.to_pylist())
    counted = [(part, _in_part(part, ids)) for part in parts.of_run(folder)]
    counted += [(path, _in_journal(path, known)) for path in sorted((folder / "journal").glob("*.jsonl"))]
    counted += [
        (path, _in_frozen(path, ids)) for path in sorted((folder / "requests").glob("part-*.parquet"))
    ]
    errors = folder / SERVER_ERRORS
    counted += [(errors, _in_errors(errors, known))] if errors.exists() else []
    return [TextFile(path, requests) for path, requests in counted if requests]


def _in_part(path: Path, ids: pa.Array) -> int:
    table = parts.read(path)
    has_text = pc.is_valid(pc.coalesce(*(table[column] for column in PART_TEXT)))
    hit = table.filter(pc.and_(pc.is_in(table["request_id"], value_set=ids), has_text))
    return int(pc.count_distinct(hit["request_id"]).as_py())


def _in_frozen(path: Path, ids: pa.Array) -> int:
    table = pq.read_table(path, columns=["request_id", "request_hash"])
    hit = pc.and_(pc.is_in(table["request_id"], value_set=ids), pc.not_equal(table["request_hash"], ""))
    return int(pc.sum(hit).as_py() or 0)


def _in_journal(path: Path, ids: set[str]) -> int:
    found = set()
    for line in path.read_bytes().splitlines(keepends=True):
        with suppress(ValueError):  # `purge` names a damaged journal
            if erased_line(line, ids) != line:
                record = decode(line)
                found.add(record.reply.request_id if isinstance(record, Outcome) and record.reply else None)
    return len(found)


def _in_errors(path: Path, ids: set[str]) -> int:
    found = set()
    for line in path.read_bytes().splitlines():
        with suppress(ValueError, AttributeError):
            found.add(orjson.loads(line).get("request_id"))
    return len(found & ids)


def _copies(path: Path, runs: list[dict[str, Any]]) -> list[str]:
    """Name what holds the text and is not ours to erase, or is made anew by the next run."""
    copies = [
        f"{backup}: a migration's copy; delete it when it is not needed"
        for backup in sorted(path.parent.glob(f"{path.name}.v*.backup"))
    ]
    for run in runs:
        config = json.loads(run["config"] or "{}")
        output, copy = config.get("output"), config.get("warehouse_copy")
        if output and run["published"]:
            copies.append(f"{output['path']} (output: of run {run['run_id']}): what was published")
        if copy:
            copies.append(f"{copy} (warehouse_copy:): as it was, until the job's next run makes it anew")
        copies += [
            f"{endpoint.get('name')}: the provider's files of batches of run {run['run_id']} (delete_remote is not set)"
            for endpoint in config.get("endpoints") or ()
            if endpoint.get("mode") == "batch" and not endpoint.get("delete_remote")
        ]
    return list(dict.fromkeys(copies))
