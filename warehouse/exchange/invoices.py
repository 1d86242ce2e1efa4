"""Read a provider's usage export as a table: OpenAI's, Anthropic's, or any CSV whose columns have plain names.

Known headers (2026-11): Anthropic's console exports `usage_date_utc, model_version, usage_input_tokens_no_cache, …`;
OpenAI's usage export has the fields of its usage API (`start_time, model, input_tokens, num_model_requests, …`), its
costs `amount_value` and `line_item` ("model, input"). What other files call the same things is in NAMES.
"""

from __future__ import annotations

import csv
import re
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

CURRENCIES = ("currency", "amount_currency", "cost_currency", "currency_code", "billing_currency")
"""Columns that tell what an amount is in; nothing but US dollars is compared."""
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?")
"""Where a comma stands for nothing; anywhere else it may be a decimal's, and an amount with one is refused."""


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
            currency = next((name for name in header if _plain(name) in CURRENCIES), None)
            rows = [_row(path, number, row, places, currency) for number, row in enumerate(reader, start=2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"invoice {path}: cannot be read as CSV: {error}") from error
    return pa.Table.from_pylist(rows, schema=INVOICE)


def _plain(name: str) -> str:
    return name.lower().replace(" ", "_")


def _places(path: Path, header: list[str]) -> dict[str, str]:
    """Return which of the file's columns holds each of ours."""
    known = {_plain(name): name for name in header}
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


def _row(
    path: Path, number: int, row: Mapping[str, Any], places: Mapping[str, str], currency: str | None
) -> dict[str, Any]:
    cells = {ours: (row.get(theirs) or "").strip() for ours, theirs in places.items()}
    if any(row.get(None) or ()):  # type: ignore[call-overload]  # where DictReader puts what has no column
        raise InputError(
            f"invoice {path}, line {number}: more cells than columns; quote amounts with a comma"
        )
    unit = (row.get(currency) or "").strip() if currency and cells.get("cost_usd") else ""
    if unit.upper() not in ("", "USD", "US$", "$"):
        raise InputError(
            f"invoice {path}, line {number}: {currency} is {unit[:40]!r}; amounts must be in US dollars"
        )
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
    count = _below(_number(cell), MOST_COUNT)
    if count != int(count):
        raise ValueError(cell)
    return int(count)


def _usd(cell: str) -> Decimal:
    amount = _number(cell.replace("$", "").removeprefix("USD").strip())
    return _below(amount, MOST_USD).quantize(Decimal("1e-9"))


def _number(cell: str) -> Decimal:
    """Return a number whose thousands may be parted by commas. Raises ValueError for a comma that may be a decimal's."""
    return Decimal(cell.replace(",", "") if THOUSANDS.fullmatch(cell) else cell)


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
