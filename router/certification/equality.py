"""Whether two answers are the same answer, as the scorer compares: by keys that are equal where the answers are."""

from __future__ import annotations

import json
from typing import Any

from thirdshift.router.certification.comparisons import (
    NOT_JSON,
    field_text,
    folded,
    last_letter,
    last_number,
    parsed,
)
from thirdshift.router.certification.scorers import Scorer

DIGITS = 7
"""Significant digits by which numbers are the same, about the tolerance of the scorer `numeric`."""


def answer_key(scorer: Scorer | None, output: str | None) -> str | None:
    """None: the answer agrees with none. Without a scorer of its own equality, answers are equal as JSON, or but for case
    and spaces."""
    if output is None or not output.strip():
        return None
    if scorer is not None and scorer.name == "fields":
        return _fields_key(scorer, output)
    return _key("" if scorer is None else scorer.name, output)


def _key(how: str, output: str) -> str | None:
    match how:
        case "choice":
            return last_letter(output)
        case "numeric":
            number = last_number(output)
            return None if number is None else f"{number:.{DIGITS}g}"
        case "exact":
            return output.strip()
    value = parsed(output)
    if value is NOT_JSON:
        return folded(output)
    try:
        return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False)
    except RecursionError:
        return folded(output)


def _fields_key(scorer: Scorer, output: str) -> str | None:
    """Field by field, each as its own scorer compares; what is not asked for may differ."""
    given = parsed(output)
    if not isinstance(given, dict):
        return None
    keys = {}
    for name, how in scorer.fields.items():
        text = field_text(given, name)
        keys[name] = None if text is None else _key(how, text) or text
    return json.dumps(keys, sort_keys=True, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """The value with whole numbers written one way."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
