"""Bytes from a server become JSON values: whatever they are, nothing is raised."""

from __future__ import annotations

import json
from typing import Any

from thirdshift.engines.core.json import loads

MISSING = object()
"""What stands for bytes that are no JSON."""


def parsed(raw: bytes | str) -> Any:
    """The value, or MISSING. What orjson refuses (numbers beyond 64 bits, NaN, half surrogate pairs) the standard library
    reads."""
    try:
        return loads(raw)
    except (ValueError, RecursionError):
        pass
    try:
        text = raw.decode("utf-8-sig", errors="replace") if isinstance(raw, bytes) else raw
        return json.loads(text)
    except (ValueError, RecursionError):
        return MISSING


def clean(value: Any) -> str | None:
    """A text that every file format takes, or None where there is none."""
    if not isinstance(value, str) or not value:
        return None
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def as_text(raw: bytes | str, most: int = 65_536) -> str:
    """What a server said, to be kept; cut where it is very long."""
    text = raw if isinstance(raw, str) else raw[:most].decode("utf-8", "replace")
    return text[:most]
