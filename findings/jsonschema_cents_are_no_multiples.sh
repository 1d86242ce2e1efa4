#!/bin/sh
# jsonschema 4.26: 19.99 is no multiple of 0.01, nor is one in seven of the amounts from 0.00 to 99.99 (one in three of tenths
# and of steps of 0.05). It divides the floats. Guess: `multipleOf` is about the number that is written, as the standard has
# it; jsonschema-rs, fastjsonschema and pydantic say so of all of them. What a model answers within its schema is then "invalid",
# and asked for again. Ours reckons with the written digits (router/json_schemas.py: _multiple_of).
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "jsonschema==4.26.0" "jsonschema-rs==0.61.2" "fastjsonschema==2.22.3" "pydantic==2.14.4"
"$place/venv/bin/python" - <<'PY'
import json
from typing import Annotated

import fastjsonschema
import jsonschema
import jsonschema_rs
from pydantic import Field, TypeAdapter


def holds(check, value):
    try:
        check(value)
    except ValueError:  # each library's own error is one; jsonschema's is asked by is_valid
        return False
    return True


for step, digits, refused in (("0.01", 2, 1363), ("0.1", 1, 3228), ("0.05", 2, 3228), ("0.5", 1, 0)):
    rules = json.loads(f'{{"type": "number", "multipleOf": {step}}}')
    scaled = round(float(step) * 10**digits)
    amounts = [json.loads(f"{number * scaled // 10**digits}.{number * scaled % 10**digits:0{digits}}") for number in range(10_000)]
    mine = jsonschema.Draft202012Validator(rules)
    others = (
        jsonschema_rs.validator_for(rules).validate,
        fastjsonschema.compile(rules),
        TypeAdapter(Annotated[float, Field(multiple_of=float(step))]).validate_python,
    )
    assert all(holds(check, amount) for check in others for amount in amounts), step
    wrong = [amount for amount in amounts if not mine.is_valid(amount)]
    assert len(wrong) == refused, (step, len(wrong))
    assert step != "0.01" or 19.99 in wrong
    print(f"as found: jsonschema refuses {len(wrong):,} of {len(amounts):,} multiples of {step}:", *wrong[:5])
PY
