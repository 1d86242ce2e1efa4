"""Freeze any input for a run: accepted requests in `requests/`, refused rows in `rejects.parquet`, figures in
`frozen.json`.

Two passes. The first reads the source once, renders and checks every row and stages it. Then the ids and hashes alone
are searched for repetitions (DuckDB, which can spill). The second pass numbers what stands. What grows with the
input is 17 bytes a row.

Of rows with one id the first that is acceptable stands. Leaders, with `dedupe`: the first of those with one hash.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from thirdshift.warehouse.errors import InputError, first_line
from thirdshift.warehouse.intake import batch_file
from thirdshift.warehouse.intake.frozen import batches, column
from thirdshift.warehouse.intake.messages import RENDERED, render, schema_problem
from thirdshift.warehouse.intake.rendering import RequestSpec, select_raw
from thirdshift.warehouse.intake.sources import Scan, SqlSource, connect, find, quoted, scan_parquet, scan_sql
from thirdshift.warehouse.journal.files import building, private_dir, settle

__all__ = [
    "FROZEN", "InputSpec", "Intake", "RequestSpec", "SqlSource", "freeze", "frozen", "gives_same_rows", "reject",
]  # fmt: skip

GROUP_ROWS = 8192
FILE_ROWS = GROUP_ROWS * 128
FROZEN = pa.schema(
    [("row", pa.int64()), *((f.name, f.type) for f in RENDERED if f.name != "flaw"), ("leader", pa.int64())]
)
ID_TYPES = "id_types.json"
"""A file of the run's folder: column → DuckDB type, for the columns that make a request's id."""
DIGEST = "rows.digest"
"""A file of the run's folder: what tells whether an input still gives the rows that it gave, in whatever order."""
REJECTS = pa.schema([("request_id", pa.string()), ("source_row", pa.int64()), ("reason", pa.string())])
ROW_HASH = "hash(request_id, request_hash, task, policy, metadata, reference, flaw)"
REPEATED = [
    "task",
    "policy",
    "metadata",
    "tools",
    "max_tokens",
    "temperature",
    "sampling",
    "response_schema",
    "reference",
]
"""Columns worth a dictionary; texts and hashes are not."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """Which input a job has, and how its rows become requests."""

    source: str | SqlSource
    base: Path
    """The folder that relative paths are from."""
    request: RequestSpec | None = None
    dedupe: bool = True


@dataclass(frozen=True, slots=True)
class Intake:
    """Figures of a frozen input."""

    rows: int
    """How many rows were accepted."""
    rejects: int
    source_rows: int
    fingerprint: str
    """Fingerprint of the accepted ids, hashes and tasks, in order."""
    tasks: tuple[str, ...]


def freeze(spec: InputSpec, folder: Path) -> Intake:
    """Read, check and store the input, whole or not at all; where that was done before, return what is there.

    Raises InputError: no such input, unreadable, a column missing, or no row that can be accepted.
    """
    private_dir(folder)
    known = frozen(folder)
    if known is not None:
        return known
    with building(folder) as place:
        staged = place / "staged.parquet"
        con = connect(place)
        try:
            rows = _stage(_texts_as_asked(_raw_batches(spec, con, place), spec.request), staged)
            (place / DIGEST).write_text(_digest(con, f"read_parquet({quoted(str(staged))})"))
            keep, leader_of, repeated = _find_repetitions(con, staged, rows, spec.dedupe)
        finally:
            con.close()
        intake = _write(place, _numbered(staged, keep, leader_of, repeated), rows)
        staged.unlink()
        _check_some_row(intake, place, spec)
        (place / "frozen.json").write_text(json.dumps(asdict(intake)))
    return intake


def id_types(folder: Path) -> dict[str, str]:
    """Return the columns of the input that make a request's id, in order, each with its DuckDB type; empty where the
    input is a batch file, or was frozen by an earlier version."""
    path = folder / ID_TYPES
    return json.loads(path.read_text()) if path.exists() else {}


def frozen(folder: Path) -> Intake | None:
    """Return what was frozen in `folder`; None if nothing was, or not to the end."""
    settle(folder)
    path = folder / "frozen.json"
    if not path.exists():
        return None
    figures = json.loads(path.read_text())
    return Intake(**(figures | {"tasks": tuple(figures["tasks"])}))


def gives_same_rows(spec: InputSpec, folder: Path) -> bool:
    """Return whether the input, read anew, gives the rows that were frozen in `folder`; False where nothing was.

    Raises InputError as `freeze` does.
    """
    kept = folder / DIGEST
    if frozen(folder) is None or not kept.exists():
        return False
    count, total = 0, 0
    # the folder is for spilling; the rows themselves are not written down
    with TemporaryDirectory() as place, connect(Path(place)) as con, duckdb.connect() as hashing:
        for batch in _texts_as_asked(_raw_batches(spec, con, Path(place)), spec.request):
            hashing.register("rendered", render(batch, count))
            total += int(_digest(hashing, "rendered").partition(":")[2])
            count += batch.num_rows
    return kept.read_text() == f"{count}:{total}"


def _digest(con: duckdb.DuckDBPyConnection, relation: str) -> str:
    (row,) = con.execute(f"select count(*), coalesce(sum({ROW_HASH}::hugeint), 0) from {relation}").fetchall()
    return f"{row[0]}:{row[1]}"


def reject(
    folder: Path, rows_with_reasons: Mapping[int, str], leader: NDArray[np.int64] | None = None
) -> Intake:
    """Refuse more rows (row → reason) and number the rest anew; only before anything was sent: `row` changes its meaning.

    `leader` gives the leader of each row in place of the one frozen. Raises InputError: nothing is frozen in `folder`.
    """
    known = frozen(folder)
    if known is None:
        raise InputError(f"{folder}: there is no frozen input")
    if not rows_with_reasons and leader is None:
        return known
    stays = np.ones(known.rows, dtype=np.bool_)
    stays[np.fromiter(rows_with_reasons, np.int64, len(rows_with_reasons))] = False
    with building(folder) as place:
        source = _renumbered(folder, stays, _new_leaders(folder, stays, leader), rows_with_reasons)
        intake = _write(place, source, known.source_rows, before=folder / "rejects.parquet")
        (place / "frozen.json").write_text(json.dumps(asdict(intake)))
    return intake


# --- first pass: read, render, stage ------------------------------------------------------------------------


def _raw_batches(spec: InputSpec, con: duckdb.DuckDBPyConnection, place: Path) -> Iterator[pa.RecordBatch]:
    request = spec.request or RequestSpec()
    problem = None if request.response_schema is None else schema_problem(request.response_schema)
    if problem is not None:
        raise InputError(f"request.{problem}")
    if isinstance(spec.source, SqlSource):
        return _scanned(scan_sql(con, spec.source, spec.base), request, place)
    files = find(spec.source, spec.base)
    if files.jsonl:
        return batch_file.read(files, request)
    return _scanned(scan_parquet(con, files, request.id or ("request_id",)), request, place)


def _texts_as_asked(raw: Iterable[pa.RecordBatch], request: RequestSpec | None) -> Iterator[pa.RecordBatch]:
    """The same, texts composed where the job asks for it."""
    for batch in raw:
        if request is not None and request.compose:
            for column in ("prompt", "messages", "system"):
                place = batch.schema.get_field_index(column)
                text = batch.column(place).cast(pa.string())
                batch = batch.set_column(place, column, pc.utf8_normalize(text, "NFC"))  # noqa: PLW2901
        yield batch


def _scanned(scan: Scan, request: RequestSpec, place: Path) -> Iterator[pa.RecordBatch]:
    named = {column: scan.columns.get(column) for column in request.id or ("request_id",)}
    (place / ID_TYPES).write_text(json.dumps(named))
    query = f"select {select_raw(scan.columns, request, scan.described)} from {scan.relation}"
    try:
        yield from scan.con.sql(query, params=dict(scan.bound)).to_arrow_reader(GROUP_ROWS)
    except duckdb.ConversionException as error:  # its message would hold the value
        raise InputError(
            f"input {scan.described}: a value cannot be converted to the type that the query asks"
        ) from error
    except (duckdb.Error, OSError) as error:
        raise InputError(f"input {scan.described}: {first_line(error)}") from error


def _stage(batches: Iterable[pa.RecordBatch], path: Path) -> int:
    rows = 0
    with pq.ParquetWriter(path, RENDERED, compression="lz4", use_dictionary=REPEATED) as writer:
        for batch in batches:
            writer.write_batch(render(batch, rows))
            rows += batch.num_rows
    return rows


# --- repetitions --------------------------------------------------------------------------------------------

FIRST = """
    select s.source_row, f.first from read_parquet({staged}) s
    join (select {key}, min(source_row) as first from read_parquet({staged}) where flaw is null {but}
          group by {key} having count(*) > 1) f using ({key})
    where s.flaw is null and s.source_row > f.first {but_s}
"""
"""Accepted rows that repeat an earlier one, each with the first."""


def _find_repetitions(
    con: duckdb.DuckDBPyConnection, staged: Path, rows: int, dedupe: bool
) -> tuple[NDArray[np.bool_], NDArray[np.int64], dict[str, NDArray[np.int64]]]:
    """Return, by source row, whether it stands and its leader's source row; and repeated ids as source rows with firsts."""
    name = quoted(str(staged))
    sound = con.execute(f"select source_row from read_parquet({name}) where flaw is null").fetchnumpy()[
        "source_row"
    ]
    keep = np.zeros(rows, dtype=np.bool_)
    keep[np.asarray(sound, np.int64)] = True
    con.execute(
        "create temp table repeated as " + FIRST.format(staged=name, key="request_id", but="", but_s="")
    )
    repeated = {
        k: np.asarray(v, np.int64) for k, v in con.execute("from repeated order by 1").fetchnumpy().items()
    }
    keep[repeated["source_row"]] = False
    leader_of = np.arange(rows, dtype=np.int64)
    if dedupe:
        but = "and source_row not in (select source_row from repeated)"
        but_s = "and s.source_row not in (select source_row from repeated)"
        query = FIRST.format(staged=name, key="request_hash", but=but, but_s=but_s)
        followers = con.execute(query).fetchnumpy()
        leader_of[np.asarray(followers["source_row"], np.int64)] = followers["first"]
    return keep, leader_of, repeated


# --- second pass: number what stands ------------------------------------------------------------------------

Numbered = tuple[pa.Table, pa.Table]
"""Accepted rows with FROZEN's columns, and refused rows with REJECTS' columns."""


def _numbered(
    staged: Path,
    keep: NDArray[np.bool_],
    leader_of: NDArray[np.int64],
    repeated: Mapping[str, NDArray[np.int64]],
) -> Iterator[Numbered]:
    row_of = np.cumsum(keep, dtype=np.int64) - 1
    for batch in pq.ParquetFile(staged).iter_batches(GROUP_ROWS):
        table = pa.Table.from_batches([batch])
        source = np.asarray(table["source_row"])
        mask = keep[source]
        yield _accepted(table.filter(pa.array(mask)), row_of, leader_of), _refused(table, mask, repeated)


def _accepted(table: pa.Table, row_of: NDArray[np.int64], leader_of: NDArray[np.int64]) -> pa.Table:
    source = np.asarray(table["source_row"])
    table = table.append_column("row", pa.array(row_of[source]))
    return (
        table.append_column("leader", pa.array(row_of[leader_of[source]])).select(FROZEN.names).cast(FROZEN)
    )


def _refused(table: pa.Table, mask: NDArray[np.bool_], repeated: Mapping[str, NDArray[np.int64]]) -> pa.Table:
    bad = table.filter(pa.array(~mask)).select(["request_id", "source_row", "flaw"])
    at = np.searchsorted(repeated["source_row"], np.asarray(bad["source_row"]))
    reasons = [
        flaw if flaw is not None else f"request_id is that of row {repeated['first'][i]}, which stands"
        for flaw, i in zip(bad["flaw"].to_pylist(), at, strict=True)
    ]
    return pa.table([bad["request_id"], bad["source_row"], pa.array(reasons, pa.string())], schema=REJECTS)


def _new_leaders(
    folder: Path, stays: NDArray[np.bool_], leader: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """Return, for each old row, the old row that leads it now: the first of its group that stays."""
    leader = np.asarray(column(folder, "leader")) if leader is None else leader
    first = np.full(len(leader), len(leader), dtype=np.int64)
    rows = np.flatnonzero(stays)
    np.minimum.at(first, leader[rows], rows)
    new_leaders: NDArray[np.int64] = first[leader]
    return new_leaders


def _renumbered(
    folder: Path, stays: NDArray[np.bool_], leaders: NDArray[np.int64], reasons: Mapping[int, str]
) -> Iterator[Numbered]:
    row_of = np.cumsum(stays, dtype=np.int64) - 1
    for batch in batches(folder, FROZEN.names):
        table = pa.Table.from_batches([batch])
        old = np.asarray(table["row"])
        mask = stays[old]
        accepted = table.filter(pa.array(mask))
        old_kept = old[mask]
        accepted = accepted.set_column(0, "row", pa.array(row_of[old_kept]))
        accepted = accepted.set_column(
            accepted.num_columns - 1, "leader", pa.array(row_of[leaders[old_kept]])
        )
        refused = table.filter(pa.array(~mask)).select(["request_id", "source_row"])
        reason = pa.array([reasons[int(row)] for row in old[~mask]], pa.string())
        yield accepted, refused.append_column("reason", reason)


def _write(place: Path, numbered: Iterable[Numbered], source_rows: int, before: Path | None = None) -> Intake:
    """Write accepted and refused rows; `before` is a file of rejects that come first."""
    digest = blake2b(digest_size=16)
    tasks: Counter[str] = Counter()
    refused = [] if before is None else [pq.read_table(before)]
    requests = _Parts(private_dir(place / "requests"))
    for accepted, bad in numbered:
        refused.extend([bad] if bad.num_rows else [])
        requests.add(accepted)
        for name in ("request_id", "request_hash", "task"):
            digest.update("\n".join(accepted[name].to_pylist()).encode())
        tasks.update(accepted["task"].unique().to_pylist())
    requests.close()
    rejects = pa.concat_tables(refused) if refused else REJECTS.empty_table()
    pq.write_table(rejects.sort_by("source_row"), place / "rejects.parquet", compression="zstd")
    return Intake(requests.rows, rejects.num_rows, source_rows, digest.hexdigest(), tuple(sorted(tasks)))


class _Parts:
    """Parquet files of FROZEN's columns whose row groups are full but the last of each file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, 0
        self._held: list[pa.Table] = []
        self._held_rows = 0
        self._writer: pq.ParquetWriter | None = None

    def add(self, table: pa.Table) -> None:
        self._held.append(table)
        self._held_rows += table.num_rows
        if self._held_rows >= GROUP_ROWS:
            pending = pa.concat_tables(self._held)
            whole = pending.num_rows - pending.num_rows % GROUP_ROWS
            self._put(pending.slice(0, whole))
            self._held, self._held_rows = [pending.slice(whole)], pending.num_rows - whole

    def close(self) -> None:
        if self._held_rows or self._writer is None:
            self._put(pa.concat_tables(self._held) if self._held else FROZEN.empty_table())
        if self._writer is not None:
            self._writer.close()

    def _put(self, table: pa.Table) -> None:
        if self._writer is not None and self.rows % FILE_ROWS == 0:
            self._writer.close()
            self._writer = None
        if self._writer is None:
            path = self.folder / f"part-{self.rows // FILE_ROWS:05d}.parquet"
            self._writer = pq.ParquetWriter(path, FROZEN, compression="zstd", use_dictionary=REPEATED)
        self._writer.write_table(table, row_group_size=GROUP_ROWS)
        self.rows += table.num_rows


def _check_some_row(intake: Intake, place: Path, spec: InputSpec) -> None:
    if intake.rows:
        return
    shown = "the query" if isinstance(spec.source, SqlSource) else spec.source
    if not intake.source_rows:
        raise InputError(f"input {shown}: it holds no row")
    reasons = pc.value_counts(pq.read_table(place / "rejects.parquet")["reason"]).to_pylist()
    most: Any = max(reasons, key=lambda entry: entry["counts"])
    raise InputError(
        f"input {shown}: none of its {intake.source_rows} rows is acceptable; "
        f"{most['counts']} of them: {most['values']}"
    )
