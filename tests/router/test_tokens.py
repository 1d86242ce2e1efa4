"""Few requests are counted, many are estimated with an error that holds; JSON and templates are not texts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.prefixes import prefixes_of
from thirdshift.engines.tokenizers import (
    TiktokenCounter,
    counted,
    short_text_counter,
    tiktoken_counter,
    tokenizer_for,
)
from thirdshift.router.tokens.estimate import Ratio, Template, count_exactly, estimate, learn_ratio, texts_of
from thirdshift.router.tokens.prefixes import cached_tokens
from thirdshift.router.tokens.text_stats import COUNTERS, FEATURES, features

BARE = Template(0, 0)
WHOLE = TiktokenCounter("o200k_base")
"""With tiktoken's own tables, once they are loaded."""
WHOLE._count([])


class Letters:
    """A tokenizer of one letter each: counts that can be checked by eye."""

    name = "letters"

    def count(self, texts: Sequence[str]) -> NDArray[np.int32]:
        return np.array([len(t) for t in texts], dtype=np.int32)


def batch(rows: Sequence[str], tools: Sequence[str | None] | None = None) -> pa.RecordBatch:
    columns = {"messages": pa.array(rows, pa.string())}
    if tools is not None:
        columns["tools"] = pa.array(tools, pa.string())
    return pa.record_batch(columns)


def message(text: str, system: str | None = None) -> str:
    told = [{"role": "system", "content": system}] if system is not None else []
    return json.dumps([*told, {"role": "user", "content": text}], ensure_ascii=False, separators=(",", ":"))


def mix(n: int, seed: int) -> Iterator[str]:
    """English, Chinese, code and JSON, of lengths that differ by a factor of ten and more."""
    rng = random.Random(seed)
    english = ("the order came late and nobody told us why", "we asked twice", "refunds matter", "thanks")
    chinese = "今天天气很好我们去公园散步然后吃饭系统出现异常请尽快处理客户反映包裹破损"
    code = ["def f(x):\n    return x + 1\n", "for i in range(10):\n\tprint(i)\n", "class Node:\n    pass\n"]
    for _ in range(n):
        size = int(rng.lognormvariate(3.5, 0.8)) + 3
        kind = rng.randrange(4)
        if kind == 0:
            text = " ".join(" ".join(rng.choices(english, k=size)).split()[:size]) + "."
        elif kind == 1:
            text = "".join(rng.choices(chinese, k=size))
        elif kind == 2:
            text = "".join(rng.choices(code, k=size // 8 + 1))
        else:
            text = json.dumps({f"k{i}": rng.randint(0, 10**6) for i in range(size // 6 + 1)})
        yield message(text, "Answer briefly." if rng.random() < 0.3 else None)


def test_what_is_counted_is_the_text_and_not_its_json() -> None:
    counted = count_exactly([batch([message('a"b\n中')])], Letters(), BARE)
    assert counted.tokens.tolist() == [5]
    assert counted.method == "exact"


def test_a_template_counts_once_per_message_and_once_per_request() -> None:
    rows = [message("ab"), message("ab", system="c"), message('{"role": "fake"}')]
    counted = count_exactly([batch(rows)], Letters(), Template(per_message=10, per_request=100))
    assert counted.tokens.tolist() == [112, 123, 126]


def test_parts_tools_and_calls_are_texts_images_are_not() -> None:
    parts = [{"type": "text", "text": "ab"}, {"type": "image_url", "image_url": {"url": "data:xyz"}}]
    calls = [{"function": {"name": "f"}}]
    rows = json.dumps(
        [{"role": "user", "content": parts}, {"role": "assistant", "content": None, "tool_calls": calls}]
    )
    assert texts_of(rows, '[{"name":"f"}]') == ["ab", "", '{"function":{"name":"f"}}', '[{"name":"f"}]']
    with_tools = count_exactly([batch([message("ab")] * 2, [None, "[12345]"])], Letters(), BARE)
    assert with_tools.tokens.tolist() == [2, 9]


def test_a_small_input_is_counted_and_a_large_one_estimated() -> None:
    rows = list(mix(300, 1))
    rng = np.random.default_rng(0)
    assert estimate([batch(rows)], [Letters()], 300, rng)["letters"].method == "exact"
    large = estimate([batch(rows)], [Letters()], 300, rng, exact_below=10, sample=100)["letters"]
    assert large.method == "calibrated"
    assert 60 < large.counted < 140


def test_few_but_very_long_documents_are_estimated_in_bounded_memory() -> None:
    rng = random.Random(9)
    sizes = [rng.randrange(100_000, 300_000) for _ in range(240)]
    rows = [message("ab 12, " * (size // 7)) for size in sizes]
    batches = [batch(rows[i : i + 40]) for i in range(0, 240, 40)]
    column = estimate(batches, [Letters()], 240, np.random.default_rng(0), template=BARE)["letters"]
    truth = count_exactly(batches, Letters(), BARE).tokens
    assert column.method == "calibrated"
    assert column.counted < 240
    assert column.tokens.sum() == pytest.approx(truth.sum(), rel=0.01)


@pytest.mark.parametrize("encoding", ["o200k_base", "cl100k_base"])
def test_estimates_are_within_one_per_cent_in_total_and_ten_at_the_median(encoding: str) -> None:
    rows = list(mix(8_000, 2))
    batches = [batch(rows[i : i + 1000]) for i in range(0, len(rows), 1000)]
    counter = tiktoken_counter(encoding)
    rng = np.random.default_rng(3)
    guessed = estimate(batches, [counter], len(rows), rng, exact_below=0, sample=2_000)[encoding]
    truth = count_exactly(batches, counter).tokens
    assert guessed.tokens.dtype == np.int32
    assert abs(guessed.tokens.sum() / truth.sum() - 1) < 0.01
    assert np.median(np.abs(guessed.tokens - truth) / truth) < 0.10


def test_the_stated_error_of_the_total_holds() -> None:
    rows = list(mix(4_000, 5))
    truth = int(count_exactly([batch(rows)], Letters()).tokens.sum())
    held = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        column = estimate([batch(rows)], [Letters()], len(rows), rng, exact_below=0, sample=200)["letters"]
        held += abs(column.tokens.sum() / truth - 1) <= max(column.total_error, 0.001)
    assert held >= 17


def test_batches_are_read_once_and_their_cuts_do_not_matter() -> None:
    rows = list(mix(2_000, 7))
    cut = [batch(rows[:3]), batch(rows[3:3]), batch(rows).slice(3)]
    one, other = (
        estimate(iter(b), [Letters()], len(rows), np.random.default_rng(1), exact_below=0)["letters"].tokens
        for b in (cut, [batch(rows)])
    )
    assert np.abs(one - other).max() <= 1


@given(st.lists(st.none() | st.text(max_size=700), max_size=12))
def test_cheap_columns_count_what_they_say(texts: list[str | None]) -> None:
    columns = features(pa.array(texts, pa.string()))
    for row, text in zip(columns, texts, strict=True):
        told = dict(zip(FEATURES, row, strict=True))
        raw = (text or "").encode()
        assert told["bytes"] == len(raw)
        assert told["digits"] == sum(48 <= b < 58 for b in raw)
        assert told["wide"] == sum(b >= 0xE0 for b in raw)
        assert all(told[c] <= max(len(raw), 1) for c in COUNTERS)


def test_each_cheap_column_on_one_line() -> None:
    (row,) = features(pa.array(["getName  (12, 345)中文 \\n\\n x"]))
    assert dict(zip(FEATURES, row.tolist(), strict=True)) == {
        "bytes": 31,
        "words": 3,  # get, Name, x; an escaped n is none
        "letters": 8,
        "numbers": 2,
        "digits": 5,
        "marks": 5,  # ( , ) and two backslashes
        "mark_runs": 3,
        "wide": 2,
        "breaks": 3,  # a second space, two escaped line breaks
    }


def test_a_text_longer_than_any_chunk_is_counted_whole() -> None:
    columns = features(pa.array(["a1" * 300_000]))
    assert dict(zip(FEATURES, columns[0], strict=True))["digits"] == 300_000


def test_a_ratio_is_drawn_to_one_while_little_is_known_and_states_its_error() -> None:
    rng = np.random.default_rng(0)
    guess = rng.integers(50, 500, 400)
    actual = guess * 1.2 * rng.normal(1, 0.05, 400)
    few, many = learn_ratio(guess[:5], actual[:5]), learn_ratio(guess, actual)
    assert 1 < few.ratio < many.ratio
    assert many.ratio == pytest.approx(1.2, abs=0.01)
    assert 0 < many.error < few.error
    assert learn_ratio(guess[:0], actual[:0]) == Ratio()


def test_the_tokenizer_is_the_model_s_own_where_it_is_at_hand(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(
        str(tmp_path / "tokenizer.json")
    )
    assert tokenizer_for(str(tmp_path)).count(["a"]).tolist() == [1]
    assert tokenizer_for("openai/gpt-5.4").name == "o200k_base"
    assert tokenizer_for("openai/gpt-4-turbo").name == "cl100k_base"
    with pytest.raises(ValueError, match="o200k_base"):
        tiktoken_counter("no_such_base")


def test_a_text_is_counted_whole_whatever_length_a_tokenizer_was_saved_with(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    trained = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    trained.enable_truncation(4)
    trained.enable_padding(length=4)
    trained.save(str(tmp_path / "tokenizer.json"))
    assert len(Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("a a a a a a a a")) == 4
    assert tokenizer_for(str(tmp_path)).count(["a", "a a a a a a a a"]).tolist() == [1, 8]


def test_special_tokens_in_a_prompt_are_text() -> None:
    assert tiktoken_counter().count(["<|endoftext|>"])[0] > 1


# --- shared prefixes ----------------------------------------------------------------------------------------


def test_shared_beginnings_are_found_across_batches_and_put_side_by_side() -> None:
    rng = random.Random(4)
    systems = ["Be careful. " * 100, "Classify the ticket. " * 200, None]
    kinds = [rng.randrange(3) for _ in range(600)]
    rows = [message(str(rng.getrandbits(4000)), systems[k]) for k in kinds]
    groups = prefixes_of([batch(rows[:250]), batch(rows[250:])])
    assert groups.order is not None
    for row, kind in enumerate(kinds):
        system = systems[kind]
        low, high = (0, 0) if system is None else (0.7 * len(system), len(system) + 60)
        assert low <= groups.shared_bytes[row] <= high
        assert groups.sharers[row] == (kinds.count(kind) if system is not None else 1)
    ordered = [kinds[i] for i in groups.order]
    assert sum(a != b for a, b in pairwise(ordered)) == 2
    assert sorted(groups.order.tolist()) == list(range(600))


def test_cached_tokens_come_in_whole_blocks_and_the_first_of_a_group_pays() -> None:
    rows = [message("x" * 20_000 + str(i)) for i in range(4)] + [message("alone " * 2000)]
    groups = prefixes_of([batch(rows)])
    tokens = np.full(5, 5_000, np.int32)
    cached = cached_tokens(groups, tokens)
    assert cached[4] == 0
    assert cached[0] == cached[3]
    assert cached[0] * 4 / 3 % 128 == 0
    assert 0 < cached.sum() < tokens.sum()
    assert cached_tokens(groups, tokens, least=100_000).sum() == 0


def test_no_requests_share_nothing() -> None:
    assert prefixes_of([]).groups().size == 0
    short = prefixes_of([batch([message("short"), message("short")])])
    assert (short.shared_bytes.tolist(), short.groups().tolist()) == ([0, 0], [1, 2])


def test_a_text_that_a_tokenizer_breaks_at_is_estimated_and_the_others_are_counted() -> None:
    """Tiktoken's panics are no Exceptions."""

    class Panic(BaseException):
        pass

    def stub(texts: list[str]) -> list[int]:
        if any("boom" in text for text in texts):
            raise Panic
        return [len(text) for text in texts]

    assert counted(stub, ["a", "bb", "boom!", "cccc"]).tolist() == [1, 2, 2, 4]

    def interrupted(_: list[str]) -> list[int]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        counted(interrupted, ["a", "b"])


WORDS = st.text(st.characters(max_codepoint=127), max_size=40)


@given(
    st.lists(
        st.one_of(
            WORDS,
            st.from_regex(r"([A-Z]{0,3}[a-z]{0,12}('[sStTlL]+)?[ \n\t.,0-9]{0,4}){0,8}", fullmatch=True),
        ),
        max_size=8,
    )
)
def test_short_texts_are_counted_as_tiktoken_counts_them(texts: list[str]) -> None:
    tiktoken = TiktokenCounter("o200k_base")
    tiktoken._encoding = WHOLE._encoding
    assert short_text_counter().count(texts) is not None
    assert np.array_equal(short_text_counter().count(texts), tiktoken.count(texts))


def test_what_is_not_short_or_not_ascii_is_left_to_tiktoken() -> None:
    assert short_text_counter().count(["plain", "naïve"]) is None
    assert short_text_counter().count(["a" * 1000]) is None
    assert (
        TiktokenCounter("o200k_base").count(["naïve", "a" * 1000]).tolist()
        == WHOLE.count(["naïve", "a" * 1000]).tolist()
    )
