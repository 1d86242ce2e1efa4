"""Where rows come from: a file, a glob, a directory, an object store, a batch file, or a query, as one
thing to scan.

Files are taken in the order of their names, so that a row has the same position whenever it is read.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pyarrow.parquet as pq

from thirdshift.warehouse.errors import InputError, first_line, nearest

JSONL = (".jsonl", ".ndjson")
MAGIC = frozenset("*?[")
MEMORY_LIMIT = "1GB"
"""For DuckDB while it reads input; beyond it spills. A row group of 122,880 rows with prompts of 4 kB takes
half of this."""


@dataclass(frozen=True, slots=True)
class SqlSource:
    """Rows that a query gives, in the order it gives them; `order by` makes that order sure."""

    sql: str = field(repr=False)
    attach: Mapping[str, str] = field(default_factory=dict)
    """Alias → what DuckDB's `attach` takes; attached read-only."""


@dataclass(frozen=True, slots=True)
class Files:
    paths: tuple[str, ...]
    """Local paths or URIs, sorted."""
    jsonl: bool
    filesystem: Any = None
    """fsspec's, for URIs; None for local files."""

    def open(self, path: str) -> Any:
        """A binary file; gzip is undone for `.gz`."""
        compression = "gzip" if path.endswith(".gz") else None
        if self.filesystem is None:
            return fsspec.open(path, "rb", compression=compression).open()
        return self.filesystem.open(path, "rb", compression=compression)


@dataclass(frozen=True, slots=True)
class Scan:
    """Something DuckDB can select from."""

    con: duckdb.DuckDBPyConnection
    relation: str
    """What follows `from`."""
    columns: Mapping[str, str]
    """Name → DuckDB's type, in order."""
    described: str
    """How messages call it."""


def find(source: str, base: Path) -> Files:
    """The files behind `source`; relative paths are from `base`. InputError if there are none."""
    if source.startswith("file://"):
        source = source.removeprefix("file://")
    if "://" in source:
        return _find_remote(source)
    path = source if os.path.isabs(source) else str(base / source)
    if os.path.isdir(path):
        names = _in_directory(path)
    elif MAGIC & set(source) and not os.path.exists(path):
        names = sorted(n for n in glob.glob(path, recursive=True) if os.path.isfile(n))
    else:
        names = [path] if os.path.exists(path) else []
    if not names:
        raise InputError(f"input {source}: no such file{_nearest_file(path)}")
    return _files(names, source, None)


def _in_directory(path: str) -> list[str]:
    names = sorted(glob.glob(glob.escape(path) + "/**/*.parquet", recursive=True))
    for ending in JSONL:
        names = names or sorted(glob.glob(glob.escape(path) + f"/**/*{ending}", recursive=True))
    if not names:
        raise InputError(
            f"input {path}: the directory holds no .parquet file; name a file, a glob or another directory"
        )
    return names


def _nearest_file(path: str) -> str:
    folder, name = os.path.split(path)
    if MAGIC & set(path):
        return "; the pattern matches nothing"
    if not os.path.isdir(folder):
        return f"; the folder {folder} does not exist"
    return nearest(name, sorted(n for n in os.listdir(folder) if n.endswith((".parquet", *JSONL))))


def _find_remote(uri: str) -> Files:
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        if MAGIC & set(path):
            names = filesystem.glob(path)
        elif filesystem.isdir(path):
            names = filesystem.glob(path.rstrip("/") + "/**/*.parquet") or filesystem.glob(
                path.rstrip("/") + "/**/*.jsonl"
            )
        else:
            names = [path] if filesystem.exists(path) else []
    except ImportError as error:
        raise InputError(f"input {uri}: {first_line(error)}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"input {uri}: cannot be listed: {first_line(error)}") from error
    if not names:
        raise InputError(
            f"input {uri}: nothing there matches; check the bucket, the path and the credentials"
        )
    return _files(sorted(filesystem.unstrip_protocol(n) for n in names), uri, filesystem)


def _files(names: Sequence[str], source: str, filesystem: Any) -> Files:
    kinds = {n.removesuffix(".gz").endswith(JSONL) for n in names}
    if len(kinds) > 1:
        raise InputError(
            f"input {source}: Parquet and JSONL files together; name one kind, for example *.parquet"
        )
    return Files(tuple(names), kinds.pop(), filesystem)


def connect(folder: Path) -> duckdb.DuckDBPyConnection:
    """A DuckDB of our own for reading input: bounded memory, spilling into `folder`, order kept."""
    con = duckdb.connect(
        config={
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": str(folder),
            "threads": 2,
        }
    )
    con.execute("set enable_progress_bar = false")
    con.execute("set python_enable_replacements = false")
    con.execute("set timezone = 'UTC'")
    return con


def scan_parquet(con: duckdb.DuckDBPyConnection, files: Files) -> Scan:
    """Parquet files as one relation; every footer is read first, so that an unreadable file is named."""
    seen: set[str] = set()
    for path in files.paths:
        try:
            with files.open(path) as handle:
                seen |= set(pq.read_schema(handle).names)
        except Exception as error:  # pyarrow's and fsspec's are many: all mean unreadable
            other = f'; other formats: input: {{sql: "select * from {quoted(path)}"}}'
            hint = other if path.endswith((".csv", ".tsv", ".json", ".csv.gz")) else ""
            raise InputError(f"input {path}: cannot be read as Parquet: {first_line(error)}{hint}") from error
    if files.filesystem is not None:
        con.register_filesystem(files.filesystem)
    names = ", ".join(quoted(path) for path in files.paths)
    relation = f"read_parquet([{names}], union_by_name = true, hive_types_autocast = false)"
    described = (
        files.paths[0] if len(files.paths) == 1 else f"{files.paths[0]} and {len(files.paths) - 1} more"
    )
    return Scan(con, relation, _columns(con, relation, described), described)


def scan_sql(con: duckdb.DuckDBPyConnection, source: SqlSource, base: Path) -> Scan:
    """A query's rows; relative file names in it are from `base`."""
    con.execute(f"set file_search_path = {quoted(str(base))}")
    for alias, target in source.attach.items():
        try:
            con.execute(f"attach {quoted(target)} as {name(alias)} (read_only)")
        except duckdb.Error as error:
            raise InputError(f"input attach {alias}: {first_line(error)}") from error
    relation = f"({source.sql.strip().rstrip(';')}\n)"
    return Scan(con, relation, _columns(con, relation, "sql"), "sql")


def _columns(con: duckdb.DuckDBPyConnection, relation: str, described: str) -> dict[str, str]:
    try:
        rows = con.execute(f"describe select * from {relation}").fetchall()
    except duckdb.Error as error:
        raise InputError(f"input {described}: {first_line(error)}") from error
    return {str(row[0]): str(row[1]) for row in rows}


def quoted(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def name(text: str) -> str:
    """A SQL identifier."""
    return '"' + text.replace('"', '""') + '"'
