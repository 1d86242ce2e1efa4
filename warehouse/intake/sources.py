"""Where rows come from: a file, a glob, a directory, an object store, a batch file, or a query, as one
thing to scan.

Files are taken in the order of their names, so that a row has the same position whenever it is read.
"""

from __future__ import annotations

import glob
import gzip
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from thirdshift.warehouse.errors import InputError, StoreUnreachable, first_line, nearest
from thirdshift.warehouse.intake.query_files import check_named
from thirdshift.warehouse.memory import memory_limit

JSONL = (".jsonl", ".ndjson")
MAGIC = frozenset("*?[")
MEMORY_SHARE, MOST_BYTES = 0.5, 1 << 30
"""For DuckDB while it reads input; beyond it spills. A row group of 122,880 rows with prompts of 4 kB takes
half of the most."""


@dataclass(frozen=True, slots=True)
class SqlSource:
    """Rows that a query gives, in the order it gives them; `order by` makes that order sure."""

    sql: str = field(repr=False)
    attach: Mapping[str, str] = field(default_factory=dict)
    """Alias → what DuckDB's `attach` takes; attached read-only."""
    bound: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Values of `$name` in the query."""


@dataclass(frozen=True, slots=True)
class Files:
    """The files of an input, of one kind, in the order of their names."""

    paths: tuple[str, ...]
    """Local paths or URIs, sorted."""
    jsonl: bool
    filesystem: Any = None
    """fsspec's, for URIs; None for local files."""

    def open(self, path: str) -> Any:
        """A binary file; gzip is undone for `.gz`."""
        if self.filesystem is None:
            return gzip.open(path) if path.endswith(".gz") else open(path, "rb")
        compression = "gzip" if path.endswith(".gz") else None
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
    bound: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Values of the relation's `$name`."""


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
    for name in names:
        if not os.path.isfile(name):
            raise InputError(
                f"input {name}: is no file (a named pipe, a socket or a device), and an input is read more than once; "
                "write it to a file first"
            )
    return _files(names, source, None)


def _in_directory(path: str) -> list[str]:
    names = _shown(glob.glob(glob.escape(path) + "/**/*.parquet", recursive=True), path)
    for ending in JSONL:
        names = names or _shown(glob.glob(glob.escape(path) + f"/**/*{ending}", recursive=True), path)
    if not names:
        raise InputError(
            f"input {path}: the directory holds no .parquet file; name a file, a glob or another directory"
        )
    return names


def _shown(names: Iterable[str], folder: str) -> list[str]:
    """Those, in order, that no name within `folder` hides: what begins with `_` or `.` is under way, or no data, to all
    that write such folders (`_temporary/`, `.part.parquet.tmp`); a partition (`_day=1`) is not hidden."""
    hidden = re.compile(r"(^|/)(\.|_(?![^/]*=[^/]*/))")
    return sorted(name for name in names if not hidden.search(name[len(folder.rstrip("/")) + 1 :]))


def _nearest_file(path: str) -> str:
    folder, name = os.path.split(path)
    if MAGIC & set(path):
        return "; the pattern matches nothing"
    if not os.path.isdir(folder):
        return f"; the folder {folder} does not exist"
    return nearest(name, sorted(n for n in os.listdir(folder) if n.endswith((".parquet", *JSONL))))


def _find_remote(uri: str) -> Files:
    from thirdshift.warehouse.object_stores import check_bucket, filesystem_of, meaning

    try:
        filesystem, path = filesystem_of(uri)
        if MAGIC & set(path):
            names = filesystem.glob(path)
        elif filesystem.isdir(path):
            names = _shown(filesystem.glob(path.rstrip("/") + "/**/*.parquet"), path) or _shown(
                filesystem.glob(path.rstrip("/") + "/**/*.jsonl"), path
            )
        else:
            names = [path] if filesystem.exists(path) else []
        if not names:
            check_bucket(filesystem, path)
    except StoreUnreachable as error:
        raise InputError(f"input {error}") from error
    except ImportError as error:
        raise InputError(f"input {uri}: {first_line(error)}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"input {uri}: cannot be listed: {meaning(error)}") from error
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
    """A DuckDB of our own for reading input: bounded memory, spilling into `folder`, order kept.

    One thread: rendering rows takes longer than reading them, and a second one doubles the processor time of that.
    """
    con = duckdb.connect(
        config={
            "memory_limit": memory_limit(MEMORY_SHARE, MOST_BYTES),
            "temp_directory": str(folder),
            "threads": 1,
        }
    )
    con.execute("set enable_progress_bar = false")
    con.execute("set enable_external_file_cache = false")  # every file is read once
    con.execute("set python_enable_replacements = false")
    con.execute("set timezone = 'UTC'")
    return con


def scan_parquet(con: duckdb.DuckDBPyConnection, files: Files, ids: Sequence[str] = ("request_id",)) -> Scan:
    """Parquet files as one relation; every footer is read first, so that an unreadable file is named.

    `ids`: columns that are an id; InputError where they would not stay what they are.
    """
    kinds: dict[str, tuple[str, Any]] = {}
    filled = []
    for path in files.paths:
        try:
            with files.open(path) as handle:
                footer = pq.ParquetFile(handle)
                schema, rows = footer.schema_arrow, footer.metadata.num_rows
        except Exception as error:  # pyarrow's and fsspec's are many: all mean unreadable
            other = f'; other formats: input: {{sql: "select * from {quoted(path)}"}}'
            hint = other if path.endswith((".csv", ".tsv", ".json", ".csv.gz")) else ""
            raise InputError(f"input {path}: cannot be read as Parquet: {first_line(error)}{hint}") from error
        if not rows:  # without a value its types say nothing: pandas makes a double of every column
            continue
        filled.append(path)
        for column in set(ids) & set(schema.names):
            if schema.names.count(column) > 1:
                raise InputError(
                    f'input {path}: has two columns called "{column}"; give each a name of its own'
                )
            _check_drift(column, path, schema.field(column).type, kinds)
    if files.filesystem is not None:
        con.register_filesystem(files.filesystem)
    names = ", ".join(quoted(path) for path in filled or files.paths)
    relation = f"read_parquet([{names}], union_by_name = true, hive_types_autocast = false)"
    described = (
        files.paths[0] if len(files.paths) == 1 else f"{files.paths[0]} and {len(files.paths) - 1} more"
    )
    return Scan(con, relation, _columns(con, relation, described), described)


def _check_drift(column: str, path: str, kind: Any, kinds: dict[str, tuple[str, Any]]) -> None:
    """An id that is whole in one file and a double in another would be rounded, and two could become one."""
    first, other = kinds.setdefault(column, (path, kind))
    if pa.types.is_floating(kind) != pa.types.is_floating(other):
        whole, double = (path, first) if pa.types.is_floating(other) else (first, path)
        raise InputError(
            f'input {double}: column "{column}" is a double there and {other if whole == first else kind} in {whole}: read '
            "together, ids would be rounded and two could become one; write the files alike (pandas makes a column with "
            "gaps a double: use Int64)"
        )


def scan_sql(con: duckdb.DuckDBPyConnection, source: SqlSource, base: Path) -> Scan:
    """The rows of one question; relative file names in it are from `base`.

    What the job attaches may fetch the extension that it needs. The question itself gets none from the network, changes
    no setting, and reaches object stores as all other input does.
    """
    from thirdshift.warehouse.object_stores import filesystems_in

    con.execute("set threads = 2")  # the question may be a hard one
    con.execute(f"set file_search_path = {quoted(str(base))}")
    for alias, target in source.attach.items():
        try:
            con.execute(f"attach {quoted(target)} as {name(alias)} (read_only)")
        except duckdb.Error as error:
            raise InputError(f"input attach {alias}: {first_line(error)}") from error
    try:
        for filesystem in filesystems_in(source.sql):
            con.register_filesystem(filesystem)
    except (StoreUnreachable, ImportError) as error:
        raise InputError(f"input sql: {error}") from error
    con.execute("set autoinstall_known_extensions = false")
    con.execute("set lock_configuration = true")
    relation = f"({source.sql.strip().rstrip(';')}\n)"
    used = _params(con, relation)
    missing = sorted(used - set(source.bound))
    if missing:
        raise InputError(
            f"input sql: no param called {missing[0]}, which ${missing[0]} needs{nearest(missing[0], source.bound)}"
        )
    bound = {param: source.bound[param] for param in sorted(used)}
    check_named(con, relation, bound)
    return Scan(con, relation, _columns(con, relation, "sql", bound), "sql", bound)


def _params(con: duckdb.DuckDBPyConnection, relation: str) -> set[str]:
    """The params that one read-only statement names. InputError: several statements, or one that changes something."""
    try:
        statements = con.extract_statements(f"select * from {relation}")
        *before, last = [statement.type for statement in statements]
    except duckdb.Error as error:
        raise InputError(f"input sql: must be one question (select …): {first_line(error)}") from error
    # a pivot makes a type of its own first
    if last != duckdb.StatementType.SELECT or set(before) - {duckdb.StatementType.CREATE}:
        raise InputError(f"input sql: must be one question (select …); it is {len(statements)} statements")
    return {param for statement in statements for param in statement.named_parameters}


def _columns(
    con: duckdb.DuckDBPyConnection, relation: str, described: str, bound: Mapping[str, Any] | None = None
) -> dict[str, str]:
    try:
        rows = con.execute(f"describe select * from {relation}", dict(bound or {})).fetchall()
    except duckdb.Error as error:
        if match := re.search(r"required extension '(\w+)'", str(error)):
            raise InputError(
                f"input {described}: needs DuckDB's extension {match[1]}, which is not installed here, and a query fetches "
                f"none by itself: install it once, with DuckDB's `install {match[1]}`"
            ) from error
        raise InputError(f"input {described}: {first_line(error)}") from error
    return {str(row[0]): str(row[1]) for row in rows}


def quoted(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def name(text: str) -> str:
    """A SQL identifier."""
    return '"' + text.replace('"', '""') + '"'
