"""A newer price map, or an overlay of ours, as text from outside: checked before it is believed."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from pydantic import BaseModel, ConfigDict, Field

from thirdshift.router.pricing.pricebook import (
    Overlay,
    Override,
    PriceMap,
    PriceMissing,
    facts_of,
    schedule_for,
)
from thirdshift.router.values import JSON, Mode, Price, PriceSchedule

TOO_DEAR_USD_PER_MTOK = Decimal(10_000)
"""Above this a unit price is taken for a slip of units; the dearest entry of litellm 1.106 is 9,710."""

SHRUNK = Decimal("0.5")
"""A map with less than this share of the models known before is taken for a broken download."""


@dataclass(frozen=True, slots=True)
class PriceChange:
    model: str
    mode: Mode
    before: PriceSchedule
    after: PriceSchedule


@dataclass(frozen=True, slots=True)
class MapUpdate:
    """What a newer map would change. With any `problems` it must not be used."""

    entries: int
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[PriceChange, ...]
    problems: tuple[str, ...]


def compare(old: PriceMap, new: JSON) -> MapUpdate:
    """Check `new`, a parsed price map, and say in what it differs from `old`. Never raises."""
    if not isinstance(new, Mapping):
        return MapUpdate(0, (), (), (), ("not a price map: its top level must be an object of models",))
    problems = [f"{name}: not an object" for name, entry in new.items() if not isinstance(entry, Mapping)]
    sound: PriceMap = {name: entry for name, entry in new.items() if isinstance(entry, Mapping)}
    if len(sound) < SHRUNK * len(old):
        problems.append(f"it has {len(sound)} models where {len(old)} were known: a broken file?")
    unreadable = {name: fault for name in sound if (fault := _unreadable(name, sound)) is not None}
    problems += [f"{name}: {fault}" for name, fault in unreadable.items()]
    known = _schedules(old, old)
    fresh = _schedules([name for name in sound if name not in unreadable], sound)
    problems += [f"{model}: {fault}" for (model, _), s in fresh.items() if (fault := _fault(s)) is not None]
    problems += [
        f"{name}: {fault}" for name, entry in sound.items() if (fault := _negative(entry)) is not None
    ]
    both = sorted(known.keys() & fresh.keys())
    changed = (PriceChange(*key, known[key], fresh[key]) for key in both if known[key] != fresh[key])
    return MapUpdate(
        len(sound),
        tuple(sorted(sound.keys() - old.keys())),
        tuple(sorted(old.keys() - sound.keys())),
        tuple(changed),
        tuple(problems),
    )


def _unreadable(name: str, prices: PriceMap) -> str | None:
    """What stops the price book from reading an entry; None: nothing, though it may have no price."""
    try:
        facts_of(name, prices)
        _schedules([name], prices)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        return f"cannot be read ({error})"
    return None


def _schedules(models: Iterable[str], prices: PriceMap) -> dict[tuple[str, Mode], PriceSchedule]:
    schedules = {}
    for model in models:
        for mode in Mode:
            try:
                schedules[model, mode] = schedule_for(model, mode, prices)
            except PriceMissing:
                continue
    return schedules


def _fault(schedule: PriceSchedule) -> str | None:
    dearest = max(schedule.base.input, schedule.base.output)
    return f"{dearest} USD per million tokens cannot be" if dearest > TOO_DEAR_USD_PER_MTOK else None


def _negative(entry: Mapping[str, JSON]) -> str | None:
    wrong = [
        k for k, v in entry.items() if "cost_per_token" in k and (not isinstance(v, int | float) or v < 0)
    ]
    return f"{wrong[0]} is no price" if wrong else None


# --- our overlay ------------------------------------------------------------------------------------------


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str
    mode: Mode = Mode.REALTIME
    input: Decimal = Field(ge=0)
    output: Decimal = Field(ge=0)
    cached_input: Decimal | None = Field(default=None, ge=0)
    source: str = Field(min_length=1)
    as_of: date


class _Rows(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    price: tuple[_Row, ...] = ()


def load_overlay(text: str) -> Overlay:
    """Prices of ours over the map's, from TOML: `[[price]]` rows with source and date.

    Raises ValueError (pydantic's or tomllib's), naming row and field.
    """
    rows = _Rows.model_validate(tomllib.loads(text, parse_float=Decimal)).price
    overlay: dict[tuple[str, Mode], Override] = {}
    for row in rows:
        if (row.model, row.mode) in overlay:
            raise ValueError(f"two prices for {row.model} in {row.mode.value}; keep one")
        price = Price(row.input, row.output, row.cached_input)
        overlay[row.model, row.mode] = Override(price, source=row.source, as_of=row.as_of)
    return overlay
