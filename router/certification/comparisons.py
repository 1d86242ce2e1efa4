"""How two texts are compared: an answer with a reference, a pattern, a schema or another answer, 0 to 1.

None where the reference itself is no answer of that kind.
"""

from __future__ import annotations

import json
import math
import unicodedata
from contextlib import suppress
from functools import lru_cache
from itertools import groupby
from typing import Any

from thirdshift.router.patterns import compiled

TOLERANCE = 1e-6
"""Relative, of `numeric`: the contract's."""


def exact(output: str, reference: str) -> float:
    return float(output.strip() == reference.strip())


# An apostrophe inside a word joins: the "s" of "that's" and the "I" of "I'm" do not stand alone.
_LETTER = r"(?<!\w)(?<!\w['\u2019])[A-Za-z](?!\w)(?!['\u2019]\w)"
_LETTER_ALONE = r"\W*([A-Za-z])\W*"


def last_letter(text: str) -> str | None:
    """The last standalone letter A-Z, upper case; None where there is none."""
    letters = compiled(_LETTER).findall(text)
    return str(letters[-1]).upper() if letters else None


def choice(output: str, reference: str) -> float | None:
    alone = compiled(_LETTER_ALONE).fullmatch(reference)
    right = alone[1].upper() if alone else last_letter(reference)
    return None if right is None else float(last_letter(output) == right)


# Commas group thousands (1,234,567) or, in India, 12,34,567. A hyphen after a letter or digit joins, it is no sign.
_NUMBER = (
    r"(?:(?<![\w.)])[-+])?(?:\d{1,3}(?:,\d{2,3})*,\d{3}(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?"
    r"|(?:(?<![\w.)])[-+])?\.\d+(?:[eE][-+]?\d+)?"
)
_CURRENCY = r"\p{Sc}"
_MINUS = str.maketrans(dict.fromkeys("\u2212\ufe63\uff0d", "-"))  # the typographic minus signs


def last_number(text: str) -> float | None:
    """The last number, without commas and currency signs; None where there is none that is finite."""
    for digits in reversed(compiled(_NUMBER).findall(compiled(_CURRENCY).sub("", text).translate(_MINUS))):
        number = float(digits.replace(",", ""))
        if math.isfinite(number):
            return number
    return None


def numeric(output: str, reference: str) -> float | None:
    right, given = last_number(reference), last_number(output)
    if right is None:
        return None
    return float(given is not None and math.isclose(given, right, rel_tol=TOLERANCE))


def contains(output: str, reference: str) -> float | None:
    """None for a blank reference, which every output contains."""
    return float(reference.strip() in output) if reference.strip() else None


def validates(output: str, schema: str) -> float | None:
    """Whether the output is JSON that the schema accepts; None where the schema is none. Nothing is fetched."""
    judge = _validator(schema)
    if judge is None:
        return None
    from referencing.exceptions import Unresolvable

    value = parsed(output)
    try:
        return float(value is not NOT_JSON and judge.is_valid(value))
    except Unresolvable:
        return None
    except (RecursionError, ArithmeticError):  # nested too deep, or a number beyond a double under multipleOf
        return 0.0


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any | None:
    rules = parsed(schema)
    if not isinstance(rules, dict):
        return None
    from thirdshift.router.json_schemas import validator

    return validator(rules)


NOT_JSON = object()
"""What `parsed` gives for text that is not JSON; null is JSON."""


def parsed(text: str) -> Any:
    """Strict JSON: NaN and Infinity, which other readers refuse, are not JSON."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return NOT_JSON


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def agrees(output: str, baseline: str) -> float:
    """Equal as JSON, or equal but for case and spaces."""
    left, right = parsed(output), parsed(baseline)
    if left is not NOT_JSON and right is not NOT_JSON:
        with suppress(RecursionError):
            return float(_same(left, right))
    return float(folded(output) == folded(baseline))


def _same(left: Any, right: Any) -> bool:
    """Whether two JSON values are equal: 1 is 1.0, and true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)


def folded(text: str) -> str:
    """Without what does not tell two texts apart: case, blanks, widths. 10² stays another number than 102."""
    if not text.isascii():
        runs = ((apart, "".join(run)) for apart, run in groupby(text, _is_raised))
        text = "".join(run if apart else unicodedata.normalize("NFKC", run) for apart, run in runs)
    return " ".join(text.casefold().split())


def _is_raised(character: str) -> bool:
    """Whether NFKC would set it beside the digits before it: an exponent, an index, a fraction."""
    return unicodedata.decomposition(character).startswith(("<super>", "<sub>", "<fraction>"))


def field_text(value: Any, path: str) -> str | None:
    """A field as text: a string as it is, other values as JSON; None where it is null or absent."""
    for key in (path,) if isinstance(value, dict) and path in value else tuple(path.split(".")):
        value = value.get(key) if isinstance(value, dict) else None
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
