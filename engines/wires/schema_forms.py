"""A JSON schema as servers take it: what cannot be enforced is left out. Answers are validated against the user's own."""

from __future__ import annotations

from collections.abc import Mapping

from thirdshift.router.values import JSON

UNENFORCED = frozenset(
    "minItems maxItems uniqueItems contains minContains maxContains prefixItems minimum maximum "  # noqa: SIM905
    "exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength minProperties maxProperties "
    "patternProperties propertyNames dependentRequired dependentSchemas unevaluatedProperties if then else not".split()
)
"""Keywords that Anthropic's structured output refuses."""

UNKNOWN_TO_GRAMMARS = frozenset(
    "uniqueItems contains minContains maxContains patternProperties propertyNames dependentRequired "  # noqa: SIM905
    "dependentSchemas unevaluatedProperties unevaluatedItems if then else not".split()
)
"""Keywords that vLLM's back ends (llguidance, xgrammar) refuse, or pass over: llguidance on vLLM 0.32."""

UNKNOWN_TO_OPENAI = UNENFORCED - {
    "minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
} | {"default", "examples", "$schema", "$id", "readOnly", "writeOnly", "deprecated"}  # fmt: skip
"""OpenAI's guide to structured outputs lists what it takes; the rest makes it refuse the schema."""

FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
"""What OpenAI's strict mode takes."""

LOOK_AROUND = ("(?=", "(?!", "(?<=", "(?<!")
"""What no grammar back end can do."""

PLAIN = ("enum", "const", "default", "examples", "required")
"""Keywords whose values are no schemas."""

NAMED = ("properties", "$defs", "definitions")


def enforceable(schema: JSON, refused: frozenset[str] = UNENFORCED) -> JSON:
    """The schema without what structured output refuses; objects are closed, as it wants them."""
    if isinstance(schema, list | tuple):
        return [enforceable(child, refused) for child in schema]
    if not isinstance(schema, Mapping):
        return schema
    kept: dict[str, JSON] = {}
    for key, value in schema.items():
        if key in NAMED and isinstance(value, Mapping):
            kept[key] = {name: enforceable(child, refused) for name, child in value.items()}
        elif key in PLAIN:
            kept[key] = value
        elif key not in refused and not _refused(key, value):
            kept["anyOf" if key == "oneOf" else key] = enforceable(value, refused)
    if kept.get("type") == "object" and "properties" in kept:
        kept["additionalProperties"] = False
    return kept


def _refused(key: str, value: JSON) -> bool:
    """Patterns that look around, and formats of one's own."""
    if key == "pattern":
        return isinstance(value, str) and any(pattern in value for pattern in LOOK_AROUND)
    return key == "format" and value not in FORMATS


def strict(schema: JSON) -> dict[str, JSON] | None:
    """The schema as OpenAI's strict mode wants it: objects closed, every property required, those that may be left out
    null instead. None where that cannot be had (a free map, a root that is no object)."""
    try:
        form = _strict(schema)
    except _NotStrictError:
        return None
    return form if isinstance(form, dict) and form.get("type") == "object" else None


class _NotStrictError(Exception):
    pass


def _strict(schema: JSON) -> JSON:
    if isinstance(schema, list | tuple):
        return [_strict(child) for child in schema]
    if not isinstance(schema, Mapping):
        return schema
    if "allOf" in schema:
        parts = schema["allOf"]
        if not isinstance(parts, list | tuple) or len(parts) != 1 or not isinstance(parts[0], Mapping):
            raise _NotStrictError
        schema = {**parts[0], **{key: value for key, value in schema.items() if key != "allOf"}}
    kept: dict[str, JSON] = {}
    for key, value in schema.items():
        if key in NAMED and isinstance(value, Mapping):
            kept[key] = {name: _strict(child) for name, child in value.items()}
        elif key in UNKNOWN_TO_OPENAI or _refused(key, value):
            continue
        elif key in PLAIN:
            kept[key] = value
        elif key != "additionalProperties":
            kept["anyOf" if key == "oneOf" else key] = _strict(value)
    return _closed(schema, kept)


def _closed(schema: Mapping[str, JSON], kept: dict[str, JSON]) -> dict[str, JSON]:
    kind = schema.get("type")
    holds_objects = kind == "object" or (isinstance(kind, list | tuple) and "object" in kind)
    if not holds_objects and "properties" not in schema:
        return kept
    properties = kept.get("properties")
    if not isinstance(properties, dict) or isinstance(schema.get("additionalProperties"), Mapping):
        raise _NotStrictError
    needed = schema.get("required") or ()
    kept["properties"] = {
        name: part if name in needed else _or_null(part) for name, part in properties.items()
    }
    kept["required"] = list(properties)
    kept["additionalProperties"] = False
    return kept


def _or_null(schema: JSON) -> JSON:
    """The schema, or null."""
    if not isinstance(schema, Mapping):
        return schema
    kind = schema.get("type")
    if isinstance(kind, str) and "const" not in schema:
        kinds: list[JSON] = [kind]
    elif isinstance(kind, list | tuple) and "const" not in schema:
        kinds = list(kind)
    else:
        return {"anyOf": [schema, {"type": "null"}]}
    wider = {**schema, "type": kinds if "null" in kinds else [*kinds, "null"]}
    if isinstance(schema.get("enum"), list | tuple) and None not in schema["enum"]:
        wider["enum"] = [*schema["enum"], None]
    return wider
