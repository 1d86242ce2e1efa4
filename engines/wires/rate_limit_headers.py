"""What providers say in headers: how long to wait, and how much of their limits is left."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from thirdshift.engines.core.transport import Hints

_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|s|m|h|d)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def retry_after_of(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds to wait: `retry-after-ms`, or `retry-after` in seconds or as an HTTP date. None: not said.

    An instant is one of the provider's clock, which its `date` header tells; `now` counts where there is none.
    """
    millis = _number(headers.get("retry-after-ms"))
    if millis is not None:
        return millis / 1000.0
    text = headers.get("retry-after")
    if text is None:
        return None
    seconds = _number(text)
    return seconds if seconds is not None else _until(text, _clock_of(headers) or now)


def hints_of(headers: Mapping[str, str]) -> Hints | None:
    """The limit headers of OpenAI's and Anthropic's manner; None where there are none."""
    if "anthropic-ratelimit-requests-limit" in headers or "anthropic-ratelimit-tokens-limit" in headers:
        return _anthropic(headers)
    if "x-ratelimit-limit-requests" in headers or "x-ratelimit-remaining-requests" in headers:
        return _openai(headers)
    if "x-ratelimit-limit-tokens" in headers or "x-ratelimit-remaining-tokens" in headers:
        return _openai(headers)
    return None


def _openai(headers: Mapping[str, str]) -> Hints:
    return Hints(
        _count(headers.get("x-ratelimit-limit-requests")),
        _count(headers.get("x-ratelimit-limit-tokens")),
        _count(headers.get("x-ratelimit-remaining-requests")),
        _count(headers.get("x-ratelimit-remaining-tokens")),
        span_seconds(headers.get("x-ratelimit-reset-requests")),
        span_seconds(headers.get("x-ratelimit-reset-tokens")),
    )


def _anthropic(headers: Mapping[str, str]) -> Hints:
    now = _clock_of(headers)
    return Hints(
        _count(headers.get("anthropic-ratelimit-requests-limit")),
        _count(headers.get("anthropic-ratelimit-tokens-limit")),
        _count(headers.get("anthropic-ratelimit-requests-remaining")),
        _count(headers.get("anthropic-ratelimit-tokens-remaining")),
        span_seconds(headers.get("anthropic-ratelimit-requests-reset"), now),
        span_seconds(headers.get("anthropic-ratelimit-tokens-reset"), now),
    )


def span_seconds(text: str | None, now: datetime | None = None) -> float | None:
    """`1m30s`, `250ms`, plain seconds or an ISO instant, in seconds from now; None for anything else."""
    if not text:
        return None
    plain = _number(text)
    if plain is not None:
        return plain
    parts = _SPAN.findall(text)
    if parts and "".join(n + u for n, u in parts) == text:
        return float(sum(float(n) * _SECONDS[u] for n, u in parts))
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return _seconds_until(instant, now)


def _until(text: str, now: datetime | None) -> float | None:
    instant = _http_date(text)
    return None if instant is None else _seconds_until(instant, now)


def _clock_of(headers: Mapping[str, str]) -> datetime | None:
    """What the provider's clock shows; it can be hours from ours."""
    instant = _http_date(headers.get("date"))
    return None if instant is None else _aware(instant)


def _http_date(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text) if text else None
    except ValueError:
        return None


def _aware(instant: datetime) -> datetime:
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)


def _seconds_until(instant: datetime, now: datetime | None) -> float:
    return max(0.0, (_aware(instant) - (now or datetime.now(UTC))).total_seconds())


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else -1.0
    except ValueError:
        return None
    return value if 0.0 <= value < 1e9 else None


def _count(text: str | None) -> int | None:
    value = _number(text)
    return None if value is None else int(value)
