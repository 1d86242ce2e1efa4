"""What a call costs: the price in force at an instant, the highest it can be, and the bill for tokens used.

A schedule's price at an instant is its base or the tier that the request's input tokens reach, times the
factor of the first off-peak rule that holds then. Amounts are exact decimals to the ledger's nine places; the
`…_columns` functions are the same sums in floats, for planning over many requests.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, ROUND_UP, Decimal
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.pricing.documents import file_data, is_document, most_of_a_page, pages_of
from thirdshift.router.pricing.pictures import (
    OTHERS,
    SOUND_BYTES_PER_TOKEN,
    data_of,
    is_picture,
    is_sound,
)
from thirdshift.router.values import JSON, QUANTUM, Endpoint, OffPeak, Price, PriceSchedule, Request, Usage

TEMPLATE_TOKENS = 256
"""At most what a chat template adds to a request on its own: generation prompt, date, default system text.
The longest default we know of is gpt-oss' harmony header, about 100 tokens."""

MESSAGE_TOKENS = 16
"""At most what a chat template adds to each message: role, start and end marks (3 to 8 in those we know)."""

_ONE = Decimal(1)
_QUARTER = timedelta(minutes=15)
"""Every offset from UTC in use is a whole number of quarter hours, so every local hour begins on one."""

Ints = NDArray[np.integer]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time, `start` inside and `end` outside, in which a schedule's prices do not change."""

    start: datetime
    end: datetime
    factor: Decimal


# --- what is in force ---------------------------------------------------------------------------------------


def factor_at(schedule: PriceSchedule, when: datetime) -> Decimal:
    """The off-peak factor in force at `when` (aware): that of the first rule that holds, else 1."""
    if when.tzinfo is None:
        raise ValueError("an instant without a time zone has no price; give an aware datetime")
    for rule in schedule.off_peak:
        if _holds(rule, when):
            return rule.factor
    return _ONE


def tier_price(schedule: PriceSchedule, input_tokens: int) -> Price:
    """The price before off-peak factors: the highest tier that `input_tokens` is above, for all tokens."""
    price, reached = schedule.base, -1
    for tier in schedule.tiers:
        if reached <= tier.above_tokens < input_tokens:
            price, reached = tier.price, tier.above_tokens
    return price


def price_at(schedule: PriceSchedule, when: datetime, input_tokens: int = 0) -> Price:
    """The price in force at `when` (aware) for a request of `input_tokens`."""
    price = tier_price(schedule, input_tokens) if schedule.tiers else schedule.base
    return scaled(price, factor_at(schedule, when)) if schedule.off_peak else price


def scaled(price: Price, factor: Decimal) -> Price:
    """Every component of `price` times `factor`."""
    if factor == _ONE:
        return price
    cached, write, hour = (
        None if rate is None else rate * factor
        for rate in (price.cached_input, price.cache_write, price.cache_write_hour)
    )
    return Price(price.input * factor, price.output * factor, cached, write, hour)


def ceiling(schedule: PriceSchedule, input_tokens: int | None = None) -> Price:
    """The highest each unit price can be at any hour, for requests of at most `input_tokens` (None: any).

    A cached token is taken as dear as any other: whether a cache hits is not ours to promise.
    """
    tiers = [t.price for t in schedule.tiers if input_tokens is None or t.above_tokens < input_tokens]
    prices = [schedule.base, *tiers]
    factor = max(_ONE, *(rule.factor for rule in schedule.off_peak)) if schedule.off_peak else _ONE
    dearest_input = max(max(p.input, p.cached_input or p.input) for p in prices)
    stated = any(p.cache_write is not None for p in prices)
    write = max(max(written_usd(p)) for p in prices) * factor if stated else None
    return Price(dearest_input * factor, max(p.output for p in prices) * factor, None, write, write)


def windows(schedule: PriceSchedule, start: datetime, end: datetime) -> tuple[Window, ...]:
    """`start` to `end` cut where the price changes: touching windows, neighbours differing in factor."""
    if end <= start:
        return ()
    if not schedule.off_peak:
        return (Window(start, end, _ONE),)
    spans: list[Window] = []
    begin = start
    factor = factor_at(schedule, start)
    instant = _next_quarter(start)
    while instant < end:
        now = factor_at(schedule, instant)
        if now != factor:
            spans.append(Window(begin, instant, factor))
            begin, factor = instant, now
        instant += _QUARTER
    return (*spans, Window(begin, end, factor))


def _next_quarter(when: datetime) -> datetime:
    whole = when.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return whole + _QUARTER * ((when - whole) // _QUARTER + 1)


def _holds(rule: OffPeak, when: datetime) -> bool:
    local = when.astimezone(_zone(rule.tz))
    return local.hour in rule.hours and local.weekday() in rule.days


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


# --- what a call costs --------------------------------------------------------------------------------------


def cost_usd(price: Price, usage: Usage) -> Decimal:
    """The bill for `usage` at `price`, exact to nine places. Cached tokens are among the input."""
    amount = price.output * usage.output_tokens
    cached = usage.cached_tokens
    if cached and price.cached_input is not None:
        amount += price.input * (usage.input_tokens - cached) + price.cached_input * cached
    else:
        amount += price.input * usage.input_tokens
    if usage.written_tokens:
        write, hour = written_usd(price)
        brief = usage.written_tokens - usage.written_hour_tokens
        amount += (write - price.input) * brief + (hour - price.input) * usage.written_hour_tokens
    return amount.scaleb(-6).quantize(QUANTUM, ROUND_HALF_EVEN)


def written_usd(price: Price) -> tuple[Decimal, Decimal]:
    """USD per million tokens written to a cache, kept five minutes and an hour. Who tells of such tokens and whose
    price nobody knows is taken to be like Anthropic: 1.25 and 2 times the input."""
    write = price.input * Decimal("1.25") if price.cache_write is None else price.cache_write
    return write, price.input * 2 if price.cache_write_hour is None else price.cache_write_hour


def worst_case_usd(
    schedule: PriceSchedule,
    prompt_bytes: int,
    max_tokens: int,
    reasoning_max: int | None = None,
    messages: int = 2,
    *,
    writes_cache: bool = False,
) -> Decimal:
    """What an attempt can cost at most, rounded up: no tokenizer makes more tokens than there are bytes.

    `prompt_bytes` counts the texts sent in UTF-8 (messages, tools, schema), see `sent_bytes`; what the chat
    template adds for `messages` messages is added here. `reasoning_max` is billed on top of `max_tokens`.
    `writes_cache`: the request asks for its prompt to be kept.
    """
    input_tokens = prompt_bytes + TEMPLATE_TOKENS + MESSAGE_TOKENS * messages
    price = ceiling(schedule, input_tokens) if schedule.tiers or schedule.off_peak else schedule.base
    dearest_input = price.input if price.cached_input is None else max(price.input, price.cached_input)
    if writes_cache:
        dearest_input = max(dearest_input, *written_usd(price))
    amount = dearest_input * input_tokens + price.output * (max_tokens + (reasoning_max or 0))
    return amount.scaleb(-6).quantize(QUANTUM, ROUND_UP)


CACHE_MARK = "cache_control"


def writes_cache(endpoint: Endpoint, request: Request) -> bool:
    """Whether some of a request's prompt may be written to a cache at a price: where it asks for that (Anthropic), or where
    the provider does so by itself and has a price for it (OpenAI from GPT-5.6 on)."""
    if keeps_unasked(endpoint):
        return True
    if CACHE_MARK in endpoint.params or CACHE_MARK in request.sampling:
        return True
    return any(map(_marked, request.messages)) or any(map(_marked, request.tools or ()))


def keeps_unasked(endpoint: Endpoint) -> bool:
    """Whether the provider keeps prompts at a price though nobody asks it to."""
    return endpoint.price.base.cache_write is not None and not keeps_marked_only(endpoint)


def keeps_marked_only(endpoint: Endpoint) -> bool:
    """Whether nothing is cached but what a request marks: Claude's prompts, wherever it is served."""
    return endpoint.provider == "anthropic" or "claude" in endpoint.model


def _marked(part: Mapping[str, JSON]) -> bool:
    """Whether a message, one of its parts, or a tool asks to be kept in a cache."""
    if CACHE_MARK in part:
        return True
    content = part.get("content")
    if not content or isinstance(content, str):
        return False
    return any(isinstance(inner, Mapping) and CACHE_MARK in inner for inner in content)


def sent_bytes(request: Request, picture_tokens: int = OTHERS.ceiling) -> int:
    """The most tokens that a provider may count as input: UTF-8 bytes of all text; a picture counts as `picture_tokens`
    (its bytes are none), a PDF by its pages, sound by its length."""
    total = 0
    for message in request.messages:
        content = message.get("content")
        total += _utf8_bytes(content) if isinstance(content, str) else _nested_bytes(content, picture_tokens)
        if len(message) > 2 or "content" not in message:
            total += sum(_nested_bytes(v) for k, v in message.items() if k not in ("role", "content"))
    for extra in (request.tools, request.response_schema):
        if extra is not None:
            total += _nested_bytes(extra)
    return total


def _utf8_bytes(text: str) -> int:
    """The most tokens that a text can become: its bytes, as it is or composed. Qwen's tokenizer composes first (NFC), and
    some letters are longer then, because Unicode excludes them from composition."""
    size = len(text.encode())
    if size == len(text) or unicodedata.is_normalized("NFC", text):
        return size
    return max(size, len(unicodedata.normalize("NFC", text).encode()))


def _nested_bytes(value: JSON, picture_tokens: int = 0) -> int:
    """At least the bytes of `value` written as JSON without spaces; without those of a picture, a PDF or sound in it."""
    if isinstance(value, str):
        return _utf8_bytes(value) + 2
    if isinstance(value, Mapping):
        size = sum(_nested_bytes(k) + _nested_bytes(v, picture_tokens) + 2 for k, v in value.items()) + 2
        if picture_tokens and is_picture(value):
            return size + picture_tokens - len(data_of(value) or "")
        if picture_tokens and is_sound(value) and (data := data_of(value)) is not None:
            return size - len(data) + len(data) // SOUND_BYTES_PER_TOKEN
        if picture_tokens and is_document(value) and (pages := pages_of(value)) is not None:
            return size - len(file_data(value) or "") + pages * most_of_a_page(picture_tokens)
        return size
    if isinstance(value, Sequence):
        return sum(_nested_bytes(v, picture_tokens) + 1 for v in value) + 2
    return 0 if value is None else len(str(value))


def price_id(endpoint: Endpoint, price: Price) -> str:
    """A name for `price` on `endpoint` in the `prices` table: the same prices always give the same name."""
    cached = price.input if price.cached_input is None else price.cached_input
    written = [rate for rate in (price.cache_write, price.cache_write_hour) if rate is not None]
    numbers = (price.input, price.output, cached, endpoint.price.usd_per_hour or Decimal(0), *written)
    text = "\n".join([endpoint.model, endpoint.mode.value, *(f"{n:.12f}" for n in numbers)])
    return f"{endpoint.name}-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}"


# --- the same over columns ----------------------------------------------------------------------------------


def cost_columns(
    price: Price,
    input_tokens: Ints | Floats,
    output_tokens: Ints | Floats,
    cached: Ints | None = None,
    written: Ints | None = None,
) -> Floats:
    """USD per request in floats, for planning: `price` over columns of tokens, all of one length. `cached` and `written`
    (to a cache, for five minutes) are among the input."""
    per_input = float(price.input) * 1e-6
    cost: Floats = input_tokens * per_input + output_tokens * (float(price.output) * 1e-6)
    if cached is not None and price.cached_input is not None:
        cost -= cached * (per_input - float(price.cached_input) * 1e-6)
    if written is not None:
        cost += written * (float(written_usd(price)[0]) * 1e-6 - per_input)
    return cost


def schedule_columns(
    schedule: PriceSchedule,
    factor: Decimal,
    input_tokens: Ints | Floats,
    output_tokens: Ints | Floats,
    cached: Ints | None = None,
    written: Ints | None = None,
) -> Floats:
    """`cost_columns` with each request in the tier it reaches, times an off-peak `factor` (see `windows`)."""
    cost = cost_columns(scaled(schedule.base, factor), input_tokens, output_tokens, cached, written)
    for tier in sorted(schedule.tiers, key=lambda t: t.above_tokens):
        above = np.flatnonzero(input_tokens > tier.above_tokens)
        if above.size:
            parts = (None if column is None else column[above] for column in (cached, written))
            price = scaled(tier.price, factor)
            cost[above] = cost_columns(price, input_tokens[above], output_tokens[above], *parts)
    return cost
