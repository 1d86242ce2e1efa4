"""The emulated provider misbehaves on demand: each trouble does what it says, and bills what it says."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException, IncompleteRead
from urllib.error import URLError

import pytest

from tests.support.servers import Got, chat, cheap, emulated
from thirdshift.engines.emulator import Emulator, Trouble
from thirdshift.engines.emulator.models import PERSISTENT

SCHEMA = {"type": "object", "properties": {"label": {"enum": ["bug", "wish"]}}, "required": ["label"]}

COMPLETE_ERRORS = {
    Trouble.ERROR_500: 500,
    Trouble.ERROR_503: 503,
    Trouble.ERROR_408: 408,
    Trouble.ERROR_429: 429,
    Trouble.ERROR_429_SILENT: 429,
    Trouble.OVERFLOW: 400,
}
IN_THE_WAY = {Trouble.DROP_BEFORE: 0, Trouble.DROP_AFTER: 1, Trouble.HANG: 1, Trouble.TRUNCATE: 1}
"""→ how many bills."""
IN_THE_ANSWER = {Trouble.CUT_EMPTY, Trouble.INVALID_JSON, Trouble.REFUSE, Trouble.SLOW}


@pytest.fixture(scope="module")
def troubled() -> Iterator[Emulator]:
    """A model per trouble, named like it, that meets it every time."""
    models = [
        cheap(name=trouble.value, troubles={trouble: 1.0}, hang_seconds=0.3, slow_seconds=0.3)
        for trouble in Trouble
    ]
    with emulated(models) as running:
        yield running


def test_every_trouble_is_tested_here() -> None:
    assert {*COMPLETE_ERRORS, *IN_THE_WAY, *IN_THE_ANSWER} == set(Trouble)


@pytest.mark.parametrize("trouble", COMPLETE_ERRORS, ids=str)
def test_a_complete_error_costs_nothing(troubled: Emulator, trouble: Trouble) -> None:
    got = chat(troubled, trouble, "add 1 2")
    assert got.status == COMPLETE_ERRORS[trouble]
    assert got.json["error"]["message"]
    assert ("retry-after" in got.headers) == (trouble is Trouble.ERROR_429)
    assert troubled.totals()[trouble]["billed"] == 0


@pytest.mark.parametrize("trouble", IN_THE_WAY, ids=str)
def test_what_is_lost_on_the_way_is_billed_where_it_was_answered(
    troubled: Emulator, trouble: Trouble
) -> None:
    began = time.monotonic()
    with pytest.raises((URLError, HTTPException, ConnectionError)) as caught:
        chat(troubled, trouble, "add 1 2")
    assert isinstance(caught.value, IncompleteRead) == (trouble is Trouble.TRUNCATE)
    assert (time.monotonic() - began >= 0.3) == (trouble is Trouble.HANG)
    totals = troubled.totals()[trouble]
    assert totals["billed"] == IN_THE_WAY[trouble]
    assert totals["troubles"] == {trouble: 1}


def test_cut_empty_bills_the_whole_ceiling_for_nothing(troubled: Emulator) -> None:
    got = chat(troubled, Trouble.CUT_EMPTY, "add 1 2", max_tokens=77).json
    assert got["choices"][0]["finish_reason"] == "length"
    assert got["choices"][0]["message"]["content"] == ""
    assert got["usage"]["completion_tokens"] == 77


def test_refuse_is_a_refusal_and_billed(troubled: Emulator) -> None:
    message = chat(troubled, Trouble.REFUSE, "add 1 2").json["choices"][0]["message"]
    assert (message["content"], bool(message["refusal"])) == (None, True)
    assert troubled.totals()[Trouble.REFUSE]["billed"] == 1


def test_invalid_json_is_invalid_only_where_a_schema_was_sent(troubled: Emulator) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    with pytest.raises(json.JSONDecodeError):
        json.loads(chat(troubled, Trouble.INVALID_JSON, "a ticket", response_format=wanted).text)
    assert chat(troubled, Trouble.INVALID_JSON, "add 1 2").status == 200


def test_slow_is_slow_and_right(troubled: Emulator) -> None:
    began = time.monotonic()
    assert chat(troubled, Trouble.SLOW, "add 1 2").status == 200
    assert time.monotonic() - began >= 0.3


def test_rates_hold_together_and_passing_troubles_pass() -> None:
    rates = {Trouble.ERROR_500: 0.1, Trouble.ERROR_429: 0.2, Trouble.REFUSE: 0.1, Trouble.SLOW: 0.05}
    prompts = [f"question {n}" for n in range(400)]
    with emulated([cheap(troubles=rates, slow_seconds=0.0)]) as emulator:
        with ThreadPoolExecutor(8) as pool:
            first = list(pool.map(lambda prompt: chat(emulator, "cheap", prompt), prompts))
        met = emulator.totals()["cheap"]["troubles"]
        with ThreadPoolExecutor(8) as pool:
            second = list(pool.map(lambda prompt: chat(emulator, "cheap", prompt), prompts))
    for trouble, rate in rates.items():
        expected = 400 * (rate if trouble in PERSISTENT else rate * 0.9)  # a refusal comes before the others
        assert abs(met[trouble] - expected) < 4 * math.sqrt(expected), trouble
    refused = [[_refused(got) for got in lot] for lot in (first, second)]
    assert refused[0] == refused[1]
    failed = {n for n, got in enumerate(first) if got.status >= 400}
    assert len(failed & {n for n, got in enumerate(second) if got.status >= 400}) < len(failed) / 2


def _refused(got: Got) -> bool:
    return got.status == 200 and got.json["choices"][0]["message"]["refusal"] is not None
