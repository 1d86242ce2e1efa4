"""Values for people: JSON, cells, tables, and text without terminal codes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.table import Table

SHOWN_ROWS = 200
"""A terminal gets no more rows than a person scrolls through; --json gives all."""
LEAST_TEXT = 8
"""Characters that a column of text keeps in a line, however narrow the terminal is."""
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
"""Terminal codes, and marks that turn text about, must not reach a terminal or a page."""


def shown(value: Any) -> str:
    """One cell: plain text without terminal codes."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if _is_interval(value):
        return f"{value.months} months {value.days} days {value.nanoseconds / 1e9:g} s"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return printable(str(value))


def counted(count: int, noun: str) -> str:
    """Say how many there are of something: `1 request`, `2,000 requests`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def printable(text: str) -> str:
    """Without what steers a terminal or turns text about: each such character as its code."""
    return _CONTROL.sub(
        lambda match: f"\\x{ord(match[0]):02x}" if match[0] <= "\xff" else f"\\u{ord(match[0]):04x}", text
    )


def jsonable(value: Any) -> Any:
    """What json cannot write by itself: money as a number, whole numbers as they are, instants as ISO 8601."""
    if isinstance(value, Decimal):
        return int(value) if value.as_tuple().exponent == 0 else float(value)
    if isinstance(value, date):
        return value.isoformat()
    return str(value)


def json_text(value: Any) -> str:
    """A value as JSON; a number that is none, or has no end, is null there, and an interval is as ISO 8601 has it."""
    return json.dumps(_finite(value), default=jsonable)


def _is_interval(value: Any) -> bool:
    """Whether a value is pyarrow's MonthDayNano, which is a tuple too."""
    return type(value).__name__ == "MonthDayNano"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else shown(key): _finite(inner) for key, inner in value.items()}
    if _is_interval(value):
        seconds = Decimal(value.nanoseconds).scaleb(-9)
        return f"P{value.months}M{value.days}DT{seconds.normalize():f}S"
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_table(answer: pa.Table) -> Table:
    """An Arrow table as a rich one; numbers whole and to the right, control characters made visible."""
    import pyarrow as pa
    from rich.table import Table
    from rich.text import Text

    table = Table(
        caption=counted(answer.num_rows, "row")
        + (f", {SHOWN_ROWS} shown" if answer.num_rows > SHOWN_ROWS else "")
    )
    rows = [[shown(value) for value in row.values()] for row in answer.slice(0, SHOWN_ROWS).to_pylist()]
    for place, field in enumerate(answer.schema):
        numeric = (
            pa.types.is_integer(field.type)
            or pa.types.is_floating(field.type)
            or pa.types.is_decimal(field.type)
        )
        longest = max((len(row[place]) for row in rows), default=0)
        table.add_column(
            Text(printable(field.name)),
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=numeric,
            min_width=longest if numeric else min(longest, LEAST_TEXT),
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
