"""Freeze any input for a run: accepted requests in `requests/`, refused rows in `rejects.parquet`, figures in
`frozen.json`.

The source is read once; every row is rendered, checked and staged as if it were to stand. Then the ids and hashes alone
are searched for repetitions: first for hashes that more than one row has, then (DuckDB, which can spill) for what repeats
among those. Where there is nothing, and no row is refused, what was staged is what is frozen; else a second pass numbers
what stands. What grows with the input is 8 bytes a row, 17 where it is numbered anew.

Of rows with one id the first that is acceptable stands. Leaders, with `dedupe`: the first of those with one hash.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
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
from thirdshift.warehouse.intake.frozen_writer import FROZEN, GROUP_ROWS, FrozenWriter
from thirdshift.warehouse.intake.messages import render, schema_problem
from thirdshift.warehouse.intake.rendering import RequestSpec, select_raw
from thirdshift.warehouse.intake.repetitions import Repetitions, find_repetitions
from thirdshift.warehouse.intake.sources import Scan, SqlSource, connect, find, quoted, scan_parquet, scan_sql
from thirdshift.warehouse.journal.files import building, private_dir, settle

__all__ = [
    "FROZEN", "InputSpec", "Intake", "RequestSpec", "SqlSource", "first_reasons", "freeze", "frozen", "gives_same_rows",
    "reject",
]  # fmt: skip

ID_TYPES = "id_types.json"
"""A file of the run's folder: column → DuckDB type, for the columns that make a request's id."""
STAGED = "staged"
"""A folder that is there while the input is read."""
DIGEST = "rows.digest"
"""A file of the run's folder: what tells whether an input still gives the rows that it gave, in whatever order."""
FLAWS = pa.schema([("source_row", pa.int64()), ("flaw", pa.string())])
REJECTS = pa.schema([("request_id", pa.string()), ("source_row", pa.int64()), ("reason", pa.string())])
ROW_HASH = "hash(request_id, request_hash, task, policy, metadata, reference, flaw)"


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


def freeze(spec: InputSpec, folder: Path, told: Callable[[int], None] = lambda _: None) -> Intake:
    """Read, check and store the input, whole or not at all; where that was done before, return what is there. `told` is
    called now and then with how many rows are read.

    Raises InputError: no such input, unreadable, a column missing, or no row that can be accepted.
    """
    private_dir(folder)
    known = frozen(folder)
    if known is not None:
        return known
    with building(folder) as place:
        con = connect(place)
        try:
            read = _texts_as_asked(_raw_batches(spec, con, place), spec.request)
            staged = _stage(read, place / STAGED / "requests", told)
            staged.select_from(con)
            (place / DIGEST).write_text(_digest(con, "staged"))
            repetitions = find_repetitions(con, staged.written.rows, spec.dedupe)
        finally:
            con.close()
        intake = (
            _all_stand(place, staged)
            if not (staged.flaws or repetitions)
            else _number(place, staged, repetitions)
        )
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
        source = _renumbered(
            folder, stays, _new_leaders(folder, stays, leader), rows_with_reasons.__getitem__
        )
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
    """Pass batches on, their texts composed where the job asks for it."""
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


@dataclass(frozen=True, slots=True)
class _Staged:
    """All rows of the source, rendered: each leads itself, and its `row` is its number in the source."""

    written: FrozenWriter
    flaws: Mapping[int, str]
    """Row of the source → why it is refused."""

    def select_from(self, con: duckdb.DuckDBPyConnection) -> None:
        """Make it the relation `staged`."""
        files = quoted(str(self.written.folder / "part-*.parquet"))
        rows = f"read_parquet({files}, hive_partitioning = false)"
        joined, flaw = "", "null::varchar as flaw"
        if self.flaws:
            flaws = {"source_row": list(self.flaws), "flaw": list(self.flaws.values())}
            con.register("flawed", pa.table(flaws, schema=FLAWS))
            joined, flaw = "left join flawed f using (source_row)", "f.flaw"
        con.execute(f"create temp view staged as select s.*, {flaw} from {rows} s {joined}")


def _stage(batches: Iterable[pa.RecordBatch], folder: Path, told: Callable[[int], None]) -> _Staged:
    written, flaws, first = FrozenWriter(folder), dict[int, str](), 0
    for batch in batches:
        rendered = render(batch, first)
        flaw = rendered.column("flaw")
        if flaw.null_count < len(flaw):
            flaws |= {first + at: text for at, text in enumerate(flaw.to_pylist()) if text is not None}
        rows = rendered.column("source_row")
        columns = {
            "row": rows,
            "leader": rows,
            **dict(zip(rendered.schema.names, rendered.columns, strict=True)),
        }
        written.add(pa.table([columns[name] for name in FROZEN.names], schema=FROZEN))
        first += batch.num_rows
        told(first)
    written.close()
    return _Staged(written, flaws)


# --- second pass: number what stands ------------------------------------------------------------------------

Numbered = tuple[pa.Table, pa.Table]
"""Accepted rows with FROZEN's columns, and refused rows with REJECTS' columns."""


def _all_stand(place: Path, staged: _Staged) -> Intake:
    """What was staged is what is frozen."""
    staged.written.folder.rename(place / "requests")
    (place / STAGED).rmdir()
    return _keep_rejects(place, staged.written, [], staged.written.rows)


def _number(place: Path, staged: _Staged, repetitions: Repetitions) -> Intake:
    rows, ids, requests = staged.written.rows, repetitions.ids, repetitions.requests
    keep, leader_of = np.ones(rows, np.bool_), np.arange(rows, dtype=np.int64)
    keep[np.fromiter(staged.flaws, np.int64, len(staged.flaws))] = False
    keep[ids["source_row"]] = False
    leader_of[requests["source_row"]] = requests["first"]
    first = dict(zip(ids["source_row"].tolist(), ids["first"].tolist(), strict=True))

    def reason(row: int) -> str:
        flaw = staged.flaws.get(row)
        return flaw if flaw is not None else f"request_id is that of row {first[row]}, which stands"

    intake = _write(place, _renumbered(place / STAGED, keep, leader_of, reason), rows)
    shutil.rmtree(place / STAGED)
    return intake


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
    folder: Path, stays: NDArray[np.bool_], leaders: NDArray[np.int64], reason: Callable[[int], str]
) -> Iterator[Numbered]:
    """By a row's number in `folder`: whether it stays, who leads it, why it is refused."""
    row_of = np.cumsum(stays, dtype=np.int64) - 1
    for batch in batches(folder, FROZEN.names):
        table = pa.Table.from_batches([batch])
        old = np.asarray(table["row"])
        mask = stays[old]
        accepted = table if mask.all() else table.filter(pa.array(mask))
        old_kept = old[mask]
        accepted = accepted.set_column(0, "row", pa.array(row_of[old_kept]))
        accepted = accepted.set_column(
            accepted.num_columns - 1, "leader", pa.array(row_of[leaders[old_kept]])
        )
        refused = table.select(["request_id", "source_row"]).filter(pa.array(~mask))
        reasons = pa.array([reason(row) for row in old[~mask].tolist()], pa.string())
        yield accepted, pa.table([*refused.columns, reasons], schema=REJECTS)


def _write(place: Path, numbered: Iterable[Numbered], source_rows: int, before: Path | None = None) -> Intake:
    """Write accepted and refused rows; `before` is a file of rejects that come first."""
    refused = [] if before is None else [pq.read_table(before)]
    requests = FrozenWriter(place / "requests")
    for accepted, bad in numbered:
        refused.extend([bad] if bad.num_rows else [])
        requests.add(accepted)
    requests.close()
    return _keep_rejects(place, requests, refused, source_rows)


def _keep_rejects(place: Path, requests: FrozenWriter, refused: list[pa.Table], source_rows: int) -> Intake:
    rejects = pa.concat_tables(refused) if refused else REJECTS.empty_table()
    pq.write_table(rejects.sort_by("source_row"), place / "rejects.parquet", compression="zstd")
    return Intake(requests.rows, rejects.num_rows, source_rows, requests.fingerprint, requests.tasks)


def first_reasons(rejects: Path) -> str:
    """Tell the first refused rows of a run's `rejects.parquet` with their reasons; an ellipsis stands for the others."""
    file = pq.ParquetFile(rejects)
    first = next(file.iter_batches(batch_size=3)).to_pylist()
    more = "; …" if file.metadata.num_rows > len(first) else ""
    return "; ".join(f"row {row['source_row']}: {row['reason']}" for row in first) + more


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
