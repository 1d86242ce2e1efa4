#!/bin/sh
# outlines-core 0.2.14: a `pattern` goes between the text's quotes as it is. One with alternatives ("low|high", "^yes$|^no$") then
# lets a model write `"low` or `high"`, a quote short, and no JSON. An `allOf` of two objects lets it write {"a":1}{"b":2} and
# nothing else. Guess: the pattern is put in parentheses, and allOf is merged or refused. Bounds of a number (pydantic's
# Field(ge=1, le=5)) are passed over without a word, where an unknown format is refused: a rating may be -70.
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "outlines-core==0.2.14" "jsonschema-rs==0.61.2"
"$place/venv/bin/python" - <<'PY'
import json
import re

import jsonschema_rs
from outlines_core.json_schema import build_regex_from_schema


def found(schema, *texts):
    """Which of the texts a model that is held to the schema may write, and whether each is JSON that the schema accepts."""
    allowed, validator = re.compile(build_regex_from_schema(json.dumps(schema))), jsonschema_rs.validator_for(schema)

    def valid(text):
        try:
            return validator.is_valid(json.loads(text))
        except ValueError:
            return None  # no JSON

    return {text: (allowed.fullmatch(text) is not None, valid(text)) for text in texts}


def whole(name):
    return {"type": "object", "properties": {name: {"type": "integer"}}, "required": [name]}


def text(pattern):
    return {"type": "string", "pattern": pattern}


# text: (may be written, is valid); None: is no JSON
kinds = {
    "one pattern": (text("^low$"), {'"low"': (True, True)}),
    "in parentheses": (text("^(low|high)$"), {'"low"': (True, True), '"high"': (True, True)}),
    "low|high": (text("low|high"), {'"low"': (False, True), '"high"': (False, True), '"low': (True, None), 'high"': (True, None)}),
    "^yes$|^no$": (text("^yes$|^no$"), {'"yes"': (False, True), '"no"': (False, True)}),
    "allOf": ({"allOf": [whole("a"), whole("b")]}, {'{"a":1,"b":2}': (False, True), '{"a":1}{"b":2}': (True, None)}),
    "bounds": ({"type": "integer", "minimum": 1, "maximum": 5}, {"3": (True, True), "-70": (True, False), "6": (True, False)}),
}
for kind, (schema, expected) in kinds.items():
    assert found(schema, *expected) == expected, (kind, found(schema, *expected))
    print("as found,", kind, expected)
PY
