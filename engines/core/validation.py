"""Whether an answer is valid by its request's response_schema, and what of it is, where more was said.

Models put JSON in a fence, think aloud before it, or add a closing phrase; strict modes write null for what may be left
out. What can be recovered without guessing is: exactly one JSON value in the text satisfies the schema.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache

from jsonschema.protocols import Validator
from referencing.exceptions import Unresolvable

from thirdshift.engines.core.json import dumps, loads
from thirdshift.router.json_schemas import validator
from thirdshift.router.values import JSON

Schema = Mapping[str, JSON] | None

THOUGHT = re.compile(
    r"\A\s*(?:<(think|thinking|thought|reasoning)>)?.*</(?:think|thinking|thought|reasoning)>", re.DOTALL
)
"""What a model thought aloud before its answer; some templates open the block themselves, so that only its end is seen."""
OPENING = re.compile(r"[{\[]")
UNDECIDED = (Unresolvable, RecursionError, ArithmeticError)
"""What keeps an answer from satisfying a schema: a $ref that leads out of it, an answer that is nested too deep, a number
beyond a double under `multipleOf`."""
STARTS_MAX, CANDIDATES_MAX = 200, 20
"""So many places are looked at in a text, and so many values judged."""


def is_valid(schema: Schema, text: str) -> bool | None:
    """None where the request has no schema."""
    if schema is None:
        return None
    try:
        value = loads(text)
    except ValueError:
        return False
    judge = _validator(dumps(schema))
    return judge is None or _holds(judge, value)


def judged(schema: Schema, text: str) -> tuple[str, bool | None, str | None]:
    """(the answer, recovered where it has to be; whether it is valid; what was done to it)."""
    valid = is_valid(schema, text)
    if valid is not False or schema is None:
        return text, valid, None
    verdicts: dict[bytes, str] = {}
    for value, note in _candidates(schema, text):
        written = dumps(value)
        if is_valid(schema, written.decode()):
            verdicts.setdefault(written, note)
    if len(verdicts) != 1:
        return text, False, None
    ((written, note),) = verdicts.items()
    return written.decode(), True, note


def _candidates(schema: Mapping[str, JSON], text: str) -> Iterator[tuple[JSON, str]]:
    """JSON values in a text, those without nulls that nobody asked for besides."""
    answer = THOUGHT.sub("", text).strip()
    values = _values_in(answer)[:CANDIDATES_MAX]
    whole = len(values) == 1 and answer.startswith(("{", "[")) and answer.endswith(("}", "]"))
    note = "the JSON was taken out of the text around it"
    for value in values:
        if not whole or answer != text:
            yield value, note
        with suppress(RecursionError):  # nested too deep to be looked through
            yield (
                without_added_nulls(schema, value, schema),
                "nulls of properties that may be left out were removed",
            )


def _finite(written: str) -> float:
    """NaN, Infinity and what is beyond a double are no JSON number that could be written again."""
    if not math.isfinite(number := float(written)):
        raise ValueError(f"{written} is no JSON number")
    return number


_DECODER = json.JSONDecoder(parse_constant=_finite, parse_float=_finite)


_LENIENT = json.JSONDecoder(strict=False)
"""Finds the end of what is JSON but for a number or a line break in a text."""


def _values_in(text: str) -> list[JSON]:
    """The objects and lists that stand in a text one after another. What stands within another that cannot be read is a
    part of it, and no answer: of a text that ends within one there are none."""
    values: list[JSON] = []
    at = 0
    for _ in range(STARTS_MAX):
        start = OPENING.search(text, at)
        if start is None:
            return values
        try:
            value, at = _DECODER.raw_decode(text, start.start())
            values.append(value)
        except RecursionError:
            return []
        except ValueError:
            behind = _behind(text, start.start())
            if behind is None:
                return []
            at = behind
    return values


def _behind(text: str, start: int) -> int | None:
    """Where a text goes on behind what opens at `start` and cannot be read; None where the text ends within it."""
    try:
        return _LENIENT.raw_decode(text, start)[1]
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text) or error.msg.startswith("Unterminated string")
        return None if cut else max(start + 1, error.pos)


def without_added_nulls(schema: JSON, value: JSON, root: Mapping[str, JSON]) -> JSON:
    """The value without nulls of properties that its schema lets out and does not let be null."""
    schema = _resolved(schema, root)
    if isinstance(value, list):
        items = schema.get("items")
        return [without_added_nulls(items, child, root) for child in value] if items else value
    if not isinstance(value, dict):
        return value
    for name in ("anyOf", "oneOf", "allOf"):
        for part in schema.get(name) or ():
            value = without_added_nulls(part, value, root)
            if not isinstance(value, dict):
                return value
    properties, needed = schema.get("properties") or {}, schema.get("required") or ()
    return {
        name: without_added_nulls(properties.get(name), child, root)
        for name, child in value.items()
        if child is not None or name in needed or name not in properties or _may_be_null(properties[name])
    }


def _may_be_null(schema: JSON) -> bool:
    if not isinstance(schema, Mapping):
        return True
    kinds = schema.get("type")
    if kinds == "null" or (isinstance(kinds, list) and "null" in kinds) or None in (schema.get("enum") or ()):
        return True
    return any(_may_be_null(part) for part in (*(schema.get("anyOf") or ()), *(schema.get("oneOf") or ())))


def _resolved(schema: JSON, root: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """The schema that a local reference names."""
    if not isinstance(schema, Mapping):
        return {}
    target = schema.get("$ref")
    if not isinstance(target, str) or not target.startswith("#/"):
        return schema
    node: JSON = root
    for step in target[2:].split("/"):
        node = node.get(step) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}


def schema_fault(schema: Schema) -> str | None:
    """Why no answer could be judged by this schema, or None."""
    if schema is None:
        return None
    if _validator(dumps(schema)) is None:
        return "the request's response_schema is no valid JSON schema"
    return None


def _holds(judge: Validator, value: JSON) -> bool:
    try:
        return bool(judge.is_valid(value))
    except UNDECIDED:
        return False


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> Validator | None:
    """The validator of a schema given as JSON, kept: rows of a job repeat theirs."""
    return validator(loads(schema))
