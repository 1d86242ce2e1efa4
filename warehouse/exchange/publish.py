"""Write a run's results as Parquet for others: `job=…/run_id=…/part-*.parquet` under `output.path`, `manifest.json` last.

The rows are first exported beside the run, so that the warehouse is not held while an object store takes its time.
Published files are for others to read: their modes are those of the user's umask.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from thirdshift.warehouse.errors import PublishError, StoreUnreachable, WarehouseError, first_line, of_storage
from thirdshift.warehouse.intake.intake import id_types
from thirdshift.warehouse.intake.joined_ids import value_of
from thirdshift.warehouse.intake.sources import name, quoted
from thirdshift.warehouse.journal.files import private_dir
from thirdshift.warehouse.journal.run_folder import check_marked, run_folder
from thirdshift.warehouse.object_stores import PATIENT_TRIES, filesystem_of, meaning
from thirdshift.warehouse.store import locks, requests, runs
from thirdshift.warehouse.store.requests import pointer
from thirdshift.warehouse.store.store import Warehouse

PART_ROWS = 500_000
BATCH_ROWS = 8192
LEADING = ("request_id", "task", "endpoint", "model", "output", "valid")
TRAILING = (
    "score",
    "cost_usd",
    "unsettled_usd",
    "certificate_id",
    "error",
    "attempts",
    "finish_reason",
    "reasoning",
    "logprobs",
    "completed_at",
    "reused_from",
    "metadata",
)
TAKEN = frozenset({*LEADING, *TRAILING, "job", "run_id"})
CERTIFICATE_ID = "left(md5(concat_ws('/', run_id, coalesce(task, ''), epoch_us(issued_at))), 16)"
CERTIFICATES = f"""
select {CERTIFICATE_ID} as certificate_id, task, floor, confidence, basis, scorer, population, requests, scored,
       mean, lower_bound, certified, method, issued_at::varchar as issued_at
from certificates where run_id = $run_id order by task nulls first, issued_at desc
"""
ROWS = """
with paid as (
    select request_id, sum(cost_usd) filter (where status not in ('unsettled', 'reserved')) as settled_usd,
           sum(cost_usd) filter (where status in ('unsettled', 'reserved')) as unsettled_usd
    from ledger where run_id = $run_id and request_id is not null group by request_id
), claim as (
    select arg_max({certificate_id}, issued_at) as certificate_id from certificates
    where run_id = $run_id and task is null
), answered as (
    select r.*, coalesce(p.settled_usd, 0)::decimal(18,9) as cost_usd,
           coalesce(p.unsettled_usd, 0)::decimal(18,9) as unsettled_usd, c.certificate_id,
           case when json_valid(r.output) and coalesce(r.valid, true) then r.output end as parsed
    from results r left join paid p using (request_id) cross join claim c where r.run_id = $run_id
)
select {columns} from answered a left join requests q using (run_id, request_id) order by q.row
"""
"""A row's cost is what the run paid for its request, whoever was asked; a worker's idle hour belongs to no request."""
CAST_BACK = re.compile(
    r"(U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|DECIMAL\(\d+,\s?\d+\)|DOUBLE|FLOAT|UUID|DATE|BOOLEAN|VARCHAR|TIMESTAMP)"
)
"""Types whose text means the same value anywhere; an id of another type stays text."""
SQL_TYPES = {"string": "varchar", "integer": "bigint", "number": "double", "boolean": "boolean"}
"""JSON Schema's type → the column's. All else is JSON text."""


@dataclass(frozen=True, slots=True)
class Published:
    """Where a run's results were published."""

    path: str
    """The folder with the parts and the manifest."""
    rows: int
    files: tuple[str, ...]


def publish(
    warehouse: Path, run_id: str, destination: str, base: Path, *, say: locks.Say | None = None
) -> Published:
    """Write a run's results under `destination` (a folder, relative to `base`, or a URI), replacing an earlier try's.

    Raises PublishError: no such run, or the destination cannot be written; the results are in the warehouse in any case.
    """
    run_files = run_folder(warehouse, run_id)
    check_marked(run_files)
    place = run_files / "publish"
    shutil.rmtree(place, ignore_errors=True)
    target = _root(destination, base)
    try:
        with Warehouse.open(warehouse, say=say) as store:
            run = runs.get(store, run_id)
            if run is None:
                raise PublishError(f"there is no run {run_id} in {warehouse}")
            folder = private_dir(place)
            rows = _export(store, run_id, folder)
            claims = store.query(CERTIFICATES, run_id=run_id).to_pylist()
        named = f"job={quote(run['job'] or '', safe='')}", f"run_id={quote(run_id, safe='')}"
        target = _join(target, *named)
        facts = {"job": run["job"], "run_id": run_id, "rows": rows, "certificates": claims}
        return _send(folder, target, facts)
    except WarehouseError:
        raise
    except Exception as error:  # an object store's client has a tree of its own
        raise PublishError(
            f"output {target}: cannot be written: {of_storage(error, place) or meaning(error)}; the results are in "
            f"{warehouse}, and resuming the run publishes them"
        ) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


# --- export ----------------------------------------------------------------------------------------------------------


def _export(warehouse: Warehouse, run_id: str, folder: Path) -> int:
    """Write the run's results as local parts, in the order of the input; return how many rows."""
    ids = _ids(run_folder(warehouse.path, run_id))
    columns = ids | {column: f"a.{column}" for column in LEADING if column not in ids}
    columns |= _properties(warehouse, run_id, ids) | {column: f"a.{column}" for column in TRAILING}
    chosen = ", ".join(f"{expression} as {name(column)}" for column, expression in columns.items())
    query = ROWS.format(columns=chosen, certificate_id=CERTIFICATE_ID)
    rows = 0
    for number, table in enumerate(_pieces(warehouse.stream(query, BATCH_ROWS, run_id=run_id))):
        pq.write_table(table, folder / f"part-{number:05d}.parquet", compression="zstd")
        rows += table.num_rows
    return rows


def _pieces(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    pending: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        pending.append(batch)
        count += batch.num_rows
        if count >= PART_ROWS:
            yield pa.Table.from_batches(pending)
            pending, count = [], 0
    if pending:
        yield pa.Table.from_batches(pending)


def _ids(folder: Path) -> dict[str, str]:
    """Return the column and the SQL expression for `request_id` and the columns of the input that made it, each in its
    own type.
    """
    types = id_types(folder)
    ids = {"request_id": "a.request_id"}
    for place, (column, kind) in enumerate(types.items(), 1):
        if column in TAKEN - {"request_id"}:
            continue
        text = value_of("a.request_id", place, len(types))
        ids[column] = f"try_cast({text} as {kind})" if CAST_BACK.fullmatch(kind) else text
    return ids


def _properties(warehouse: Warehouse, run_id: str, ids: Mapping[str, str]) -> dict[str, str]:
    """Return the column and the SQL expression for each property of the run's response schemas."""
    types: dict[str, str] = {}
    for schema in requests.response_schemas(warehouse, run_id):
        for key, sql_type in _typed(schema).items():
            types[key] = sql_type if types.get(key, sql_type) == sql_type else "json"
    columns: dict[str, str] = {}
    taken = {column.lower() for column in (*TAKEN, *ids)}
    for key, kind in types.items():
        column = key
        while not column or column.lower() in taken:  # many readers tell names apart by their letters alone
            column = f"answer_{column}"
        taken.add(column.lower())
        columns[column] = _expression(key, kind)
    return columns


def _typed(schema: Mapping[str, Any]) -> dict[str, str]:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return {}
    return {str(key): _sql_type(value) for key, value in properties.items()}


def _sql_type(described: Any) -> str:
    kind = described.get("type") if isinstance(described, Mapping) else None
    kinds = [k for k in kind if k != "null"] if isinstance(kind, list) else [kind]
    if kinds == [None] and isinstance(described, Mapping):
        values = described.get("enum") or [described.get("const")]
        kinds = ["string"] if all(isinstance(v, str) for v in values) else [None]
    return SQL_TYPES.get(str(kinds[0]), "json") if len(kinds) == 1 else "json"


def _expression(key: str, kind: str) -> str:
    at = quoted(pointer(key))
    if kind == "json":
        return f"json_extract(a.parsed, {at})::varchar"
    return f"try_cast(json_extract_string(a.parsed, {at}) as {kind})"


# --- sending ---------------------------------------------------------------------------------------------------------


def _root(destination: str, base: Path) -> str:
    if "://" in destination:
        return destination.rstrip("/")
    return os.path.join(base, destination)


def _join(root: str, *names: str) -> str:
    return "/".join([root.rstrip("/"), *names])


def _send(folder: Path, target: str, facts: Mapping[str, Any]) -> Published:
    try:
        filesystem, path = (
            filesystem_of(target, tries=PATIENT_TRIES) if "://" in target else fsspec.core.url_to_fs(target)
        )
    except (ImportError, StoreUnreachable) as error:
        raise PublishError(f"output {target}: {first_line(error)}") from error
    filesystem.makedirs(path, exist_ok=True)
    manifest = f"{path}/manifest.json"
    if filesystem.exists(manifest):
        filesystem.rm_file(manifest)
    for stale in filesystem.glob(f"{path}/part-*.parquet"):
        filesystem.rm_file(stale)
    files = [_send_part(filesystem, part, path) for part in sorted(folder.glob("part-*.parquet"))]
    described = {
        **facts,
        "files": files,
        "columns": _columns(folder),
        "written_at": datetime.now(UTC).isoformat(),
    }
    filesystem.pipe_file(manifest, json.dumps(described, indent=1).encode())
    return Published(target, int(facts["rows"]), tuple(f"{target}/{file['path']}" for file in files))


def _send_part(filesystem: Any, part: Path, path: str) -> dict[str, Any]:
    local = "file" in (
        filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,)
    )
    goal = f"{path}/{part.name}"
    if local:  # a store shows an object when it is whole; a folder shows a file as it grows
        shutil.copyfile(part, f"{path}/.{part.name}.tmp")
        os.replace(f"{path}/.{part.name}.tmp", goal)
    else:
        filesystem.put_file(str(part), goal)
    return {"path": part.name, "rows": pq.read_metadata(part).num_rows, "bytes": part.stat().st_size}


def _columns(folder: Path) -> dict[str, str]:
    first = next(iter(sorted(folder.glob("part-*.parquet"))), None)
    return {} if first is None else {field.name: str(field.type) for field in pq.read_schema(first)}
