"""Read a provider's usage export as a table: OpenAI's, Anthropic's, or any CSV whose columns have plain names.

Known headers (2026-11): Anthropic's console exports `usage_date_utc, model_version, usage_input_tokens_no_cache, …`;
OpenAI's usage export has the fields of its usage API (`start_time, model, input_tokens, num_model_requests, …`), its
costs `amount_value` and `line_item` ("model, input"). What other files call the same things is in NAMES.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa

from thirdshift.router.values import MOST_USD
from thirdshift.warehouse.errors import InputError
from thirdshift.warehouse.journal.parts import USD

INVOICE = pa.schema(
    [
        ("day", pa.date32()),
        ("model", pa.string()),
        ("ref", pa.string()),
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("requests", pa.int64()),
        ("cost_usd", USD),
    ]
)
"""A line of an invoice; what it does not say is null. Cached tokens are among the input."""

MOST_COUNT = 10**15
"""Counts and sums of them that fit the columns; no invoice has as many tokens."""

NAMES: Mapping[str, tuple[str, ...]] = {
    "day": (
        "usage_date_utc", "day", "date", "usage_date", "start_time_iso", "start_time", "timestamp", "time",
        "created_at",
    ),
    "model": ("model_version", "model", "model_name", "line_item"),
    "ref": ("provider_ref", "ref", "request_id", "response_id", "generation_id", "id"),
    "input_tokens": (
        "input_tokens", "prompt_tokens", "tokens_prompt", "n_context_tokens_total", "usage_input_tokens_no_cache",
    ),
    "output_tokens": (
        "output_tokens", "completion_tokens", "tokens_completion", "n_generated_tokens_total", "usage_output_tokens",
    ),
    "requests": ("num_model_requests", "requests", "n_requests", "request_count"),
    "cost_usd": ("cost_usd", "amount_usd", "amount_value", "cost_in_usd", "cost", "amount", "total_cost", "usd"),
}  # fmt: skip
ADDED_TO_INPUT = (
    "usage_input_tokens_cache_write_5m",
    "usage_input_tokens_cache_write_1h",
    "usage_input_tokens_cache_read",
)
"""Anthropic counts these beside `no_cache`; a ledger's input tokens hold them all."""


def read_invoice(path: Path) -> pa.Table:
    """Read a usage export as INVOICE rows; amounts in US dollars, days in UTC.

    Raises InputError: no such file, no column for what a comparison needs, or a cell that is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            places = _places(path, header)
            rows = [_row(path, number, row, places) for number, row in enumerate(reader, start=2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"invoice {path}: cannot be read as CSV: {error}") from error
    return pa.Table.from_pylist(rows, schema=INVOICE)


def _places(path: Path, header: list[str]) -> dict[str, str]:
    """Return which of the file's columns holds each of ours."""
    known = {name.lower().replace(" ", "_"): name for name in header}
    places = {
        ours: known[next(n for n in theirs if n in known)]
        for ours, theirs in NAMES.items()
        if any(n in known for n in theirs)
    }
    has_measure = "cost_usd" in places or {"input_tokens", "output_tokens"} <= set(places)
    if not has_measure or not ("ref" in places or {"day", "model"} <= set(places)):
        raise InputError(
            f"invoice {path}: its columns are {', '.join(header) or 'none'}; needed are a request id,"
            " or a day and a model, and an amount in USD, or input and output tokens. Rename columns to:"
            " id, day, model, input_tokens, output_tokens, cost_usd"
        )
    return places


def _row(path: Path, number: int, row: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    cells = {ours: (row.get(theirs) or "").strip() for ours, theirs in places.items()}
    values: dict[str, Any] = {}
    for ours, cell in cells.items():
        values[ours] = _value(path, number, places[ours], cell, CONVERT[ours]) if cell else None
    if values.get("input_tokens") is not None:
        values["input_tokens"] += sum(
            _value(path, number, name, row[name], _whole) for name in ADDED_TO_INPUT if row.get(name)
        )
    return values


def _value(path: Path, number: int, column: str, cell: str, convert: Callable[[str], Any]) -> Any:
    try:
        return convert(cell)
    except (ValueError, ArithmeticError, OSError) as error:
        what = "day" if convert is _day else "amount" if convert is _usd else "count"
        raise InputError(f"invoice {path}, line {number}: {column} {cell[:40]!r} is no {what}") from error


def _day(cell: str) -> Any:
    if cell.replace(".", "", 1).isdigit():
        return datetime.fromtimestamp(float(cell), UTC).date()
    moment = datetime.fromisoformat(cell.removesuffix(" UTC"))
    return (moment.astimezone(UTC) if moment.tzinfo else moment).date()


def _whole(cell: str) -> int:
    return int(_below(Decimal(cell.replace(",", "")), MOST_COUNT))


def _usd(cell: str) -> Decimal:
    amount = Decimal(cell.replace(",", "").replace("$", "").removeprefix("USD").strip())
    return _below(amount, MOST_USD).quantize(Decimal("1e-9"))


def _below(value: Decimal, most: int) -> Decimal:
    if not (value.is_finite() and abs(value) < most):
        raise ValueError(value)
    return value


def _model(cell: str) -> str:
    """Return the model of OpenAI's line items ("gpt-5.5, input")."""
    return cell.partition(",")[0].strip()


CONVERT: Mapping[str, Callable[[str], Any]] = {
    "day": _day,
    "model": _model,
    "ref": str,
    "input_tokens": _whole,
    "output_tokens": _whole,
    "requests": _whole,
    "cost_usd": _usd,
}
