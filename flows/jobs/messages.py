"""Turn pydantic's errors on a job file into sentences: the place, what is wrong, the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from thirdshift.flows.errors import Mistake, nearest
from thirdshift.flows.jobs.parsing import Document, Loc
from thirdshift.flows.jobs.schema import section_of

WHOLE = "a whole number"
NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?")
WANTED: Mapping[str, str] = {
    "bool_type": "true or false",
    "decimal_parsing": "a number",
    "decimal_type": "a number",
    "dict_type": "keys and values",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_from_float": WHOLE,
    "int_type": WHOLE,
    "is_instance_of": "keys and values",
    "list_type": "a list",
    "model_type": "keys and values",
    "string_type": "text",
    "tuple_type": "a list",
}
"""pydantic's error types that are a wrong type, to what is wanted."""

BOUNDS: Mapping[str, tuple[str, str]] = {
    "greater_than": ("above {}", "gt"),
    "greater_than_equal": ("at least {}", "ge"),
    "less_than": ("below {}", "lt"),
    "less_than_equal": ("at most {}", "le"),
}

PATTERNS: Mapping[str, str] = {
    "name": "names files: letters, digits, dots, dashes and underscores, up to 64; a job's also spaces",
    "api_base": "must be a URL that opens with http:// or https://",
}


def validation_mistakes(
    error: ValidationError, document: Document, root: type[BaseModel]
) -> Iterator[Mistake]:
    """Yield pydantic's errors as mistakes at their lines; `root` is the model that refused the data."""
    for error_details in error.errors(include_url=False, include_input=True):
        if error_details["type"] == "too_short" and error_details["input"]:
            continue  # as long as it should be, of things that are wrong each in its place
        loc = _walked(error_details["loc"], document.data, missing=error_details["type"] == "missing")
        yield document.mistake(loc, _what(error_details, loc, root))


def _walked(loc: Loc, data: Any, *, missing: bool) -> Loc:
    """Return `loc` without the steps that are pydantic's own, such as the name of a union's branch."""
    steps: list[str | int] = []
    for number, step in enumerate(loc):
        inside = isinstance(data, dict) and step in data
        if inside or (isinstance(data, list) and isinstance(step, int) and step < len(data)):
            data = data[step]
            steps.append(step)
        elif missing and number == len(loc) - 1:
            steps.append(step)
    return tuple(steps)


def _what(details: ErrorDetails, loc: Loc, root: type[BaseModel]) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind in WANTED:
        given, hint = details["input"], ""
        if isinstance(given, str) and "number" in WANTED[kind] and NUMBER.fullmatch(given):
            hint = "; without quotes it is a number"
        return f"must be {WANTED[kind]}, is {_is(given)}{hint}"
    if kind in BOUNDS:
        words, limit = BOUNDS[kind]
        return f"must be {words.format(context[limit])}, is {details['input']}"
    match kind:
        case "missing":
            return "is required"
        case "extra_forbidden":
            keys = keys_at(root, loc[:-1])
            return "no such key" + (nearest(str(loc[-1]), keys) or f"; keys here are {', '.join(keys)}")
        case "literal_error":
            return _none_of(details["input"], re.findall(r"'([^']*)'", context["expected"]))
        case "value_error":
            return str(context["error"])
        case "string_too_short" | "too_short":
            return "is empty"
        case "string_pattern_mismatch":
            return PATTERNS.get(str(loc[-1]), "is not of the form it must have")
    return details["msg"]


def _is(value: Any) -> str:
    """Describe a value of a wrong type, without quoting what could be a prompt or a key."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, dict):
        return "keys and values"
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "empty", True: "true", False: "false"}[value]
    return str(value)


def keys_at(model: type[BaseModel], loc: Loc) -> list[str]:
    """Return the keys that a job file can have at `loc`."""
    for step in loc:
        if isinstance(step, str) and step in model.model_fields:
            model = section_of(model.model_fields[step].annotation) or model
    return sorted(model.model_fields)


def _none_of(value: Any, known: list[str]) -> str:
    if len(known) == 1:
        return f"can only be {known[0]}"
    if not isinstance(value, str):
        return f"is one of {', '.join(known)}; it is {_is(value)}"
    return f"{value[:40]!r} is none of {', '.join(known)}{nearest(value, known)}"
