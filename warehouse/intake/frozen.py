"""Read a run's frozen input: columns for decisions, requests for the shard that sends them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import DTypeLike, NDArray

from thirdshift.router.values import Request
from thirdshift.warehouse.errors import InputError, first_line

WINDOW_BYTES = 1 << 20
"""A source holds so much of its requests at once, whatever their number: dozens of shards are under way together."""
WINDOW_ROWS = 4096
AT_ONCE = 64
"""Requests made into Python values together: those take several times the bytes of the column."""

REQUEST_COLUMNS = [
    "row",
    "request_id",
    "request_hash",
    "task",
    "messages",
    "max_tokens",
    "temperature",
    "response_schema",
    "tools",
    "sampling",
]


def batches(folder: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the named columns of all accepted requests, in the order of `row`, a row group at a time."""
    for path in _parts(folder):
        with _open(path) as file:
            for group in range(file.num_row_groups):
                yield from _group(file, path, group, list(columns)).combine_chunks().to_batches()


def column(folder: Path, name: str) -> NDArray[Any] | pa.ChunkedArray:
    """Return one column of all requests, indexed by row: NumPy for numbers without nulls, Arrow for all else.

    Raises InputError: there is no frozen input in `folder`, or it is damaged.
    """
    tables = [pa.Table.from_batches([batch]) for batch in batches(folder, [name])]
    if not tables:
        raise InputError(f"{folder}: the frozen input holds no row")
    values = pa.concat_tables(tables)[name]
    if pa.types.is_primitive(values.type) and not values.null_count:
        return values.to_numpy()
    return values


class NumberColumn:
    """A column of so many numbers as it is read. It takes room when two of them differ; `in_order`: when one is not the
    number of its row. What takes none is not to be written to."""

    def __init__(self, rows: int, dtype: DTypeLike, *, in_order: bool = False) -> None:
        self._rows, self._count, self._in_order = rows, 0, in_order
        self._one, self._all = np.zeros((), dtype), None if rows else np.zeros(0, dtype)

    @property
    def is_in_order(self) -> bool:
        """Whether every number is that of its row."""
        return self._in_order and self._all is None

    @property
    def values(self) -> NDArray[Any]:
        if self._all is not None:
            return self._all
        return self._plain(0, self._rows)

    def add(self, part: NDArray[Any]) -> None:
        """Add the next numbers."""
        end = self._count + len(part)
        if not self._count and len(part):
            self._one = part[0].astype(self._one.dtype)
        if self._all is None and not np.array_equal(part, self._plain(self._count, end)):
            self._all = np.empty(self._rows, self._one.dtype)
            self._all[: self._count] = self._plain(0, self._count)
        if self._all is not None:
            self._all[self._count : end] = part
        self._count = end

    def _plain(self, begin: int, end: int) -> NDArray[Any]:
        if self._in_order:
            return np.arange(begin, end, dtype=self._one.dtype)
        return np.broadcast_to(self._one, end - begin)


class RowSource:
    """The requests of some rows (`interfaces.RequestSource`), in the order of `rows`, read from disk whenever
    they are iterated.
    """

    __slots__ = ("_folder", "_rows")

    def __init__(self, folder: Path, rows: NDArray[np.int64]) -> None:
        self._folder = folder
        self._rows = np.asarray(rows, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"RowSource({len(self)} requests)"

    def __iter__(self) -> Iterator[Request]:
        index = _Index(self._folder)
        size = max(AT_ONCE, min(WINDOW_ROWS, int(WINDOW_BYTES / index.bytes_a_row)))
        for start in range(0, len(self._rows), size):
            window = self._rows[start : start + size]
            table = index.take(np.unique(window))
            at = np.searchsorted(np.asarray(table["row"]), window)
            for first in range(0, len(at), AT_ONCE):
                for values in table.take(pa.array(at[first : first + AT_ONCE])).to_pylist():
                    yield _request(values)


class _Index:
    """An index of the row group that holds each row."""

    def __init__(self, folder: Path) -> None:
        self._groups: list[tuple[Path, int]] = []
        sizes: list[int] = []
        total = 0
        for path in _parts(folder):
            with _open(path) as file:
                metadata = file.metadata
                self._groups += [(path, group) for group in range(metadata.num_row_groups)]
                sizes += [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
                total += sum(
                    metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)
                )
        self.bytes_a_row = max(total / max(sum(sizes), 1), 1.0)
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def take(self, rows: NDArray[np.int64]) -> pa.Table:
        """Read the requests of ascending, distinct `rows`."""
        if len(rows) and (rows[0] < 0 or rows[-1] >= self._starts[-1]):
            raise IndexError(f"rows {rows[0]} to {rows[-1]} of a frozen input of {self._starts[-1]}")
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        pieces = []
        for group in np.unique(groups):
            path, number = self._groups[group]
            with _open(path) as file:
                table = _group(file, path, number, REQUEST_COLUMNS)
            pieces.append(table.take(pa.array(rows[groups == group] - self._starts[group])))
        return pa.concat_tables(pieces)


def _parts(folder: Path) -> list[Path]:
    parts = sorted((folder / "requests").glob("part-*.parquet"))
    if not parts:
        raise InputError(f"{folder}: there is no frozen input")
    return parts


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(path, error) from error


def _group(file: pq.ParquetFile, path: Path, group: int, columns: list[str]) -> pa.Table:
    try:
        return file.read_row_group(group, columns=columns, use_threads=False)
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path}: the frozen input cannot be read: {first_line(error)}; restore the file from a backup, or start "
        "anew with --fresh"
    )


def _request(values: dict[str, Any]) -> Request:
    schema, tools, sampling = values["response_schema"], values["tools"], values["sampling"]
    return Request(
        row=values["row"],
        request_id=values["request_id"],
        request_hash=values["request_hash"],
        task=values["task"],
        messages=tuple(json.loads(values["messages"])),
        max_tokens=values["max_tokens"],
        temperature=values["temperature"],
        response_schema=None if schema is None else _parsed(schema),
        tools=None if tools is None else tuple(_parsed(tools)),
        sampling={} if sampling is None else _parsed(sampling),
    )


@lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    """Schemas, tools and sampling repeat from row to row; nobody changes them."""
    return json.loads(text)
