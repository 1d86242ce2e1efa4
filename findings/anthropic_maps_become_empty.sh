#!/bin/sh
# anthropic 2.14: `transform_schema`, which makes a schema of a pydantic model for structured output, turns a map
# (dict[str, int]) into an object that is closed and has no property. Guess: it is kept, or refused as something that the API
# cannot enforce. Every answer then has an empty map, and is valid. The same library says of a list's minItems that it cannot
# be had, in the description; of the map it says nothing. Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "anthropic==2.14.0"
"$place/venv/bin/python" - <<'PY'
from anthropic import __version__, transform_schema
from pydantic import BaseModel


class Invoice(BaseModel):
    total: int
    lines: dict[str, int]


own = Invoice.model_json_schema()["properties"]["lines"]
sent = transform_schema(Invoice)["properties"]["lines"]
assert own["additionalProperties"] == {"type": "integer"}, own
assert (sent["properties"], sent["additionalProperties"]) == ({}, False), sent
assert "description" not in sent, sent
print("anthropic", __version__, "as found:", own, "->", sent)
assert Invoice.model_validate({"total": 3, "lines": {}}).lines == {}
PY
