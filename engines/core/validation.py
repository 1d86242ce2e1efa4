"""Whether an answer is valid by its request's response_schema."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from jsonschema import Draft202012Validator, SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from thirdshift.engines.core.json import dumps, loads
from thirdshift.router.values import JSON

Schema = Mapping[str, JSON] | None


def is_valid(schema: Schema, text: str) -> bool | None:
    """None where the request has no schema."""
    if schema is None:
        return None
    try:
        value = loads(text)
    except ValueError:
        return False
    validator = _validator(dumps(schema))
    return validator is None or _holds(validator, value)


def schema_fault(schema: Schema) -> str | None:
    """Why no answer could be judged by this schema, or None."""
    if schema is None:
        return None
    if _validator(dumps(schema)) is None:
        return "the request's response_schema is no valid JSON schema"
    return None


def _holds(validator: Validator, value: JSON) -> bool:
    try:
        return bool(validator.is_valid(value))
    except Unresolvable:  # a $ref that leads out of the schema: nothing can satisfy it
        return False


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> Validator | None:
    """The validator of a schema given as JSON, kept: rows of a job repeat theirs. It fetches no reference."""
    parsed = loads(schema)
    kind = validator_for(parsed, default=Draft202012Validator)
    try:
        kind.check_schema(parsed)
    except SchemaError:
        return None
    return kind(parsed, registry=Registry())
