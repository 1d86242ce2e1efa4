"""Texts for answers: right ones where they are not known, and wrong ones that look like an attempt."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any

import regex

NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
LETTER = re.compile(r"\W*([A-Za-z])\W*")
LONE = regex.compile(r"(?<!\w)(?<!\w['\u2019])[A-Za-z](?!\w)(?!['\u2019]\w)")
"""As the scorer `choice` finds one; to the standard library a fraction is part of a word."""
OPTION = re.compile(r"^\W{0,2}([A-Z])[.):]", re.MULTILINE)
MOST_TRIES = 8
"""So often another is made for fields that are as in the right answer: a schema may have no other value for them."""
OPPOSITES = {"yes": "no", "no": "yes", "true": "false", "false": "true"}


def wrong(right: str, prompt: str, rng: random.Random) -> str:
    """Make a plausible answer that no scorer takes for `right`: another option, another number, another string."""
    stripped = right.strip()
    if stripped[:1] in ("{", "["):
        try:
            return json.dumps(_wrong_json(json.loads(stripped), prompt, rng), ensure_ascii=False)
        except ValueError:
            pass  # it only looks like JSON
    if letter := LETTER.fullmatch(stripped):
        return _other_letter(letter[1], prompt, rng)
    # where a text holds both, a scorer may read either
    altered = _replaced(stripped, NUMBER, lambda number: _other_number(number, rng))
    altered = _replaced(altered, LONE, lambda letter: _other_letter(letter, prompt, rng))
    if altered != stripped:
        return altered
    if opposite := OPPOSITES.get(stripped.lower()):
        return opposite.capitalize() if stripped[0].isupper() else str(opposite)
    return _swapped(stripped, rng)


def _replaced(text: str, what: re.Pattern[str] | Any, by: Callable[[str], str]) -> str:
    """Replace the last occurrence; return the text itself where there is none."""
    matches = list(what.finditer(text))
    if not matches:
        return text
    last = matches[-1]
    return f"{text[: last.start()]}{by(last[0])}{text[last.end() :]}"


def _other_letter(letter: str, prompt: str, rng: random.Random) -> str:
    offered: set[str] = set(OPTION.findall(prompt)) or set("ABCD")
    others = sorted(offered - {letter.upper()}) or ["B" if letter.upper() == "A" else "A"]
    other = rng.choice(others)
    return other if letter.isupper() else other.lower()


def _other_number(number: str, rng: random.Random) -> str:
    """Change one digit of a number, keeping the others and the marks."""
    # among the first five: a scorer's tolerance may be a millionth
    places = [at for at, mark in enumerate(number) if mark.isdigit()][:5]
    at = rng.choice(places)
    # never to 0: a number that starts with one would be written otherwise
    digit = rng.choice([d for d in "123456789" if d != number[at]])
    return f"{number[:at]}{digit}{number[at + 1 :]}"


def _swapped(text: str, rng: random.Random) -> str:
    places = [at for at in range(len(text) - 1) if text[at].lower() != text[at + 1].lower()]
    if len(text) < 2 or not places:
        return f"{text[:-1]}{'x' if text[-1:].lower() != 'x' else 'y'}"
    at = rng.choice(places)
    return f"{text[:at]}{text[at + 1]}{text[at]}{text[at + 2 :]}".strip()


def _wrong_json(value: Any, prompt: str, rng: random.Random) -> Any:
    """Replace every leaf by another one of its type; where there is nothing, something is made up."""
    if isinstance(value, dict):
        return {key: _wrong_json(inner, prompt, rng) for key, inner in value.items()}
    if isinstance(value, list):
        return [_wrong_json(inner, prompt, rng) for inner in value or (None,)]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + rng.randint(1, 9)
    return wrong(value, prompt, rng) if isinstance(value, str) else f"text {rng.randrange(1000)}"


# --- JSON by a schema -------------------------------------------------------------------------------------


def instance(schema: Mapping[str, Any], rng: random.Random, hint: str | None = None) -> Any:
    """Make a value that the schema accepts, as far as types, enums, bounds, required keys and local $refs go.

    `hint` is the right answer where one is known as text: it is put where the schema has room for it.
    """
    return _instance(schema, schema, rng, hint, 0)


def right_json(schema: Mapping[str, Any], key: int, reference: str | None = None) -> str:
    """Make the right answer to a request with this key, the same for every model; `reference`: as `instance`'s hint."""
    return as_json(instance(schema, random.Random(key), reference))  # noqa: S311 - repeatable, not secret


def wrong_json(schema: Mapping[str, Any], right: str, rng: random.Random) -> str:
    """Make an answer that the schema accepts and that is wrong in every field of which it accepts another value; `right`
    itself where it accepts no other."""
    made = instance(schema, rng)
    try:
        wanted = json.loads(right)
    except ValueError:  # a reference that only looks like JSON
        return as_json(made)
    for _ in range(MOST_TRIES):
        if not _shares(made, wanted):
            break
        made = _apart(made, instance(schema, rng), wanted)
    return right if made == wanted else as_json(made)


def _shares(made: Any, right: Any) -> bool:
    """Whether a field is as in the right answer."""
    if isinstance(made, dict) and isinstance(right, dict):
        return any(_shares(made[key], right[key]) for key in made.keys() & right.keys())
    if isinstance(made, list) and isinstance(right, list):
        return any(_shares(*pair) for pair in zip(made, right, strict=False))
    return bool(made == right)


def _apart(made: Any, other: Any, right: Any) -> Any:
    """Take of another answer what is as in the right one."""
    if isinstance(made, dict) and isinstance(other, dict) and isinstance(right, dict):
        return {key: _apart(value, other.get(key, value), right.get(key)) for key, value in made.items()}
    if isinstance(made, list) and isinstance(other, list) and isinstance(right, list):
        fields = zip_longest(made, other[: len(made)], right[: len(made)])
        return [_apart(*field) for field in fields]
    return other if made == right else made


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _instance(schema: Any, root: Any, rng: random.Random, hint: str | None, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > 12:
        return None
    schema = _resolved(schema, root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        options = schema["enum"]
        return hint if hint in options else rng.choice(options)
    for word in ("anyOf", "oneOf", "allOf"):
        if schema.get(word):
            return _instance(schema[word][0], root, rng, hint, depth + 1)
    match _type(schema):
        case "object":
            return {
                name: _instance(inner, root, rng, hint, depth + 1)
                for name, inner in schema.get("properties", {}).items()
            }
        case "array":
            wanted = max(1, int(schema.get("minItems", 1))) if schema.get("maxItems", 1) else 0
            return [_instance(schema.get("items", {}), root, rng, hint, depth + 1) for _ in range(wanted)]
        case "integer" | "number" as kind:
            return _number(schema, rng, hint, whole=kind == "integer")
        case "boolean":
            return rng.random() < 0.5
        case "null":
            return None
    return _string(schema, rng, hint)


def _resolved(schema: Mapping[str, Any], root: Any) -> Mapping[str, Any]:
    """Follow a local $ref; one hop is what schemas in use take."""
    reference = schema.get("$ref")
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return schema
    node: Any = root
    for step in reference[2:].split("/"):
        node = node.get(step.replace("~1", "/").replace("~0", "~"), {}) if isinstance(node, Mapping) else {}
    return node if isinstance(node, Mapping) else {}


def _type(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    return str(kind[0] if isinstance(kind, list) and kind else kind)


def _number(schema: Mapping[str, Any], rng: random.Random, hint: str | None, *, whole: bool) -> float:
    low = float(schema.get("minimum", schema.get("exclusiveMinimum", 0)))
    high = float(schema.get("maximum", schema.get("exclusiveMaximum", low + 100)))
    try:
        given = float(hint) if hint is not None else None
    except ValueError:
        given = None
    if given is not None and low <= given <= high:
        return int(given) if whole else given
    inner = low + (high - low) * rng.uniform(0.05, 0.95)
    return round(inner) if whole else round(inner, 2)


def _string(schema: Mapping[str, Any], rng: random.Random, hint: str | None) -> str:
    text = hint if hint is not None else f"text {rng.randrange(1000)}"
    text = text.ljust(int(schema.get("minLength", 0)), ".")
    return text[: int(schema["maxLength"])] if "maxLength" in schema else text
