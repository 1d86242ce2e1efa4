"""When to come back, where an error's body says it: in fields of its own, or in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from thirdshift.engines.wires.rate_limit_headers import span_seconds

FIELDS = ("retry_after", "retry_after_seconds", "resets_in_seconds", "retryDelay", "estimated_time")
"""Names of a span, in seconds or as `26s`; Google's stands in one of its `details`."""

SPAN = re.compile(
    r"(?:(?:try again|retry)(?: after| in)? |retrydelay\"?: ?\"?)"
    r"(?:((?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+)\b|(\d+(?:\.\d+)?) ?(milliseconds?|seconds?|minutes?|hours?)\b)"
)
INSTANT = re.compile(r"resets? (?:at|on) (\d{4}-\d\d-\d\d[t ]\d\d:\d\d(?::\d\d)?(?:z|[+-]\d\d:\d\d))")
UNITS = {"mil": 0.001, "sec": 1.0, "min": 60.0, "hou": 3600.0}


def wait_told(error: Mapping[str, Any], words: str) -> float | None:
    """Seconds to wait. `words`: all that the error says, in small letters."""
    details = error.get("details")
    groups = (
        [error, *(item for item in details if isinstance(item, Mapping))]
        if isinstance(details, list)
        else [error]
    )
    for group in groups:
        for name in FIELDS:
            value = group.get(name)
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                seconds = span_seconds(str(value)[:40])
                if seconds is not None and seconds >= 0:
                    return seconds
    return _in_words(words)


def _in_words(words: str) -> float | None:
    if (match := SPAN.search(words)) is not None:
        return span_seconds(match[1]) if match[1] else float(match[2]) * UNITS[match[3][:3]]
    if (match := INSTANT.search(words)) is not None:
        return span_seconds(match[1].upper())
    return None
