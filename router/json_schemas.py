r"""What a JSON schema accepts: one meaning of `valid` for input, replies and scores. Nothing is fetched.

jsonschema differs from the standard in two points, which are put right here. It divides floats for `multipleOf`, so that
19.99 is no multiple of 0.01; and it reads a `pattern` by Python's `re`, which does not know all that ECMA 262, the dialect
of the standard, has: `\p{L}`, `(?<year>...)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any, cast

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from referencing import Registry

from thirdshift.router.patterns import compiled_if_sound, matches


def schema_problem(rules: Mapping[str, Any]) -> str | None:
    """Return where a schema is none, as a path in it; None where answers can be judged by it."""
    if not isinstance(rules.get("$schema", ""), str):
        return "$.$schema"
    kind = validator_for(rules, default=Draft202012Validator)
    for error in kind(kind.META_SCHEMA, format_checker=kind.FORMAT_CHECKER).iter_errors(rules):
        if not _is_pattern(error):
            return str(error.json_path)
    return None


def validator(rules: Mapping[str, Any]) -> Validator | None:
    """Return what judges values by a schema, None where it has a problem; a reference that leads out of it is
    Unresolvable."""
    if schema_problem(rules):
        return None
    kind = _exact(validator_for(rules, default=Draft202012Validator))
    # an empty registry: a remote $ref is an error, not a download
    return cast("Validator", kind(rules, registry=Registry()))


@lru_cache
def _exact(kind: Any) -> Any:
    return extend(kind, {"multipleOf": _multiple_of, "pattern": _pattern})  # type: ignore[no-untyped-call]


def _multiple_of(validator: Validator, step: float, value: Any, _: Any) -> Iterator[ValidationError]:
    """By the decimal digits that are written, which a float's division does not keep."""
    if validator.is_type(value, "number"):
        try:
            whole = (Fraction(str(value)) / Fraction(str(step))).denominator == 1
        except ValueError:  # 1e999 is read as infinity
            whole = False
        if not whole:
            yield ValidationError(f"{value!r} is not a multiple of {step!r}")


def _pattern(validator: Validator, pattern: str, value: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(value, "string") and matches(value, pattern) == 0.0:
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _is_pattern(error: ValidationError) -> bool:
    """Whether `re` refuses a `pattern` that `regex` reads. jsonschema reads names in patternProperties by `re` all over."""
    if error.validator != "format" or not error.path or error.path[-1] != "pattern":
        return False
    return compiled_if_sound(error.instance) is not None
