#!/bin/sh
# outlines-core 0.2.14: `format: date-time` takes no offset but Z, fractions of three digits only, and a time without any zone.
# Guess: RFC 3339, which the format names: an offset is required, +02:00 is one. A model that is held to it cannot write the
# local time of a mail, and may write what a validator of the format refuses.
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "outlines-core==0.2.14" "jsonschema[format-nongpl]==4.26.0"
"$place/venv/bin/python" - <<'PY'
import json
import re

from jsonschema import Draft202012Validator
from outlines_core.json_schema import build_regex_from_schema

schema = {"type": "string", "format": "date-time"}
pattern = build_regex_from_schema(json.dumps(schema))
validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
found = {
    time: (re.fullmatch(pattern, json.dumps(time)) is not None, validator.is_valid(time))
    for time in (
        "2026-11-22T06:00:00Z",
        "2026-11-22T06:00:00+02:00",
        "2026-11-22T06:00:00.5Z",
        "2026-11-22T06:00:00",
    )
}
for time, (generated, valid) in found.items():
    print(time, "can be generated:", generated, "valid:", valid)
assert list(found.values()) == [(True, True), (False, True), (False, True), (True, False)], found
PY
