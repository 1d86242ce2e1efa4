"""What a key of a job file can hold: numbers, names, times, lists that may be one value."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from thirdshift.flows.jobs.deadlines import duration
from thirdshift.router.pricing.pricebook import off_peak_rule
from thirdshift.router.tiers import hours_of
from thirdshift.router.values import JSON, MOST_USD


def _duration_seconds(value: JSON) -> JSON:
    if not isinstance(value, str):
        raise ValueError("write a time like 90d, 8h or 30m")  # noqa: TRY004 (what pydantic makes a mistake of)
    length = duration(value)
    if length is None:
        raise ValueError(f"{value!r} is no time; write it like 90d, 8h or 30m")
    return length.total_seconds()


def _one_or_more(value: JSON) -> JSON:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _scalar(value: JSON) -> JSON:
    if isinstance(value, dict | list):
        raise ValueError("is one value, or null where it must be given")  # noqa: TRY004 (likewise)
    return value


def _decimal(value: JSON) -> JSON | Decimal:
    """A number as it is written; not a text, which pydantic takes for a Decimal and for no other number."""
    if isinstance(value, str):
        raise PydanticCustomError("decimal_type", "a number")
    return Decimal(str(value)) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _zone(name: str) -> str:
    off_peak_rule(Decimal(1), name, (), ())
    return name


def _hours(hours: str) -> str:
    off_peak_rule(Decimal(1), "UTC", (hours,), ())
    return hours


MOST_WORKERS = 999_999


def _workers(count: int | str) -> int | str:
    if count == "max" or (isinstance(count, int) and 1 <= count <= MOST_WORKERS):
        return count
    if isinstance(count, str) and re.fullmatch(r"0-[1-9][0-9]{0,5}", count):
        return count
    raise ValueError(f"is a number from 1 to {MOST_WORKERS:,}, a range that begins at 0 (0-16), or max")


def _window(text: str) -> str:
    hours_of(text)
    return text


def _on_disk(text: str) -> str:
    if "://" in text:
        raise ValueError("is a file on a disk of this machine, no URI: DuckDB writes within it")
    return text


Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[Decimal, BeforeValidator(_decimal)]
Usd = Annotated[Number, Field(ge=0, lt=MOST_USD, allow_inf_nan=False)]
UnitUsd = Annotated[Number, Field(ge=0, lt=10**6, allow_inf_nan=False)]  # as DECIMAL(18,12) holds it
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""An endpoint's name: it names files, columns and hive partitions."""
Text = Annotated[str, Field(min_length=1)]
FileOnDisk = Annotated[Text, AfterValidator(_on_disk)]
Count = Annotated[int, Field(ge=1)]
Minutes = Annotated[float, Field(ge=0, le=10 * 366 * 24 * 60)]
"""How long a rental lasts: ten years at most."""
Workers = Annotated[int | str, AfterValidator(_workers)]
Seconds = Annotated[float, BeforeValidator(_duration_seconds)]
Columns = Annotated[tuple[Text, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
Hour = Annotated[str, BeforeValidator(lambda hour: str(hour) if type(hour) is int else hour)]
Amount = Annotated[
    Annotated[int, Field(ge=0)] | None, BeforeValidator(lambda audit: None if audit == "auto" else audit)
]
Scalar = Annotated[Any, AfterValidator(_scalar)]
Zone = Annotated[Text, AfterValidator(_zone)]
Hours = Annotated[Hour, AfterValidator(_hours)]
Window = Annotated[Text, AfterValidator(_window)]
