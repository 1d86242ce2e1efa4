"""Regular expressions over texts, each compiled once; `regex`, which can give up in time, is loaded for the first."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import regex

PATTERN_SECONDS = 1.0
"""A pattern that takes longer on one answer backtracks without end; it counts as not matching."""


@lru_cache
def compiled(pattern: str) -> regex.Pattern[str]:
    """Return one of our own patterns, compiled."""
    import regex

    return regex.compile(pattern)


def matches(output: str, pattern: str) -> float | None:
    """Whether the pattern is found anywhere in the output; None where it is no pattern."""
    found = compiled_if_sound(pattern)
    if found is None:
        return None
    try:
        return float(found.search(output, timeout=PATTERN_SECONDS) is not None)
    except TimeoutError:
        return 0.0


@lru_cache(maxsize=4096)
def compiled_if_sound(pattern: str) -> regex.Pattern[str] | None:
    """The pattern of a row or a job, None where it is none."""
    import regex

    try:
        return regex.compile(pattern) if pattern else None
    except (regex.error, RecursionError):
        return None
