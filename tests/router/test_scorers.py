from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thirdshift.router import patterns
from thirdshift.router.certification.scorers import (
    FIELD_SCORERS,
    KINDS,
    Basis,
    Need,
    Scorer,
    ScorerError,
    check,
    needs,
    score,
    score_batch,
)


@pytest.mark.parametrize(
    ("name", "output", "reference", "expected"),
    [
        ("exact", "  Paris\n", "Paris", 1),
        ("exact", "paris", "Paris", 0),
        ("exact", "", "", 1),
        ("choice", "Options A and B; the answer is (c).", "C", 1),
        ("choice", "**B**", "b", 1),
        ("choice", "The answer is B, and that's it", "B", 1),
        ("choice", "B. I'm sure", "B", 1),
        ("choice", "answer: A\nno, D", "A", 0),
        ("choice", "Paris", "A", 0),
        ("choice", "It is B", "(B)", 1),
        ("choice", "B", "no letter here", None),
        ("numeric", "So she pays $1,234.50 in all.", "1234.5", 1),
        ("numeric", "5 apples and then 7", "7", 1),
        ("numeric", "minus: -3", "-3", 1),
        ("numeric", "\u22123", "-3", 1),
        ("numeric", "-$3", "-3", 1),
        ("numeric", "10-3", "3", 1),
        ("numeric", "€12", "12.000001", 1),
        ("numeric", "12", "12.1", 0),
        ("numeric", "1e-3", "0.001", 1),
        ("numeric", ".5", "0.5", 1),
        ("numeric", "12,34,567", "1234567", 1),
        ("numeric", "1,2,3", "3", 1),
        ("numeric", "no number", "3", 0),
        ("numeric", "3", "three", None),
        ("numeric", "1e999 or 4", "4", 1),
        ("contains", "the capital is Paris.", " Paris ", 1),
        ("contains", "the capital is Lyon", "Paris", 0),
        ("contains", "anything", "  ", None),
        ("regex", "order 1234", r"order \d{4}", 1),
        ("regex", "order 12", r"order \d{4}", 0),
        ("regex", "order 12", "order (", None),
        ("agreement", " Yes,  it IS ", "yes, it is", 1),
        ("agreement", '{"a": 1, "b": 2}', '{"b": 2, "a": 1.0}', 1),
        ("agreement", "yes", "no", 0),
        ("agreement", "It is \uff11\uff10\u00a0kg", "it is 10 kg", 1),
        ("agreement", "10²", "102", 0),
        ("agreement", "log₂8", "log28", 0),
        ("agreement", "10² m", " 10²  M", 1),
        ("agreement", "true", "1", 0),
        ("agreement", '{"a": [false]}', '{"a": [0]}', 0),
        ("agreement", '{"a": [false]}', '{"a": [false]}', 1),
        ("agreement", "[" * 900 + "]" * 900, "[" * 900 + "]" * 900, 1),
    ],
)
def test_a_scorer_compares_as_the_contract_words_it(
    name: str, output: str, reference: str, expected: float | None
) -> None:
    assert score(Scorer(name), output, reference) == expected


@pytest.mark.parametrize("name", [n for n, k in KINDS.items() if Need.REFERENCE in k.needs and n != "fields"])
def test_no_answer_scores_zero_and_no_reference_has_no_score(name: str) -> None:
    assert score(Scorer(name), None, "7 A") == 0
    assert score(Scorer(name), "7 A", None) is None
    assert score(Scorer(name), None, None) is None


def test_a_job_pattern_stands_for_the_references() -> None:
    scorer = Scorer("regex", pattern=r"^\w+$")
    assert needs(scorer) == set()
    assert score(scorer, "word") == 1
    assert score(scorer, "two words", reference="two words") == 0
    assert score(scorer, None) == 0


def test_a_pattern_that_backtracks_without_end_is_stopped() -> None:
    begun = time.monotonic()
    assert score(Scorer("regex", pattern=r"^(\w+\s?)*\1$"), "word " * 40 + "!") == 0
    assert time.monotonic() - begun < 5 * patterns.PATTERN_SECONDS


SCHEMA = '{"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}'


@pytest.mark.parametrize(
    ("output", "schema", "expected"),
    [
        ('{"n": 1}', SCHEMA, 1),
        ('{"n": 1.5}', SCHEMA, 0),
        ("{n: 1}", SCHEMA, 0),
        ('{"n": NaN}', SCHEMA, 0),
        (None, SCHEMA, 0),
        ('{"n": 1}', None, None),
        ('{"n": 1}', "{broken", None),
        ('{"n": 1}', '{"type": "nonsense"}', None),
        ("1", '{"$ref": "https://example.org/schema.json"}', None),
        ("1", '{"$schema": 5}', None),
        ("1e400", '{"multipleOf": 0.01}', 0),
        ("9" * 400, '{"multipleOf": 0.01}', 1),
        ('{"a":' * 900 + "1" + "}" * 900, '{"properties": {"a": {"$ref": "#"}}}', 0),
    ],
)
def test_json_schema_validates_and_fetches_nothing(
    output: str | None, schema: str | None, expected: float | None
) -> None:
    assert score(Scorer("json_schema"), output, None, schema) == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ('{"category": "bug", "amount": "12.0 USD", "deep": {"x": "a"}}', 1),
        ('{"category": "bug", "amount": 13, "deep": {"x": "a"}}', 2 / 3),
        ('{"category": "bug"}', 1 / 3),
        ('["bug"]', 0),
        ("no JSON", 0),
        (None, 0),
    ],
)
def test_fields_is_the_mean_over_fields_each_by_its_scorer(output: str | None, expected: float) -> None:
    scorer = Scorer("fields", fields={"category": "exact", "amount": "numeric", "deep.x": "exact"})
    reference = '{"category": "bug", "amount": 12, "deep": {"x": "a"}}'
    assert score(scorer, output, reference) == pytest.approx(expected)
    assert score(scorer, output, "no JSON") is None


def test_a_field_that_is_null_in_both_is_right() -> None:
    scorer = Scorer("fields", fields={"a": "exact", "b": "exact"})
    assert score(scorer, '{"a": "x"}', '{"a": "x", "b": null}') == 1
    assert score(scorer, '{"a": "x", "b": "y"}', '{"a": "x", "b": null}') == 0.5


@pytest.mark.parametrize("output", ["no JSON", "[]", "null", '```json\n{"a": "x"}\n```'])
def test_what_is_no_object_has_no_field_not_even_one_that_is_null(output: str) -> None:
    assert score(Scorer("fields", fields={"a": "exact", "b": "exact"}), output, '{"a": "x"}') == 0


def test_a_field_that_is_as_the_reference_has_it_is_right_whatever_compares_it() -> None:
    scorer = Scorer("fields", fields={"amount": "numeric", "note": "contains"})
    assert score(scorer, '{"amount": "n/a", "note": ""}', '{"amount": "n/a", "note": ""}') == 1
    assert score(scorer, '{"amount": 5, "note": "x"}', '{"amount": "n/a", "note": ""}') == 0


def test_a_users_function_gets_output_reference_and_request() -> None:
    scorer = Scorer(
        "mine.module:half", function=lambda output, reference, request: 0.5 if request["task"] else 1.0
    )
    assert score(scorer, "x", "y", request={"task": "t"}) == 0.5
    assert score(scorer, None, request={"task": "t"}) == 0


def test_what_a_function_does_wrong_names_it_and_the_request_and_scores_0() -> None:
    def odd(output: str, reference: str | None, request: Mapping[str, Any]) -> Any:
        return {"good": 1, "high": 2.0, "text": "secret", "nan": float("nan")}[output]

    scorer = Scorer("mine:odd", function=odd)
    batch = pa.table(
        {"request_id": ["a", "b", "c", "d", "e"], "output": ["good", "high", "text", "nan", "secret"]}
    )
    faults: list[ScorerError] = []
    np.testing.assert_array_equal(score_batch(scorer, batch, faults.append), [1, 0, 0, 0, 0])
    said = [str(fault) for fault in faults]
    for told, what in zip(
        said, ("b: returned 2.0", "c: returned a str", "d: returned nan", "e: raised KeyError"), strict=True
    ):
        assert f"scorer mine:odd, request {what}" in told
    assert "secret" not in "".join(said)
    with pytest.raises(ScorerError, match="request b"):
        score_batch(scorer, batch)


def test_a_function_reads_the_request_as_values_without_the_answer() -> None:
    seen: list[Mapping[str, Any]] = []
    scorer = Scorer("mine:see", function=lambda output, reference, request: seen.append(request) or 1.0)
    row = {"request_id": "a", "output": "x", "messages": '[{"role": "user"}]', "metadata": None}
    assert score_batch(scorer, pa.Table.from_pylist([row])) == [1.0]
    assert seen == [{"request_id": "a", "messages": [{"role": "user"}], "metadata": None}]


def test_the_table_is_whole() -> None:
    """Every scorer that the contract names is in it, and each has a way to its score."""
    listed = {
        "exact",
        "choice",
        "numeric",
        "contains",
        "regex",
        "json_schema",
        "fields",
        "judge",
        "agreement",
    }
    assert set(KINDS) == listed
    assert {name for name, kind in KINDS.items() if kind.compare is None} == {"fields", "judge"}
    assert {kind.basis for kind in KINDS.values()} | {Basis.HUMAN} == set(Basis)
    for name in FIELD_SCORERS:
        assert KINDS[name].compare is not None
        assert KINDS[name].needs == {Need.REFERENCE}


@pytest.mark.parametrize(
    ("scorer", "says"),
    [
        (Scorer("exakt"), "no scorer called 'exakt'; scorers are exact, choice, .* did you mean exact?"),
        (Scorer("regex", pattern="("), "quality.pattern"),
        (Scorer("fields"), "quality.fields"),
        (Scorer("fields", fields={"a": "judge"}), "no scorer called 'judge'"),
    ],
)
def test_a_wrong_scorer_is_named_with_the_nearest_right_one(scorer: Scorer, says: str) -> None:
    with pytest.raises(ScorerError, match=says):
        check(scorer)


def test_a_batch_scores_as_its_rows_do() -> None:
    batch = pa.record_batch({"output": ["4", None, "5", "x"], "reference": ["4", "4", None, "4"]})
    np.testing.assert_array_equal(score_batch(Scorer("numeric"), batch), [1, 0, np.nan, 0])
    no_reference = batch.select(["output"])
    assert np.isnan(score_batch(Scorer("numeric"), no_reference)).all()


@given(st.sampled_from(sorted(set(KINDS) - {"judge"})), st.text(max_size=80), st.text(max_size=30))
def test_a_score_is_between_0_and_1_whatever_the_texts(name: str, output: str, reference: str) -> None:
    scorer = Scorer(name, fields={"a": "exact"})
    value = score(scorer, output, reference, response_schema=reference)
    assert value is None or 0 <= value <= 1


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_number_is_found_again_however_it_is_written(number: float) -> None:
    assert score(Scorer("numeric"), f"That makes ${number:,.4f}.", f"{number:.4f}") == 1
