"""One meaning of `valid`, where jsonschema's own differs from the standard."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thirdshift.engines.core.validation import is_valid
from thirdshift.router.certification.scorers import Scorer, score
from thirdshift.router.json_schemas import schema_problem, validator
from thirdshift.warehouse.intake import messages


@given(st.integers(-(10**9), 10**9), st.integers(1, 6), st.sampled_from(["1", "2", "2.5", "5"]))
def test_a_multiple_is_one_by_its_written_digits(times: int, digits: int, first: str) -> None:
    step = Decimal(first).scaleb(-digits)
    rules = json.loads(f'{{"type": "number", "multipleOf": {step:f}}}')
    assert validator(rules).is_valid(json.loads(f"{times * step:f}"))
    assert not validator(rules).is_valid(json.loads(f"{times * step + step / 10:f}"))


@pytest.mark.parametrize("value", ["1e999", '"19.99"', "true"])
def test_what_is_no_finite_number_is_no_multiple_or_none_of_its_concern(value: str) -> None:
    assert validator({"multipleOf": 0.01}).is_valid(json.loads(value)) == (value != "1e999")


@pytest.mark.parametrize("dialect", ["http://json-schema.org/draft-07/schema#", None])
@pytest.mark.parametrize(
    ("pattern", "held", "refused"),
    [(r"^\p{Lu}\p{L}+$", "Élodie", "élodie"), (r"^(?<year>\d{4})-\d\d$", "2026-11", "26-11")],
)
def test_patterns_may_say_what_only_ecma_262_knows(
    dialect: str | None, pattern: str, held: str, refused: str
) -> None:
    rules = {"type": "object", "properties": {"pattern": {"type": "string", "pattern": pattern}}}
    if dialect is not None:
        rules["$schema"] = dialect
    for value, valid in ((held, True), (refused, False)):
        answer = json.dumps({"pattern": value})
        assert is_valid(rules, answer) is valid
        assert score(Scorer("json_schema"), answer, None, json.dumps(rules)) == float(valid)
    assert messages.schema_problem(json.dumps(rules)) is None


def test_an_empty_pattern_is_in_every_text() -> None:
    assert validator({"pattern": ""}).is_valid("anything")


@pytest.mark.parametrize(
    ("rules", "place"),
    [
        ({"pattern": "("}, "$.pattern"),
        ({"properties": {"name": {"pattern": "*"}}}, "$.properties.name.pattern"),
        ({"patternProperties": {r"^\p{L}+$": {}}}, "$.patternProperties"),
        ({"type": "strin"}, "$.type"),
    ],
)
def test_a_schema_that_nothing_can_be_judged_by_is_told_with_its_place(
    rules: dict[str, object], place: str
) -> None:
    assert schema_problem(rules) == place
    assert is_valid(rules, "1") is True  # the row was refused when it came in
    assert (
        messages.schema_problem(json.dumps(rules)) == f"response_schema is no valid JSON schema, at {place}"
    )
