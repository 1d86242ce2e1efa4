#!/bin/sh
# outlines-core 0.2.14: the name of a property goes into its regular expression as it is, without JSON's escapes. Guess: names
# are escaped as texts of an enum are. With a quote (or a backslash) in a name, the only thing that may be generated is no
# JSON: {"a"b":1}. Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "outlines-core==0.2.14"
"$place/venv/bin/python" - <<'PY'
import json
import re

from outlines_core.json_schema import build_regex_from_schema

name = 'a"b'
schema = {"type": "object", "properties": {name: {"type": "integer"}}, "required": [name], "additionalProperties": False}
pattern = build_regex_from_schema(json.dumps(schema))
right, wrong = json.dumps({name: 1}, separators=(",", ":")), '{"a"b":1}'
assert re.fullmatch(pattern, right) is None, "the right JSON is taken now"
assert re.fullmatch(pattern, wrong), "the wrong text is refused now"
try:
    json.loads(wrong)
except ValueError as error:
    print("as found: only", wrong, "is taken, which is no JSON:", error)
texts = build_regex_from_schema(json.dumps({"enum": [name]}))
assert re.fullmatch(texts, json.dumps(name)), "texts of an enum are escaped"
PY
