"""JSON to and from bytes: orjson where it is installed, else the standard library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

try:
    import orjson
except ImportError:  # it comes with prefect today; nothing here relies on it
    QUICK = False
else:
    QUICK = True


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def dumps(value: Any) -> bytes:
    """UTF-8 without spaces. Raises TypeError on what JSON has no word for."""
    if QUICK:
        try:
            return orjson.dumps(value, default=_plain)
        except TypeError:
            pass  # integers beyond 64 bits, lone surrogates: the standard library writes them
    return json.dumps(value, separators=(",", ":"), default=_plain).encode()


def loads(raw: bytes | str) -> Any:
    """Raises ValueError on what is no JSON."""
    return orjson.loads(raw) if QUICK else json.loads(raw)
