"""JSON to and from bytes by orjson, and by the standard library what orjson does not write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def dumps(value: Any) -> bytes:
    """Write a value as UTF-8 without spaces. Raises TypeError on what JSON has no form for."""
    try:
        return orjson.dumps(value, default=_plain)
    except TypeError:  # integers beyond 64 bits, lone surrogates: the standard library writes them
        return json.dumps(value, separators=(",", ":"), default=_plain).encode()


def loads(raw: bytes | str) -> Any:
    """Read a value. Raises ValueError on what is no JSON."""
    return orjson.loads(raw)
