"""Write answers for people to score as a file that they can open, and read that file back with their scores."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from thirdshift.warehouse.errors import StoreError, first_line

COLUMNS = ("run_id", "request_id", "task", "prompt", "output", "reference", "score")
FORMULA = re.compile(r"[=+\-@\t\r]")
"""What a spreadsheet takes for a formula when a cell begins with it."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class LabelsError(StoreError):
    """A file of labels that cannot be written or read; the message names what to mend."""


def write_labels(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `rows` with COLUMNS as CSV or Parquet, by the name's end; whole or absent, readable by its owner alone.

    In CSV nothing is a formula to a spreadsheet or a code to a terminal. Raises LabelsError: another ending, a file that
    is there already, or one that cannot be written.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise LabelsError(f"{path}: name a file that ends with .csv or .parquet")
    if path.exists():
        raise LabelsError(f"{path} is there already, and may hold people's scores; name another file")
    data = _as_csv(rows) if path.suffix == ".csv" else _as_parquet(rows)
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        beside.replace(path)
    except OSError as error:
        raise LabelsError(f"{path}: cannot be written: {error.strerror}") from error


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    out = csv.writer(text)
    out.writerow(COLUMNS)
    out.writerows([harmless(row[name]) for name in COLUMNS] for row in rows)
    return text.getvalue().encode("utf-8-sig", "replace")  # the mark tells spreadsheets that it is UTF-8


def _as_parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    types = {name: pa.float64() if name == "score" else pa.string() for name in COLUMNS}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), pa.schema(list(types.items()))), sink, compression="zstd")
    return bytes(sink.getvalue())


def harmless(value: Any) -> str:
    """Return a cell's text: an apostrophe before what would be a formula, control characters made visible."""
    text = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", "" if value is None else str(value))
    return f"'{text}" if FORMULA.match(text) else text


def read_labels(path: Path) -> list[dict[str, Any]]:
    """Read rows with `line` (in the file), `request_id`, `score` (None: not filled in), `run_id` (None: no such column).

    Raises LabelsError: the file cannot be read, lacks a column, or has scores that are not from 0 to 1 (all are listed).
    """
    try:
        rows = list(_csv_rows(path) if path.suffix == ".csv" else _parquet_rows(path))
    except OSError as error:
        raise LabelsError(f"{path}: cannot be read: {error.strerror or first_line(error)}") from error
    except (pa.ArrowInvalid, UnicodeDecodeError, csv.Error) as error:
        raise LabelsError(f"{path}: is no CSV in UTF-8 and no Parquet: {first_line(error)}") from error
    missing = [name for name in ("request_id", "score") if rows and name not in rows[0]]
    if missing:
        raise LabelsError(
            f"{path} has no column {' and no column '.join(missing)}; it has {', '.join(rows[0])}"
        )
    wrong, read = [], []
    for line, row in enumerate(rows, start=2):
        try:
            score = _score(row["score"])
        except ValueError:
            wrong.append(
                f"line {line}, request {row['request_id']}: {str(row['score'])[:20]!r} is no score from 0 to 1"
            )
            continue
        read.append(
            {"line": line, "request_id": str(row["request_id"]), "score": score, "run_id": row.get("run_id")}
        )
    if wrong:
        more = f"\n  and {len(wrong) - 10:,} more" if len(wrong) > 10 else ""
        raise LabelsError(
            "\n  ".join([f"{path}: scores are from 0 to 1, or left empty:", *wrong[:10]]) + more
        )
    return read


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read CSV with commas, or with semicolons where a spreadsheet's language has them."""
    text = path.read_text(encoding="utf-8-sig")
    head = text.partition("\n")[0]
    return csv.DictReader(
        io.StringIO(text, newline=""), delimiter=";" if head.count(";") > head.count(",") else ","
    )


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    yield from pq.read_table(path, partitioning=None).to_pylist()


def _score(value: Any) -> float | None:
    """Read a score as people fill it in: `0.5`, `0,5`, `1`, or nothing. Raises ValueError where it is no score."""
    text = "" if value is None else str(value).strip().replace(",", ".")
    if not text or text == "nan":
        return None
    score = float(text)
    if not math.isfinite(score) or not 0.0 <= score <= 1.0:
        raise ValueError(text)
    return score
