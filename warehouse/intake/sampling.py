"""Sample any input before there is a job for it: its columns, its first rows, which columns name a row."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa

from thirdshift.router.embeddings import NO_EMBEDDINGS, asks_for_embeddings
from thirdshift.warehouse.errors import InputError, first_line
from thirdshift.warehouse.intake.sources import (
    Files,
    Scan,
    SqlSource,
    connect,
    find,
    name,
    quoted,
    scan_parquet,
    scan_sql,
)

SAMPLE_ROWS = 2_000
_CSV = "read_csv({}, sample_size = -1, files_to_sniff = -1)"
_JSON = "read_json({}, sample_size = -1, maximum_sample_files = 1000000)"
"""A column's type is found in all lines. DuckDB 1.5 and 2.0 look at the first 20,480 by themselves: where those hold whole
numbers a later 0.5 becomes 0 or 1, and where they hold null 2.0 makes null of all that follows, without a word."""

READERS = {".csv": _CSV, ".tsv": _CSV, ".jsonl": _JSON, ".ndjson": _JSON, ".json": _JSON}
"""Endings of files that a query reads and `input:` does not take by themselves, to how DuckDB reads them."""


@dataclass(frozen=True, slots=True)
class InputSample:
    """An input's columns, its number of rows, and its first rows."""

    source: str
    """The input as it was named."""
    by_query: bool
    """Whether a job reads it by a query (`input: {sql: …}`)."""
    batch_file: bool
    """An OpenAI batch file, whose lines are requests already."""
    rows: int
    columns: Mapping[str, str]
    """Name → DuckDB's type, in order."""
    first: pa.Table = field(repr=False)
    distinct: Mapping[str, int] = field(default_factory=dict)
    """Column → how many values it has in all rows, nulls left out; of columns short enough to name or group a row."""


def sample(source: str, base: Path) -> InputSample:
    """Sample `source`; relative paths are from `base`. Raises InputError: no such input, or it is unreadable."""
    ending = Path(source.removesuffix(".gz")).suffix.lower()
    with tempfile.TemporaryDirectory(prefix="thirdshift-sample-") as folder:
        con = connect(Path(folder))
        try:
            if ending in READERS:
                return _by_query(con, source, base, READERS[ending])
            files = find(source, base)
            if files.jsonl:
                raise InputError(f"input {source}: name one .jsonl file to look at")
            return _sampled(scan_parquet(con, files), source)
        except duckdb.Error as error:
            raise InputError(f"input {source}: {first_line(error)}") from error
        finally:
            con.close()


def _by_query(con: duckdb.DuckDBPyConnection, source: str, base: Path, reader: str) -> InputSample:
    if reader == _JSON and _is_batch_file(find(source, base)):
        con.execute("set preserve_insertion_order = true")
        ids = f"read_json({quoted(source)}, columns = {{custom_id: 'VARCHAR'}})"
        seen = _sampled(scan_sql(con, SqlSource(f"select custom_id from {ids}"), base), source)
        return InputSample(source, False, True, seen.rows, {}, seen.first)
    scan = scan_sql(con, SqlSource(f"select * from {reader.format(quoted(source))}"), base)
    seen = _sampled(scan, source)
    return InputSample(source, True, False, seen.rows, seen.columns, seen.first, seen.distinct)


def _is_batch_file(files: Files) -> bool:
    with files.open(files.paths[0]) as handle:
        try:
            line = json.loads(handle.readline())
        except ValueError:
            return False
    if isinstance(line, dict) and asks_for_embeddings(line.get("url")):
        raise InputError(f"input {files.paths[0]}: {NO_EMBEDDINGS}")
    return isinstance(line, dict) and "custom_id" in line and "body" in line


def _sampled(scan: Scan, source: str) -> InputSample:
    con = scan.con
    first = con.execute(f"select * from {scan.relation} limit {SAMPLE_ROWS}").to_arrow_table()
    short = [column for column, kind in scan.columns.items() if _names_rows(kind)]
    counts = ", ".join(["count(*)", *(f"count(distinct {name(column)})" for column in short)])
    counted = next(iter(con.execute(f"select {counts} from {scan.relation}").fetchall()), None)
    rows, *distinct = counted or (0,)
    return InputSample(
        source, False, False, rows, scan.columns, first, dict(zip(short, distinct, strict=True))
    )


def _names_rows(kind: str) -> bool:
    """Return whether a column of this type can name or group rows."""
    return kind in ("VARCHAR", "UUID", "BOOLEAN", "DATE") or "INT" in kind or kind.startswith("ENUM")
