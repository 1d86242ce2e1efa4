"""Where prices come from: litellm's price map, our dated overlay over it, the job over both.

The map is handed in parsed (`thirdshift.engines.pricemap` reads it). Nothing is guessed: a model, or a mode of it, that
has no price in the book has none, and `PriceMissing` says what to add to the job. Where the map leaves a
doubt the dearer reading is taken: a batch tier without a long-context price of its own keeps the real-time
one, off-peak hours count only if whole, reasoning tokens are as dear as the dearer of two output prices.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from thirdshift.router.values import JSON, ContextTier, Mode, OffPeak, Price, PriceSchedule

PriceMap = Mapping[str, Mapping[str, JSON]]
"""litellm's map: model name to its entry; prices there are USD per token."""

SUFFIX: Mapping[Mode, str] = {Mode.REALTIME: "", Mode.BATCH: "_batches", Mode.FLEX: "_flex"}
"""How the map's keys name a mode."""

CHAT_MODES = frozenset({"chat", "completion", "responses"})
"""Kinds of model in the map that answer with text and are billed by the token."""

SIBLINGS: Mapping[str, tuple[str, ...]] = {
    "bedrock": ("bedrock_converse",),
    "cohere": ("cohere_chat",),
    "vertex_ai": ("vertex_ai-language-models", "vertex_ai-anthropic_models", "vertex_ai-mistral_models"),
}
"""Bare names of the map that a provider's prefix reaches, besides those of the provider itself."""

ALL_HOURS = frozenset(range(24))
ALL_DAYS = frozenset(range(7))
DAY_NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True)
class Override:
    """What a job or our overlay says of a price; None: says nothing of it."""

    price: Price | None = None
    """For the endpoint's own mode, never halved again. With it nothing of the book is used."""
    tiers: tuple[ContextTier, ...] = ()
    off_peak: tuple[OffPeak, ...] | None = None
    usd_per_hour: Decimal | None = None
    source: str = "job"
    as_of: date | None = None


Overlay = Mapping[tuple[str, Mode], Override]
"""Our own prices over the map's, by name as in the map and mode."""


@dataclass(frozen=True, slots=True)
class MapFacts:
    """What the map tells of a model besides its price; None: it does not say."""

    key: str
    context_window: int | None = None
    max_output_tokens: int | None = None
    modalities: tuple[str, ...] = ()
    reasoning: bool | None = None


class PriceMissing(LookupError):
    """An endpoint has no price. `lines` is the YAML to add to its entry in the job."""

    def __init__(self, model: str, mode: Mode, why: str, endpoint: str | None = None) -> None:
        self.model, self.mode, self.endpoint = model, mode, endpoint
        self.lines = (
            f"    price: {{input: FILL_IN, output: FILL_IN}}  # USD per million tokens in {mode.value}"
        )
        who = f"endpoint {endpoint}" if endpoint else f"model {model}"
        super().__init__(f"{who} has no price: {why}; fill in and add to it:\n{self.lines}")


def schedule_for(
    model: str,
    mode: Mode,
    prices: PriceMap,
    override: Override | None = None,
    *,
    overlay: Overlay | None = None,
    source: str = "litellm",
    as_of: date | None = None,
    endpoint: str | None = None,
    tier: str | None = None,
) -> PriceSchedule:
    """The price schedule of `model` in `mode`: the job's `override`, else the overlay's, else the map's.

    Raises `PriceMissing`. `source` and `as_of` describe `prices`; `endpoint` is named in the message. `tier`: a service
    tier that is no mode (`priority`), of which only the map knows.
    """
    stated = override or Override()
    if stated.usd_per_hour is not None and stated.price is None:
        return hourly(stated.usd_per_hour, source=stated.source, as_of=stated.as_of)
    if stated.price is not None:
        return _stated(stated, stated.price)
    row = _overlaid(model, mode, prices, overlay or {}) if tier is None else None
    if row is not None and row.price is not None:
        schedule = _stated(row, row.price)
    else:
        schedule = replace(_from_map(model, mode, prices, endpoint, tier), source=source, as_of=as_of)
    return schedule if stated.off_peak is None else replace(schedule, off_peak=stated.off_peak)


def hourly(
    usd_per_hour: Decimal,
    *,
    off_peak: tuple[OffPeak, ...] = (),
    source: str = "job",
    as_of: date | None = None,
) -> PriceSchedule:
    """Hardware paid by the hour: its tokens cost nothing."""
    free = Price(Decimal(0), Decimal(0), Decimal(0))
    return PriceSchedule(free, (), off_peak, usd_per_hour, source, as_of)


def resolve(model: str, prices: PriceMap) -> str | None:
    """The map's key for litellm's name `model`, or None.

    A name with its provider (`openai/gpt-5.4`) finds the bare key (`gpt-5.4`) only if that is the same
    provider's: what one asks is never taken for what another does.
    """
    if model in prices:
        return model
    provider, _, rest = model.partition("/")
    entry = prices.get(rest) if rest else None
    if entry is None:
        return None
    owner = str(entry.get("litellm_provider", ""))
    return rest if owner == provider or owner in SIBLINGS.get(provider, ()) else None


def facts_of(model: str, prices: PriceMap) -> MapFacts | None:
    """Context window, output limit and modalities as the map has them; None where it lacks the model."""
    key = resolve(model, prices)
    if key is None:
        return None
    entry = prices[key]
    reasoning = entry.get("supports_reasoning")
    return MapFacts(
        key,
        _whole(entry.get("max_input_tokens")),
        _whole(entry.get("max_output_tokens")),
        _modalities(entry),
        bool(reasoning) if reasoning is not None else None,
    )


def offers(name: str, prices: PriceMap, at_most: int = 4) -> tuple[str, ...]:
    """Keys of the map for the same weights elsewhere: the last part alike, case ignored; cheapest first."""
    tail = name.rpartition("/")[2].casefold()
    alike = [k for k in prices if k.rpartition("/")[2].casefold() == tail and _priced(prices[k])]
    return tuple(sorted(alike, key=lambda k: (float(prices[k]["output_cost_per_token"]), k))[:at_most])


# --- an entry of the map ------------------------------------------------------------------------------------


def _from_map(
    model: str, mode: Mode, prices: PriceMap, endpoint: str | None, tier: str | None = None
) -> PriceSchedule:
    """`tier`: a service tier that is no mode (`priority`)."""
    suffix = SUFFIX[mode] if tier is None else f"_{tier}"
    key = resolve(model, prices)
    if key is None:
        others = ", ".join(offers(model, prices))
        hint = f" (it has the same model as {others})" if others else ""
        raise PriceMissing(model, mode, f"the price book has no {model}{hint}", endpoint)
    entry = prices[key]
    kind = entry.get("mode", "chat")
    if kind not in CHAT_MODES:
        raise PriceMissing(
            model, mode, f"{key} is a model for {kind} in the price book, not for chat", endpoint
        )
    if entry.get("input_cost_per_request"):
        raise PriceMissing(
            model, mode, f"{key} is also billed per request, which the book cannot say", endpoint
        )
    tiers = () if suffix else _tiered(entry)
    base = _component_price(entry, suffix) or (tiers[0].price if tiers else None)
    if base is None:
        raise PriceMissing(
            model, mode, f"the price book has no {tier or mode.value} price for {key}", endpoint
        )
    above = _long_context(entry, suffix, base) or tiers[1:]
    off_peak = () if suffix else _off_peak(entry)
    return PriceSchedule(base, above, off_peak)


def _component_price(entry: Mapping[str, JSON], suffix: str, context: str = "") -> Price | None:
    """The price from the map's flat keys, None where input or output is lacking."""
    end = context + suffix
    entered = _usd(entry.get(f"input_cost_per_token{end}"))
    left = _usd(entry.get(f"output_cost_per_token{end}"))
    if entered is None or left is None:
        return None
    reasoning = _usd(entry.get("output_cost_per_reasoning_token")) if not suffix else None
    cached = _usd(entry.get(f"cache_read_input_token_cost{end}"))
    if cached is None and suffix in SUFFIX.values():
        cached = _usd(entry.get("cache_read_input_token_cost" + context))
    write = _usd(entry.get(f"cache_creation_input_token_cost{end}"))
    hour = _usd(entry.get(f"cache_creation_input_token_cost_above_1hr{end}"))
    cached = None if cached is None else min(cached, entered)
    return Price(entered, max(left, reasoning or left), cached, write, hour)


def _long_context(entry: Mapping[str, JSON], suffix: str, base: Price) -> tuple[ContextTier, ...]:
    """Tiers from keys `…_above_200k_tokens`; a mode without its own long-context price pays real time's."""
    steps = []
    for key in entry:
        match = re.fullmatch(r"input_cost_per_token(_above_(\d+)k_tokens)", key)
        if match is None:
            continue
        context = match.group(1)
        price = _component_price(entry, suffix, context) or _component_price(entry, "", context)
        if price is not None:
            dearer = replace(price, input=max(price.input, base.input), output=max(price.output, base.output))
            steps.append(ContextTier(int(match.group(2)) * 1000, dearer))
    return tuple(sorted(steps, key=lambda t: t.above_tokens))


def _tiered(entry: Mapping[str, JSON]) -> tuple[ContextTier, ...]:
    """Tiers from `tiered_pricing`, a list of prices with `range: [above, up to]` of input tokens."""
    steps = []
    for row in entry.get("tiered_pricing") or ():
        price = _component_price(row, "") if "range" in row else None
        if price is not None:
            steps.append(ContextTier(int(row["range"][0]), price))
    return tuple(sorted(steps, key=lambda t: t.above_tokens))


def _off_peak(entry: Mapping[str, JSON]) -> tuple[OffPeak, ...]:
    """The map's off-peak prices as factors; where the factors of components differ, the dearest of them."""
    block = entry.get("off_peak_pricing")
    if not isinstance(block, Mapping):
        return ()
    factors = []
    for key in ("input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost"):
        usual, then = _usd(entry.get(key)), _usd(block.get(key))
        if usual:
            factors.append(Decimal(1) if then is None else then / usual)
    if not factors or max(factors) >= 1:
        return ()
    zone = str(block.get("weekday_timezone", "UTC"))
    shift = _hours_from_utc(zone)
    if shift is None:
        return ()
    rules = (_window(window, max(factors).normalize(), zone, shift) for window in block.get("windows") or ())
    return tuple(rule for rule in rules if rule is not None)


def _window(window: Mapping[str, JSON], factor: Decimal, zone: str, shift: int) -> OffPeak | None:
    """One window of the map: `hours_utc` as text or list of "HH:MM-HH:MM", `weekdays` 1 to 7 in `zone`."""
    spans = window.get("hours_utc", "00:00-00:00")
    try:
        hours = frozenset(
            h for span in ([spans] if isinstance(spans, str) else spans) for h in _whole_hours(span)
        )
        days = frozenset(int(d) - 1 for d in window.get("weekdays", range(1, 8)))
    except (TypeError, ValueError):
        return None
    return OffPeak(factor, zone, frozenset((h + shift) % 24 for h in hours), days) if hours and days else None


def _whole_hours(span: str) -> Iterable[int]:
    """The hours wholly inside "HH:MM-HH:MM"; ends may wrap round midnight, equal ends are all day."""
    begin, end = ((int(p[:2]), int(p[3:5])) for p in span.split("-"))
    first = begin[0] + (begin[1] > 0)
    last = end[0] + (24 if end <= begin else 0)
    return ((h % 24) for h in range(first, last))


def _hours_from_utc(zone: str) -> int | None:
    """Hours that `zone` is ahead of UTC all year round; None where it is no fixed whole number."""
    try:
        local = ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        return None
    offsets = {datetime(2026, m, 1, tzinfo=UTC).astimezone(local).utcoffset() for m in (1, 4, 7, 10)}
    (offset,) = offsets if len(offsets) == 1 else (None,)
    if offset is None or offset.total_seconds() % 3600:
        return None
    return int(offset.total_seconds() // 3600)


def _modalities(entry: Mapping[str, JSON]) -> tuple[str, ...]:
    stated = entry.get("supported_modalities")
    if isinstance(stated, Sequence) and not isinstance(stated, str):
        return tuple(str(m) for m in stated)
    flags = {"image": "supports_vision", "audio": "supports_audio_input", "video": "supports_video_input"}
    return ("text", *(name for name, flag in flags.items() if entry.get(flag)))


def _usd(per_token: JSON) -> Decimal | None:
    """USD per million tokens, exactly what the map's decimal text says per token."""
    if isinstance(per_token, bool) or not isinstance(per_token, int | float):
        return None
    amount = Decimal(str(per_token)) * 1_000_000
    if not amount.is_finite() or amount < 0:
        return None
    return amount.to_integral_value() if amount == amount.to_integral_value() else amount.normalize()


def _whole(value: JSON) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _priced(entry: Mapping[str, JSON]) -> bool:
    return "input_cost_per_token" in entry and "output_cost_per_token" in entry


# --- what a job or the overlay states -----------------------------------------------------------------------


def _stated(stated: Override, price: Price) -> PriceSchedule:
    tiers = tuple(sorted(stated.tiers, key=lambda t: t.above_tokens))
    return PriceSchedule(
        price, tiers, stated.off_peak or (), stated.usd_per_hour, stated.source, stated.as_of
    )


def _overlaid(model: str, mode: Mode, prices: PriceMap, overlay: Overlay) -> Override | None:
    return overlay.get((model, mode)) or overlay.get((resolve(model, prices) or model, mode))


def off_peak_rule(factor: Decimal, tz: str, hours: Iterable[JSON], days: Iterable[str]) -> OffPeak:
    """An off-peak rule as a job writes it: hours like `0` or `"10-23"` (both ends inside), days like `mon`.

    Raises ValueError, naming what cannot be read.
    """
    try:
        ZoneInfo(tz)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"no time zone called {tz!r}; write it like UTC or Europe/Berlin") from None
    if factor < 0:
        raise ValueError(f"off-peak factor {factor} is negative")
    off_peak_hours: set[int] = set()
    for part in hours:
        off_peak_hours |= _hour_span(str(part))
    unknown = [d for d in days if d not in DAY_NAMES]
    if unknown:
        raise ValueError(f"no day called {unknown[0]!r}; days are {', '.join(DAY_NAMES)}")
    return OffPeak(
        factor, tz, frozenset(off_peak_hours) or ALL_HOURS, frozenset(map(DAY_NAMES.index, days)) or ALL_DAYS
    )


def _hour_span(text: str) -> set[int]:
    match = re.fullmatch(r"\s*(\d{1,2})\s*(?:-\s*(\d{1,2})\s*)?", text)
    first = int(match.group(1)) if match else 24
    last = int(match.group(2)) if match and match.group(2) else first
    if first > 23 or last > 23 or last < first:
        raise ValueError(f"{text!r} is no hour or span of hours; write 0 to 23, or 10-23")
    return set(range(first, last + 1))
