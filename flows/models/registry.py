"""The prices and models known on this machine: the price map in use, our overlay, the catalogue.

The map is the one that litellm carries, or a newer one that the user imported (`models prices --update FILE`),
kept in the user's own folder: `~/.thirdshift`, or where the variable THIRDSHIFT_HOME says.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

from thirdshift.engines.pricemap import bundled_map
from thirdshift.flows.errors import UserError
from thirdshift.router.pricing.catalogue import Catalogue
from thirdshift.router.pricing.catalogue import load as load_catalogue
from thirdshift.router.pricing.map_diff import MapUpdate, compare, load_overlay
from thirdshift.router.pricing.pricebook import Overlay, Override, PriceMap, schedule_for
from thirdshift.router.pricing.service import STANDARD, Lookup, Service, priced, surcharges, tier_schedules
from thirdshift.router.values import Mode, PriceSchedule

HOME_VARIABLE = "THIRDSHIFT_HOME"
SHOWN_PROBLEMS = 8


@dataclass(frozen=True, slots=True)
class MapInUse:
    """A price map and where it comes from."""

    prices: PriceMap
    source: str
    """Like "litellm 1.106.0", or "litellm map of newer.json, imported 2026-11-22"."""
    imported: date | None = None
    """None: it came with litellm."""


@dataclass(frozen=True, slots=True)
class Registry:
    """The price map, the overlay and the catalogue in use on this machine."""

    map: MapInUse
    overlay: Overlay
    catalogue: Catalogue

    def price(
        self,
        model: str,
        mode: Mode,
        override: Override | None = None,
        /,
        *,
        endpoint: str | None = None,
        service: Service = STANDARD,
    ) -> PriceSchedule:
        """Return the price that `override` states, else the one known for the model and how it is called.

        Raises PriceMissing: neither has one.
        """
        lookup = self._lookup(model, override, endpoint)
        if override is not None and (override.price is not None or override.usd_per_hour is not None):
            return lookup(mode, None)
        return priced(model, mode, service, self.map.prices, lookup, endpoint)

    def tiers(self, model: str, service: Service = STANDARD) -> dict[str, PriceSchedule]:
        """Return the price by the tier that a reply may say it was served at."""
        return tier_schedules(model, service, self.map.prices, self._lookup(model, None, None))

    def surcharges(self, model: str) -> dict[str, Decimal]:
        """Return the places and speeds that a reply may state, with their factors on the price."""
        return surcharges(model, self.map.prices)

    def _lookup(self, model: str, override: Override | None, endpoint: str | None) -> Lookup:
        book = self.map

        def lookup(mode: Mode, tier: str | None) -> PriceSchedule:
            return schedule_for(
                model,
                mode,
                book.prices,
                override,
                overlay=self.overlay,
                source=book.source,
                as_of=book.imported,
                endpoint=endpoint,
                tier=tier,
            )

        return lookup


def load_registry() -> Registry:
    """Load everything known of prices and models. Raises UserError where an imported map cannot be read."""
    router = files("thirdshift.router.pricing")
    return Registry(
        map_in_use(),
        load_overlay(router.joinpath("overlay.toml").read_text(encoding="utf-8")),
        load_catalogue(router.joinpath("catalogue.toml").read_text(encoding="utf-8")),
    )


def home() -> Path:
    """Return the user's own folder for what outlives a job."""
    return Path(os.path.expanduser(os.environ.get(HOME_VARIABLE) or "~/.thirdshift"))


def stored_map() -> Path:
    """Return the path of an imported price map, whether there is one or not."""
    return home() / "prices.json"


def map_in_use() -> MapInUse:
    """Return the imported map where there is one, else litellm's. Raises UserError, with the remedy, if it is broken."""
    path = stored_map()
    if not os.path.lexists(
        path
    ):  # nor if the folder is closed to us, as another user's home is in a container
        prices, version = bundled_map()
        return MapInUse(prices, f"litellm {version}")
    try:
        stored = json.loads(path.read_bytes())
        imported = date.fromisoformat(stored["imported"])
        prices, name = stored["prices"], stored["from"]
        if not isinstance(prices, dict) or not all(isinstance(entry, dict) for entry in prices.values()):
            raise TypeError("its prices are no price map")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(
            f"the imported price map {path} cannot be read ({error}); import it again with "
            f"`thirdshift models prices --update FILE`, or go back to litellm's with `… prices --reset`"
        ) from error
    return MapInUse(prices, f"litellm map of {name}, imported {imported}", imported)


def import_map(file: Path, today: date) -> tuple[MapUpdate, MapInUse]:
    """Check a newer price map and use it from now on; return what it changes, and the map now in use.

    Raises UserError, and keeps things as they are, where the file is no sound price map.
    """
    fresh = _parsed(file)
    try:
        known = map_in_use().prices
    except UserError:  # a broken one is replaced
        known = bundled_map()[0]
    update = compare(known, fresh)
    if update.problems:
        shown = [plain(problem) for problem in update.problems[:SHOWN_PROBLEMS]]
        more = len(update.problems) - len(shown)
        shown += [f"and {more:,} more"] if more else []
        headline = f"{file} is no sound price map and is not used; prices stay as they are:"
        raise UserError("\n  ".join([headline, *shown]))
    _store({"from": file.name, "imported": today.isoformat(), "prices": fresh})
    return update, map_in_use()


def reset_map() -> bool:
    """Go back to the map that litellm carries; False where that was in use already. Raises UserError."""
    try:
        stored_map().unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"{stored_map()} cannot be removed: {error}") from error
    return True


def plain(text: str) -> str:
    """Return `text` with characters that cannot be printed replaced by ?: names in a price map come from outside."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _parsed(file: Path) -> Any:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no number")

    try:
        return json.loads(file.read_bytes(), parse_constant=refuse)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file} is not JSON ({error}); a price map is litellm's model_prices_and_context_window.json"
        ) from error


def _store(content: dict[str, Any]) -> None:
    """Write the map beside its place and rename it (mode 0600), so that a killed import leaves the map that was."""
    path = stored_map()
    if str(path).startswith("~"):
        raise UserError(
            f"no home folder is known to keep the map in; set {HOME_VARIABLE} to a folder of yours"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=".prices-", delete=False
        ) as beside:
            try:
                json.dump(content, beside)
                beside.flush()
                os.fsync(beside.fileno())
                beside.close()
                os.replace(beside.name, path)
            except BaseException:
                Path(beside.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); set {HOME_VARIABLE} to a folder of yours"
        ) from error
