"""Show which price map is in use, and what a newer one changes: the work of `models prices`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from thirdshift.engines.pricemap import bundled_map
from thirdshift.flows.models.registry import MapInUse, import_map, map_in_use, plain, reset_map, stored_map
from thirdshift.router.pricing.map_diff import MapUpdate, PriceChange
from thirdshift.router.values import JSON, Price, PriceSchedule

SHOWN_NAMES = 10
SHOWN_CHANGES = 25
"""A terminal gets what fits one screen, with the counts of all; --json gives all."""


def show_prices(*, as_json: bool) -> int:
    """Print which map is in use; return 0."""
    _tell_map(map_in_use(), as_json=as_json)
    return 0


def reset_prices(*, as_json: bool) -> int:
    """Go back to litellm's own map and say so; return 0."""
    if not reset_map():
        Console(stderr=True, highlight=False).print("no imported price map was in use")
    _tell_map(map_in_use(), as_json=as_json)
    return 0


def update_prices(file: Path, *, as_json: bool) -> int:
    """Import a newer map and print what it changes; return 0. Raises UserError, changing nothing, if it is not sound."""
    update, used = import_map(file, datetime.now(UTC).date())
    if as_json:
        print(json.dumps({"price_map": map_json(used), **update_json(update)}))
        return 0
    console = Console(highlight=False, soft_wrap=True)
    for word, names in (("added", update.added), ("removed", update.removed)):
        console.print(Text(_some(word, names)))
    console.print(f"changed: {len(update.changed):,} price{'s' * (len(update.changed) != 1)}")
    if update.changed:
        _tell_changes(update.changed)
    console.print(Text(f"in use: {plain(used.source)}; {len(used.prices):,} models"))
    return 0


def map_json(used: MapInUse) -> dict[str, JSON]:
    """Return which map it is as JSON: its source, date of import, file, and how many models it has."""
    return {
        "source": used.source,
        "models": len(used.prices),
        "imported": used.imported.isoformat() if used.imported else None,
        "file": str(stored_map()) if used.imported else None,
    }


def update_json(update: MapUpdate) -> dict[str, JSON]:
    """Return what a newer map changes as JSON; prices in USD per million tokens."""
    return {
        "added": list(update.added),
        "removed": list(update.removed),
        "changed": [
            {
                "model": change.model,
                "mode": change.mode.value,
                "before": schedule_json(change.before),
                "after": schedule_json(change.after),
            }
            for change in update.changed
        ],
    }


def schedule_json(schedule: PriceSchedule) -> dict[str, JSON]:
    """Return a price as JSON with its tiers and off-peak windows; USD per million tokens."""
    return {
        **price_json(schedule.base),
        "tiers": [{"above_tokens": t.above_tokens, **price_json(t.price)} for t in schedule.tiers],
        "off_peak": [
            {"factor": float(o.factor), "tz": o.tz, "hours": sorted(o.hours), "days": sorted(o.days)}
            for o in schedule.off_peak
        ],
    }


def price_json(price: Price) -> dict[str, JSON]:
    """Return a price as JSON, USD per million tokens; cached input null: it costs as other input."""
    return {
        "input_usd_per_mtok": number(price.input),
        "output_usd_per_mtok": number(price.output),
        "cached_usd_per_mtok": None if price.cached_input is None else number(price.cached_input),
    }


def number(usd: Decimal) -> float:
    """Round to nine places: the map's floats say 1.6000000000000001 where 1.6 is meant."""
    return float(round(usd, 9))


def usd_text(usd: Decimal | None) -> str:
    """Return a unit price as people read it, four digits; `unknown` for None."""
    return "unknown" if usd is None else f"{float(usd):.4g}"


def spans(numbers: Iterable[int], names: Sequence[str] | None = None) -> str:
    """Return a set of numbers as spans, `0, 4-5, 10-23`, by `names` where they have some."""
    ranges: list[list[int]] = []
    for value in sorted(numbers):
        if ranges and value == ranges[-1][1] + 1:
            ranges[-1][1] = value
        else:
            ranges.append([value, value])

    def called(value: int) -> str:
        return names[value] if names else str(value)

    return ", ".join(called(a) if a == b else f"{called(a)}-{called(b)}" for a, b in ranges)


def _tell_map(used: MapInUse, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"price_map": map_json(used)}))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(f"in use: {plain(used.source)}; {len(used.prices):,} models"))
    if used.imported:
        console.print(Text(f"kept in {stored_map()}"))
        console.print(
            f"litellm's own is of version {bundled_map()[1]}; back to it: thirdshift models prices --reset"
        )


def _tell_changes(changed: Sequence[PriceChange]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("model", "mode"):
        table.add_column(title, overflow="fold")
    for title in ("input, USD/M", "output, USD/M"):
        table.add_column(title, justify="right", overflow="fold")
    for change in islice(changed, SHOWN_CHANGES):
        before, after = change.before, change.after
        elsewhere = before.base.input == after.base.input and before.base.output == after.base.output
        table.add_row(
            Text(plain(change.model)),
            change.mode.value,
            _moved(before.base.input, after.base.input),
            "cached, tiers or hours" if elsewhere else _moved(before.base.output, after.base.output),
        )
    console = Console(highlight=False)
    console.print(table)
    if len(changed) > SHOWN_CHANGES:
        console.print(f"… and {len(changed) - SHOWN_CHANGES:,} more; --json lists all")


def _moved(before: Decimal, after: Decimal) -> str:
    return usd_text(after) if before == after else f"{usd_text(before)} → {usd_text(after)}"


def _some(word: str, names: Sequence[str]) -> str:
    shown: list[Any] = [plain(name) for name in names[:SHOWN_NAMES]]
    more = f", and {len(names) - SHOWN_NAMES:,} more" if len(names) > SHOWN_NAMES else ""
    models = "model" if len(names) == 1 else "models"
    return f"{word}: {len(names):,} {models}" + (f": {', '.join(shown)}{more}" if names else "")
