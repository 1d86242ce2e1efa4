"""The emulated provider in real time: coherent, repeatable, honest in its books, and bad on demand."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_SECONDS
from tests.support.servers import (
    Got,
    billed_usd,
    chat,
    cheap,
    dear,
    emulated,
    fetch,
    known_items,
    right_share,
)
from thirdshift.engines.core.validation import is_valid
from thirdshift.engines.emulator import Emulator, EmulatorError, OutputTokens, ability_for
from thirdshift.engines.emulator.rate_limits import Allowance
from thirdshift.router.values import Limits, Mode, Price, PriceSchedule, Usage, usd

ITEMS = known_items(400)
SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"enum": ["bug", "wish", "praise"]},
        "urgency": {"type": "integer", "minimum": 1, "maximum": 5},
        "words": {"type": "array", "items": {"type": "string"}, "minItems": 2},
    },
    "required": ["label", "urgency", "words"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    models = [
        dear(output=OutputTokens(median=40, spread=0.5, growth=1.0, reasoning_share=0.5)),
        cheap(),
        cheap(name="narrow", context_window=100),
        cheap(name="unsure", ability=ability_for(0.7), slope=1.0),
    ]
    with emulated(models, items=ITEMS, seed=7) as running:
        yield running


# --- answers ----------------------------------------------------------------------------------------------


def test_the_easy_is_solved_by_both_and_the_hard_only_by_the_dear_model(emulator: Emulator) -> None:
    easy = [row for row in ITEMS if (row.difficulty or 0) <= 0.2][:40]
    hard = [row for row in ITEMS if (row.difficulty or 0) >= 0.9][:40]
    assert right_share(emulator, "cheap", easy) > 0.8
    assert right_share(emulator, "cheap", hard) < 0.25
    assert right_share(emulator, "dear", hard) > 0.9


def test_the_same_request_to_the_same_model_gets_the_same_answer(emulator: Emulator) -> None:
    for row in ITEMS[:20]:
        first, second = (chat(emulator, "cheap", str(row.prompt)).json for _ in range(2))
        assert first["choices"] == second["choices"]
        assert first["usage"] == second["usage"]
        assert first["id"] != second["id"]


def test_another_process_with_the_same_seed_answers_alike_and_another_seed_differs(
    emulator: Emulator,
) -> None:
    prompts = [str(row.prompt) for row in ITEMS[:60]]
    here = [chat(emulator, "cheap", prompt).text for prompt in prompts]
    with emulated([cheap()], items=ITEMS, seed=7) as same, emulated([cheap()], items=ITEMS, seed=8) as other:
        assert [chat(same, "cheap", prompt).text for prompt in prompts] == here
        assert [chat(other, "cheap", prompt).text for prompt in prompts] != here


def test_unknown_requests_get_agreeing_answers_at_the_ability_asked_for(emulator: Emulator) -> None:
    answers = [chat(emulator, "unsure", f"what about {n}?").json for n in range(300)]
    again = chat(emulator, "dear", "what about 1?").text
    assert again.startswith("answer ")
    right = emulator.totals()["unsure"]["right"]
    assert len(answers) == 300
    assert abs(right / 300 - 0.7) < 0.08  # 3 standard deviations of 300 draws


@given(st.floats(0.02, 0.98))
def test_ability_for_is_the_inverse_of_the_share_over_drawn_difficulties(share: float) -> None:
    ability = ability_for(share)
    at = [(n + 0.5) / 4000 for n in range(4000)]
    mean = sum(1 / (1 + math.exp(math.log(u / (1 - u)) - ability)) for u in at) / 4000
    assert mean == pytest.approx(share, abs=2e-3)


def test_every_reply_says_that_it_is_emulated(emulator: Emulator) -> None:
    good, missing = chat(emulator, "cheap", "add 1 2"), chat(emulator, "nobody", "add 1 2")
    for got in (good, missing, fetch(f"{emulator.api_base}/models")):
        assert got.headers["x-thirdshift-emulated"] == "1"
    assert good.json["model"] == "emulated/cheap"
    assert missing.status == 404
    assert "cheap" in missing.json["error"]["message"]


@pytest.mark.parametrize(
    "more", [{"stream": True}, {"n": 2}, {"max_tokens": 0}, {"max_tokens": "many"}, {"messages": "hello"}]
)
def test_a_body_that_is_wrong_is_told_so(emulator: Emulator, more: dict[str, object]) -> None:
    got = chat(emulator, "cheap", "add 1 2", **more)
    assert got.status == 400
    assert next(iter(more)) in got.json["error"]["message"]


def test_max_tokens_cuts_and_says_so(emulator: Emulator) -> None:
    row = max(ITEMS, key=lambda row: len(row.reference or ""))
    whole = chat(emulator, "cheap", str(row.prompt))
    cut = chat(emulator, "cheap", str(row.prompt), max_tokens=2)
    assert whole.json["choices"][0]["finish_reason"] == "stop"
    assert cut.json["choices"][0]["finish_reason"] == "length"
    assert cut.json["usage"]["completion_tokens"] == 2
    assert whole.text.startswith(cut.text)
    assert len(cut.text) < len(whole.text)


def test_reasoning_can_eat_the_ceiling(emulator: Emulator) -> None:
    got = chat(emulator, "dear", str(ITEMS[0].prompt), max_tokens=1)
    usage = got.json["usage"]
    assert (got.text, usage["completion_tokens"]) == ("", 1)
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 1


def test_a_context_window_is_a_400_that_costs_nothing(emulator: Emulator) -> None:
    got = chat(emulator, "narrow", "x" * 500, max_tokens=10)
    assert (got.status, got.json["error"]["code"]) == (400, "context_length_exceeded")
    assert emulator.totals()["narrow"]["billed"] == 0


def test_a_schema_is_obeyed_by_right_and_wrong_answers(emulator: Emulator) -> None:
    from thirdshift.router.values import Request

    request = Request(0, "r", "h", "t", (), response_schema=SCHEMA)
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    texts = [
        chat(emulator, model, f"ticket {n}", response_format=wanted).text
        for n in range(20)
        for model in ("cheap", "dear")
    ]
    assert all(is_valid(request, text) for text in texts)
    assert len(set(texts)) > 10


def test_a_long_prefix_seen_before_is_cached_and_cheaper(emulator: Emulator) -> None:
    def ask(question: str) -> Got:
        system = {"role": "system", "content": "rules " * 1000}
        body = {"model": "dear", "messages": [system, {"role": "user", "content": question}]}
        return fetch(f"{emulator.api_base}/chat/completions", body)

    first, second = ask("one").json["usage"], ask("two").json["usage"]
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["prompt_tokens_details"]["cached_tokens"] == 1408  # 1,504 tokens, down to a multiple of 128
    entry = emulator.books()[-1]
    expected = (
        (entry["input_tokens"] - 1408) * Decimal(5)
        + 1408 * Decimal("0.5")
        + entry["output_tokens"] * Decimal(25)
    )
    assert Decimal(entry["cost_usd"]) == usd(expected / 1_000_000)


# --- the books --------------------------------------------------------------------------------------------


def test_the_books_are_the_replies_to_the_nano_dollar() -> None:
    with emulated([dear(), cheap()], items=ITEMS) as emulator:
        replies = [
            chat(emulator, name, str(row.prompt)).json for row in ITEMS[:50] for name in ("dear", "cheap")
        ]
        books = {entry["id"]: entry for entry in emulator.books()}
        assert len(books) == len(replies) == 100
        total = Decimal(0)
        for reply in replies:
            usage, entry = reply["usage"], books[reply["id"]]
            price = {"emulated/dear": (5, 25), "emulated/cheap": (Decimal("0.1"), Decimal("0.4"))}[
                reply["model"]
            ]
            cost = usd(
                (usage["prompt_tokens"] * price[0] + usage["completion_tokens"] * price[1]) / Decimal(10**6)
            )
            assert Decimal(entry["cost_usd"]) == cost
            total += cost
        assert billed_usd(emulator) == total
        assert sum(Decimal(model["cost_usd"]) for model in emulator.totals().values()) == total


def test_the_batch_price_is_half_unless_told() -> None:
    assert dear().price_for(Mode.BATCH).base == Price(Decimal("2.5"), Decimal("12.5"), Decimal("0.25"))
    own = Price(Decimal(1), Decimal(2))
    assert dear(batch_price=own).price_for(Mode.BATCH) == PriceSchedule(own)
    assert dear().price_for(Mode.FLEX) == dear().price_for(Mode.BATCH)


# --- limits -----------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(0, 7), st.integers(1, 400)), min_size=1, max_size=200),
    st.integers(1, 30),
    st.integers(100, 1000),
)
def test_no_sliding_minute_sees_more_than_the_limits(
    arrivals: list[tuple[float, int]], rpm: int, tpm: int
) -> None:
    allowance, now, let_in = Allowance(Limits(rpm=rpm, tpm=tpm)), 0.0, list[tuple[float, int]]()
    for gap, tokens in arrivals:
        now += gap
        wait = allowance.admit(tokens, now)
        if wait == 0.0:
            let_in.append((now, tokens))
        elif math.isfinite(wait):
            now += wait + 1e-6  # who comes back when told is let in
            assert allowance.admit(tokens, now) == 0.0
            let_in.append((now, tokens))
    for start, _ in let_in:
        window = [tokens for at, tokens in let_in if start <= at < start + 60.0]
        assert len(window) <= rpm
        assert sum(window) <= tpm


def test_limits_are_429_with_headers_that_tell_when_to_come_back() -> None:
    with emulated([cheap(limits=Limits(rpm=5, tpm=100_000))], items=ITEMS) as emulator:
        got = [chat(emulator, "cheap", "add 1 2") for _ in range(8)]
        assert [reply.status for reply in got] == [200] * 5 + [429] * 3
        assert got[0].headers["x-ratelimit-limit-requests"] == "5"
        assert [got[n].headers["x-ratelimit-remaining-requests"] for n in (0, 4, 5)] == ["4", "0", "0"]
        assert int(got[0].headers["x-ratelimit-remaining-tokens"]) < 100_000
        assert 55 <= int(got[5].headers["retry-after"]) <= 60
        assert got[5].json["error"]["code"] == "rate_limit_exceeded"
        assert len(emulator.books()) == 5
        assert emulator.totals()["cheap"]["statuses"] == {"200": 5, "429": 3}


def test_concurrency_is_a_limit_too_and_latency_takes_its_time() -> None:
    with emulated([cheap(limits=Limits(concurrency=2), latency_seconds=0.4)]) as emulator:
        began = time.monotonic()
        with ThreadPoolExecutor(5) as pool:
            got = list(pool.map(lambda n: chat(emulator, "cheap", f"q{n}").status, range(5)))
        assert sorted(got) == [200, 200, 429, 429, 429]
        assert time.monotonic() - began >= 0.4
        assert emulator.totals()["cheap"]["most_in_flight"] == 2


# --- the process ------------------------------------------------------------------------------------------


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(EmulatorError, match="one name: cheap, cheap"):
        Emulator([cheap(), cheap()])


def test_an_outcomes_file_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "outcomes.parquet").write_text("no parquet")
    with pytest.raises(EmulatorError, match="did not start"):
        Emulator([cheap()], outcomes=tmp_path / "outcomes.parquet").start()


def test_a_stopped_emulator_is_gone_and_says_so() -> None:
    with emulated([cheap()]) as emulator:
        pid = emulator.pid
    assert pid is not None
    assert not psutil.pid_exists(pid)
    with pytest.raises(EmulatorError, match="does not answer"):
        emulator.books()


def test_killing_its_starter_ends_the_emulator_and_leaves_no_file() -> None:
    program = (
        "import time; from tests.support.servers import *; e = Emulator([CHEAP]); e.start();"
        "print(e.pid, e._folder, flush=True); time.sleep(60)"
    )
    root = ROOT
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        pid, folder = starter.stdout.readline().split()
        assert psutil.pid_exists(int(pid))
        os.kill(starter.pid, signal.SIGKILL)
        until = time.monotonic() + PATIENCE_SECONDS
        while (psutil.pid_exists(int(pid)) or Path(folder).exists()) and time.monotonic() < until:
            time.sleep(0.05)
    assert not psutil.pid_exists(int(pid))
    assert not Path(folder).exists()


def test_usage_is_a_value_of_ours() -> None:
    """What the books hold is what the ledger's Usage holds: nothing is lost between them."""
    with emulated([cheap()]) as emulator:
        chat(emulator, "cheap", "add 1 2")
        assert set(Usage.__slots__) <= set(emulator.books()[0])
