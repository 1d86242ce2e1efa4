"""What the emulated provider answers where it was told: recorded outcomes, right answers, and wrong ones."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.servers import chat, cheap, dear, emulated, endpoint, fetch, known_items, right_share
from thirdshift.engines.core.validation import is_valid
from thirdshift.engines.emulator import KnownRow
from thirdshift.engines.emulator.generation import instance, wrong, wrong_json
from thirdshift.router.certification.comparisons import last_letter
from thirdshift.router.certification.judge import Judge, Question
from thirdshift.router.certification.scorers import KINDS
from thirdshift.router.values import Request

ITEMS = known_items(200)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("outcomes") / "outcomes.parquet"
    rows = [
        {
            "request_id": row.request_id,
            "prompt": f" {row.prompt}\n",
            "task": "t",
            "model": model,
            "score": score,
            "input_tokens": 100 + n,
            "output_tokens": 10 * n,
            "cost_usd": 0.0,
        }
        for n, row in enumerate(ITEMS[:100])
        for model, score in (("old/one", float(n % 3 == 0)), ("old/two", 1.0), ("old/half", 0.5))
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_recorded_outcomes_are_replayed_exactly(outcomes: Path) -> None:
    models = [
        cheap(recorded_as="old/one", ability=-99.0),
        dear(name="old/two"),
        cheap(name="half", recorded_as="old/half"),
    ]
    with emulated(models, items=ITEMS, outcomes=outcomes) as emulator:
        for n, row in enumerate(ITEMS[:60]):
            got = chat(emulator, "cheap", str(row.prompt), max_tokens=300)
            assert (got.text == row.reference) == (n % 3 == 0), row
            usage = got.json["usage"]
            assert (usage["prompt_tokens"], usage["completion_tokens"]) == (100 + n, min(10 * n, 300))
            assert chat(emulator, "old/two", str(row.prompt)).text == row.reference
        share = right_share(emulator, "half", ITEMS[:100])
        assert 0.3 < share < 0.7
        assert chat(emulator, "cheap", str(ITEMS[150].prompt)).text != ITEMS[150].reference  # by ability


def test_recorded_answers_are_given_and_an_emulated_judge_knows_what_they_scored(tmp_path: Path) -> None:
    said = {"old/one": ["B", "A", None], "old/two": ["B", "C", None]}
    rows = [
        {"request_id": f"q{n}", "prompt": f"question {n}", "task": "t", "model": model, "score": float(answer == "B"),
         "input_tokens": 9, "output_tokens": 3, "cost_usd": 0.0, "answer": answer}
        for model, answers in said.items() for n, answer in enumerate(answers)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "outcomes.parquet")
    models = [
        cheap(recorded_as="old/one"),
        dear(recorded_as="old/two"),
        cheap(name="wise", lenient=0, harsh=0),
    ]
    with emulated(models, outcomes=tmp_path / "outcomes.parquet") as emulator:
        judge = Judge(endpoint(emulator, "wise"), "is it right?")

        def text(name: str, n: int) -> str:
            return chat(emulator, name, f"question {n}").text

        def score(n: int, answer: str) -> float:
            question = Question(({"role": "user", "content": f"question {n}"},), answer)
            said = chat(emulator, "wise", str(judge.messages(question)[-1]["content"])).text
            return float(json.loads(said)["score"])

        assert [text("cheap", 0), text("cheap", 1), text("dear", 1)] == ["B", "A", "C"]
        unread = [text("cheap", 2), text("dear", 2)]
        assert len({*unread, "A", "B", "C"}) == 5, "an answer that nobody could read agrees with none"
        assert all(last_letter(each) is None for each in unread)
        assert [score(0, "B"), score(1, "A"), score(1, "C"), score(2, unread[0])] == [1, 0, 0, 0]


def test_without_anything_known_a_record_is_found_by_its_prompt(outcomes: Path) -> None:
    with emulated([cheap(recorded_as="old/two")], outcomes=outcomes) as emulator:
        for n, row in enumerate(ITEMS[:20]):
            usage = chat(emulator, "cheap", str(row.prompt)).json["usage"]
            assert (usage["prompt_tokens"], usage["completion_tokens"]) == (100 + n, 10 * n)


def test_a_template_around_the_prompt_is_found_by_the_request_id(outcomes: Path) -> None:
    rows = [
        KnownRow(
            reference=row.reference,
            request_id=row.request_id,
            messages=[
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": f"Q: {row.prompt} A:"},
            ],
        )
        for row in ITEMS[:30]
    ]
    with emulated([cheap(recorded_as="old/one")], items=rows, outcomes=outcomes) as emulator:
        for n, row in enumerate(rows):
            body = {"model": "cheap", "messages": row.messages}
            got = fetch(f"{emulator.api_base}/chat/completions", body)
            assert (got.text == row.reference) == (n % 3 == 0)
            assert got.json["usage"]["prompt_tokens"] == 100 + n
            by_metadata = chat(emulator, "cheap", "unheard of", metadata={"request_id": row.request_id})
            assert by_metadata.json["usage"]["prompt_tokens"] == 100 + n


REFERENCES = st.one_of(
    st.sampled_from(
        ["A", "j", "(C)", "Answer: B", "yes", "No", "true", "bug", "aab", "xx", "x", "7", "0", "10"]
    ),
    st.integers(-(10**12), 10**12).map(str),
    st.decimals(0, 10**6, places=2).map(str),
    st.integers(1000, 10**9).map(lambda number: f"${number:,}"),
    st.text("abcdefgh ", min_size=1, max_size=20).filter(lambda text: text.strip() != ""),
    st.text(min_size=1, max_size=20).filter(lambda text: text.strip() != ""),
    st.builds(lambda number: f"about {number} apples", st.integers(0, 10**9)),
)


@given(REFERENCES, st.integers(0, 2**64))
def test_no_scorer_takes_a_wrong_answer_for_right(reference: str, seed: int) -> None:
    answer = wrong(reference, "", random.Random(seed))
    for name in ("exact", "contains", "numeric", "choice"):
        compare = KINDS[name].compare
        assert compare is not None
        if compare(reference, reference) == 1.0:  # else this scorer has no use for such a reference
            assert compare(answer, reference) == 0.0, (name, answer)


def test_a_wrong_choice_is_one_of_those_offered() -> None:
    prompt = "Which?\nA. one\nB. two\nC. three"
    assert {wrong("B", prompt, random.Random(seed)) for seed in range(40)} == {"A", "C"}


def test_a_wrong_json_answer_is_wrong_in_every_field() -> None:
    right = {"label": "bug", "amount": 12.5, "paid": True, "lines": [{"n": 1}], "note": None, "tags": []}
    given_wrong = json.loads(wrong(json.dumps(right), "", random.Random(1)))
    assert given_wrong.keys() == right.keys()
    assert all(given_wrong[key] != right[key] for key in right)


def test_a_wrong_answer_to_a_schema_is_wrong_in_every_field_that_can_be() -> None:
    kinds = {
        "a": {"enum": ["x", "y", "z"]},
        "b": {"type": "boolean"},
        "c": {"type": "integer"},
        "d": {"const": 1},
    }
    lines = {"type": "array", "items": {"type": "object", "properties": {"b": {"type": "boolean"}}}}
    schema = {"type": "object", "properties": kinds | {"lines": lines}, "required": [*kinds]}
    request = Request(0, "r", "h", "t", (), response_schema=schema)
    equal = 0
    for seed in range(200):
        right = instance(schema, random.Random(-seed))
        text = wrong_json(schema, json.dumps(right, indent=1), random.Random(seed))
        assert is_valid(request, text)
        made = json.loads(text)
        assert made.keys() == right.keys()
        assert made["d"] == right["d"] == 1
        equal += sum(made[key] == right[key] for key in ("a", "b", "c", "lines"))
    assert equal <= 8, "of 800; a coin falls as the right one eight times in a row"
    only = {"type": "object", "properties": {"d": {"const": 1}}}
    assert wrong_json(only, '{"d": 1}', random.Random(0)) == '{"d": 1}'
    assert is_valid(request, wrong_json(schema, "{no JSON", random.Random(0)))


def test_a_known_label_finds_its_place_in_the_schema() -> None:
    schema = {"type": "object", "properties": {"label": {"enum": ["bug", "wish", "praise"]}}}
    assert instance(schema, random.Random(0), "wish") == {"label": "wish"}
