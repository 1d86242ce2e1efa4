"""What a request asks for beyond its model, and what that does to the price: a service tier, a place, a speed, a host.

Factors are the map's (litellm 1.106: `provider_specific_entry`, `regional_processing_uplift_multiplier_…`). What changes
the price by a factor that nobody knows has no price: `PriceMissing` asks for one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from urllib.parse import urlsplit

from thirdshift.router.pricing.pricebook import PriceMap, PriceMissing, resolve
from thirdshift.router.pricing.prices import scaled
from thirdshift.router.values import JSON, Mode, PriceSchedule

OWN_KEYS = frozenset({"model", "messages", "max_tokens", "max_completion_tokens", "stream", "n", "best_of"})
"""What neither an endpoint's params nor a row may set: each would change what a call can cost at most, or how
many answers come back."""

STANDARD_TIERS = frozenset({"default", "auto", "standard", "standard_only", "on_demand"})
MODE_TIERS = {"flex": Mode.FLEX, "batch": Mode.BATCH}
"""Service tiers that are modes of ours."""
NO_PLACE = frozenset({"", "global", "default", "not_available"})
NO_SPEED = frozenset({"", "standard", "default", "normal"})
REGIONAL_HOST = ".api.openai.com"
ALWAYS_KNOWN = ("default", "flex", "batch", "priority")
"""Tiers that a reply may tell."""

_ONE = Decimal(1)


@dataclass(frozen=True, slots=True)
class Service:
    """None: nothing of the kind is asked."""

    tier: str | None = None
    """A service tier that is no mode."""
    place: str | None = None
    speed: str | None = None
    host: str | None = None
    """The region in the name of the host."""

    @property
    def words(self) -> tuple[str, ...]:
        """What multiplies the price, by the names that the map has for it."""
        return tuple(word for word in (self.place, self.speed) if word is not None)


STANDARD = Service()


def service_of(mode: Mode, params: Mapping[str, JSON], api_base: str | None) -> tuple[Mode, Service]:
    """(the mode whose price holds, the rest) of an endpoint's params and address."""
    asked = _word(params.get("service_tier"), STANDARD_TIERS)
    if mode is Mode.REALTIME and asked in MODE_TIERS:
        mode, asked = MODE_TIERS[asked], None
    if asked == mode.value:
        asked = None
    host = (urlsplit(api_base).hostname or "") if api_base else ""
    region = host.removesuffix(REGIONAL_HOST) if host.endswith(REGIONAL_HOST) else None
    place = _word(params.get("inference_geo"), NO_PLACE)
    return mode, Service(asked, place, _word(params.get("speed"), NO_SPEED), region)


def _word(value: JSON, nothing: frozenset[str]) -> str | None:
    word = value.lower() if isinstance(value, str) else None
    return None if word is None or word in nothing else word


Lookup = Callable[[Mode, str | None], PriceSchedule]
"""(mode, service tier that is no mode) → its schedule. Raises PriceMissing."""


def priced(
    model: str, mode: Mode, service: Service, prices: PriceMap, lookup: Lookup, endpoint: str | None = None
) -> PriceSchedule:
    """The schedule of a model as it is asked. Raises PriceMissing, naming what changes the price by who knows how much."""
    schedule = lookup(mode, service.tier)
    factor = _ONE
    for word in service.words:
        factor *= _factor(model, mode, word, prices, endpoint)
    return scaled_schedule(schedule, factor * _of_host(model, service.host, prices))


def _factor(model: str, mode: Mode, word: str, prices: PriceMap, endpoint: str | None) -> Decimal:
    factors = _entry(model, prices).get("provider_specific_entry")
    known = factors.get(word) if isinstance(factors, Mapping) else None
    if isinstance(known, int | float) and known > 0:
        return Decimal(str(known))
    raise PriceMissing(
        model, mode, f"its params ask for `{word}`, and the price book has no factor for that", endpoint
    )


def _of_host(model: str, region: str | None, prices: PriceMap) -> Decimal:
    """OpenAI's regional hosts: the region's factor, or the largest where the book knows only others."""
    if region is None:
        return _ONE
    prefix = "regional_processing_uplift_multiplier_"
    entry = _entry(model, prices)
    known = {
        key.removeprefix(prefix): Decimal(str(value))
        for key, value in entry.items()
        if key.startswith(prefix) and isinstance(value, int | float)
    }
    return known.get(region, max(known.values(), default=_ONE))


def _entry(model: str, prices: PriceMap) -> Mapping[str, JSON]:
    key = resolve(model, prices)
    return {} if key is None else prices[key]


def scaled_schedule(schedule: PriceSchedule, factor: Decimal) -> PriceSchedule:
    """Every price of a schedule times a factor."""
    if factor == _ONE:
        return schedule
    tiers = tuple(replace(tier, price=scaled(tier.price, factor)) for tier in schedule.tiers)
    return replace(schedule, base=scaled(schedule.base, factor), tiers=tiers)


def tier_schedules(
    model: str, service: Service, prices: PriceMap, lookup: Lookup, tiers: Iterable[str] = ALWAYS_KNOWN
) -> dict[str, PriceSchedule]:
    """What a reply's own word on its tier makes of the price, as far as the book knows."""
    found: dict[str, PriceSchedule] = {}
    for tier in tiers:
        mode = MODE_TIERS.get(tier, Mode.REALTIME)
        other = None if tier in ("default", *MODE_TIERS) else tier
        try:
            found[tier] = priced(model, mode, replace(service, tier=other), prices, lookup)
        except PriceMissing:
            continue
    return found


def surcharges(model: str, prices: PriceMap) -> dict[str, Decimal]:
    """Place or speed → the factor that the book has for it."""
    factors = _entry(model, prices).get("provider_specific_entry")
    if not isinstance(factors, Mapping):
        return {}
    return {
        name: Decimal(str(value))
        for name, value in factors.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    }


def own_keys(params: Mapping[str, JSON]) -> frozenset[str]:
    """Return what params, or a row, set that is not theirs; litellm writes what is in `extra_body` over the rest."""
    extra = params.get("extra_body")
    within = {str(key) for key in extra} if isinstance(extra, Mapping) else set[str]()
    return OWN_KEYS & ({str(key) for key in params} | within)


def own_keys_fault(taken: Collection[str]) -> str:
    """What to say where params set what is not theirs."""
    return (
        f"params may not set {', '.join(sorted(taken))}; "
        "a row's or the job's max_tokens is the ceiling, and each request has one answer"
    )
