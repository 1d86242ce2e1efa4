"""The emulated provider's files, batches and Anthropic's wire: every way a batch can end, and its bill."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from http.client import HTTPException
from typing import Any
from urllib.error import URLError

import pytest

from tests.support.patience import PATIENCE_SECONDS
from tests.support.servers import Got, billed_usd, chat, cheap, dear, emulated, fetch, known_items
from thirdshift.engines.emulator import BatchHabits, Emulator, KnownRow, Trouble
from thirdshift.engines.emulator.billing import bill_usd
from thirdshift.engines.wires.usage import read_usage
from thirdshift.router.values import Limits, Price, Usage

ITEMS = known_items(300)
KEY = {"shard": "s-1"}


def lines(rows: Sequence[KnownRow], model: str = "cheap") -> list[dict[str, Any]]:
    return [
        {
            "custom_id": str(row.request_id),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": model, "messages": [{"role": "user", "content": row.prompt}], "max_tokens": 64},
        }
        for row in rows
    ]


def upload(emulator: Emulator, content: bytes) -> Got:
    part = b'--edge\r\ncontent-disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    named = b'; filename="in.jsonl"'
    body = part % (b"purpose", b"", b"batch") + part % (b"file", named, content) + b"--edge--\r\n"
    return fetch(f"{emulator.api_base}/files", body, content_type="multipart/form-data; boundary=edge")


def submit(emulator: Emulator, wanted: Sequence[dict[str, Any]], metadata: Mapping[str, str] = KEY) -> Any:
    content = b"".join(json.dumps(line).encode() + b"\n" for line in wanted)
    body = {
        "input_file_id": upload(emulator, content).json["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": metadata,
    }
    return fetch(f"{emulator.api_base}/batches", body).json


def look(emulator: Emulator, batch: Any) -> Any:
    return fetch(f"{emulator.api_base}/batches/{batch['id']}").json


def ended(emulator: Emulator, batch: Any) -> Any:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        batch = look(emulator, batch)
        if batch["status"] in ("completed", "expired", "cancelled", "failed"):
            return batch
        time.sleep(0.02)
    raise AssertionError(batch)


def results(emulator: Emulator, file_id: str | None) -> dict[str, Any]:
    if file_id is None:
        return {}
    raw = fetch(f"{emulator.api_base}/files/{file_id}/content").raw
    return {line["custom_id"]: line for line in map(json.loads, raw.splitlines())}


@pytest.fixture(scope="module")
def quick() -> Iterator[Emulator]:
    with emulated([dear(), cheap()], items=ITEMS, batches=BatchHabits(turnaround_seconds=0.2)) as running:
        yield running


# --- OpenAI's wire ----------------------------------------------------------------------------------------


def test_a_file_comes_back_as_it_went_and_goes_when_deleted(quick: Emulator) -> None:
    content = "ein Brief\nmit Käse\r\n".encode() * 20_000
    stored = upload(quick, content).json
    assert (stored["bytes"], stored["purpose"], stored["filename"]) == (len(content), "batch", "in.jsonl")
    url = f"{quick.api_base}/files/{stored['id']}"
    assert fetch(f"{url}/content").raw == content
    assert fetch(f"{url}/content").headers["x-thirdshift-emulated"] == "1"
    assert fetch(url).json == stored
    assert stored in fetch(f"{quick.api_base}/files?purpose=batch").json["data"]
    assert fetch(url, method="DELETE").json["deleted"] is True
    assert fetch(url).status == fetch(f"{url}/content").status == 404


def test_a_batch_answers_as_real_time_does_at_half_the_price(quick: Emulator) -> None:
    before = billed_usd(quick)
    batch = submit(quick, lines(ITEMS[:40], "dear"))
    assert batch["status"] in ("validating", "in_progress")
    batch = ended(quick, batch)
    assert (batch["status"], batch["metadata"]) == ("completed", KEY)
    assert batch["request_counts"] == {"total": 40, "completed": 40, "failed": 0}
    assert batch["error_file_id"] is None
    found = results(quick, batch["output_file_id"])
    assert list(found) != [row.request_id for row in ITEMS[:40]]  # in an order of its own
    half = Decimal(0)
    for row in ITEMS[:40]:
        response = found[str(row.request_id)]["response"]
        now = chat(quick, "dear", str(row.prompt), max_tokens=64).json
        assert response["status_code"] == 200
        assert response["body"]["choices"] == now["choices"]
        assert response["body"]["usage"] == now["usage"]
        half += bill_usd(
            Price(Decimal("2.5"), Decimal("12.5")), read_usage(now["usage"]).usage or Usage(0, 0)
        )
    booked = [entry for entry in quick.books() if entry["mode"] == "batch"]
    assert sum(Decimal(entry["cost_usd"]) for entry in booked) == half
    assert billed_usd(quick) > before


def test_batches_are_listed_newest_first_and_in_pages(quick: Emulator) -> None:
    made = [submit(quick, lines(ITEMS[:2]), {"shard": f"page-{n}"}) for n in range(5)]
    for batch in made:
        ended(quick, batch)
    seen, after = list[str](), ""
    while True:
        page = fetch(f"{quick.api_base}/batches?limit=2{after}").json
        seen += [batch["id"] for batch in page["data"]]
        assert page["last_id"] == seen[-1]
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert seen[:5] == [batch["id"] for batch in reversed(made)]
    assert len(set(seen)) == len(seen)


FAULTY = {
    "an unknown model": (lines(ITEMS[:2], "nobody"), "model_not_found"),
    "one id twice": ([*lines(ITEMS[:1]), *lines(ITEMS[:1])], "invalid_request"),
    "another url": ([{**lines(ITEMS[:1])[0], "url": "/v1/embeddings"}], "invalid_request"),
    "no id": ([{**lines(ITEMS[:1])[0], "custom_id": None}], "invalid_request"),
    "a bad body": ([{**lines(ITEMS[:1])[0], "body": {"model": "cheap"}}], "invalid_request"),
    "nothing": ([], "empty_file"),
}


@pytest.mark.parametrize("what", FAULTY)
def test_what_is_wrong_with_a_batch_fails_it_before_it_costs(quick: Emulator, what: str) -> None:
    before = len(quick.books())
    wanted, code = FAULTY[what]
    batch = ended(quick, submit(quick, wanted))
    assert batch["status"] == "failed"
    assert batch["errors"]["data"][0]["code"] == code
    assert len(quick.books()) == before


def test_a_request_that_fails_is_in_the_error_file_and_free() -> None:
    with emulated([cheap()], items=ITEMS, batches=BatchHabits(0.0, failed_share=0.3)) as emulator:
        batch = ended(emulator, submit(emulator, lines(ITEMS)))
        good = results(emulator, batch["output_file_id"])
        bad = results(emulator, batch["error_file_id"])
        assert {*good, *bad} == {str(row.request_id) for row in ITEMS}
        assert not good.keys() & bad.keys()
        assert 60 <= len(bad) <= 120
        assert batch["request_counts"] == {"total": 300, "completed": len(good), "failed": len(bad)}
        assert {line["response"]["status_code"] for line in bad.values()} == {500}
        assert len(emulator.books()) == len(good)


def test_troubles_of_answers_reach_batches_and_those_of_connections_do_not() -> None:
    troubles = {Trouble.REFUSE: 0.5, Trouble.DROP_AFTER: 1.0}
    with emulated([cheap(troubles=troubles)], batches=BatchHabits(0.0)) as emulator:
        batch = ended(emulator, submit(emulator, lines(ITEMS[:60])))
        answers = [line["response"]["body"] for line in results(emulator, batch["output_file_id"]).values()]
    assert len(answers) == 60
    assert 15 <= sum(bool(body["choices"][0]["message"]["refusal"]) for body in answers) <= 45


def test_a_stuck_batch_moves_no_more_until_it_is_cancelled_and_bills_what_is_done() -> None:
    habits = BatchHabits(turnaround_seconds=0.1, stuck_at=0.9, cancel_seconds=0.3)
    with emulated([cheap()], items=ITEMS, batches=habits) as emulator:
        batch = submit(emulator, lines(ITEMS[:100]))
        time.sleep(0.6)
        batch = look(emulator, batch)
        assert (batch["status"], batch["request_counts"]["completed"]) == ("in_progress", 90)
        batch = fetch(f"{emulator.api_base}/batches/{batch['id']}/cancel", method="POST").json
        assert batch["status"] == "cancelling"
        batch = ended(emulator, batch)
        assert batch["status"] == "cancelled"
        assert len(results(emulator, batch["output_file_id"])) == 90
        assert batch["error_file_id"] is None
        assert len(emulator.books()) == 90
        again = fetch(f"{emulator.api_base}/batches/{batch['id']}/cancel", method="POST")
        assert again.status == 409


@pytest.mark.parametrize("goes_on", [True, False])
def test_work_may_go_on_while_a_batch_is_being_cancelled(goes_on: bool) -> None:
    habits = BatchHabits(turnaround_seconds=3.0, cancel_seconds=0.5, cancel_goes_on=goes_on)
    with emulated([cheap()], batches=habits) as emulator:
        batch = submit(emulator, lines(ITEMS[:100]))
        time.sleep(0.4)
        batch = fetch(f"{emulator.api_base}/batches/{batch['id']}/cancel", method="POST").json
        at_cancel = batch["request_counts"]["completed"]
        batch = ended(emulator, batch)
        done = batch["request_counts"]["completed"]
        assert 0 < at_cancel < 100
        assert done > at_cancel if goes_on else done == at_cancel
        assert len(results(emulator, batch["output_file_id"])) == len(emulator.books()) == done


def test_an_expired_batch_gives_and_bills_what_it_finished() -> None:
    with emulated([cheap()], batches=BatchHabits(turnaround_seconds=1.0, expires_seconds=0.5)) as emulator:
        batch = ended(emulator, submit(emulator, lines(ITEMS[:100])))
        assert batch["status"] == "expired"
        good, bad = (results(emulator, batch[f"{kind}_file_id"]) for kind in ("output", "error"))
        assert 0 < len(good) <= 50
        assert len(good) + len(bad) == 100
        assert {line["error"]["code"] for line in bad.values()} == {"batch_expired"}
        assert len(emulator.books()) == len(good)


def test_a_batch_can_be_made_without_its_maker_hearing_of_it() -> None:
    with emulated([cheap()], batches=BatchHabits(0.0, lost_creates=1)) as emulator:
        with pytest.raises((URLError, HTTPException, ConnectionError)):
            submit(emulator, lines(ITEMS[:3]), {"shard": "lost"})
        objects = fetch(f"{emulator.api_base}/batches").json["data"]
        assert [batch["metadata"] for batch in objects] == [{"shard": "lost"}]
        submit(emulator, lines(ITEMS[:3]))
        assert len(fetch(f"{emulator.api_base}/batches").json["data"]) == 2


def test_the_limits_of_batches_are_enforced() -> None:
    habits = BatchHabits(turnaround_seconds=30, max_requests=10, max_bytes=10_000, enqueued_tokens=200)
    with emulated([cheap(), dear()], batches=habits) as emulator:
        many = ended(emulator, submit(emulator, lines(ITEMS[:11])))
        assert many["errors"]["data"][0]["code"] == "too_many_tasks"
        assert upload(emulator, b"x" * 10_001).status == 413
        assert (
            look(emulator, submit(emulator, lines(ITEMS[:9])))["status"] != "failed"
        )  # 13 tokens or so each
        full = ended(emulator, submit(emulator, lines(ITEMS[9:18])))
        assert full["errors"]["data"][0]["code"] == "token_limit_exceeded"
        assert look(emulator, submit(emulator, lines(ITEMS[9:18], "dear")))["status"] != "failed"


# --- Anthropic's wire -------------------------------------------------------------------------------------


def say(emulator: Emulator, model: str, prompt: str, **more: Any) -> Got:
    body = {"model": model, "max_tokens": 64, "messages": [{"role": "user", "content": prompt}], **more}
    return fetch(f"{emulator.root}/v1/messages", body)


def test_both_wires_carry_the_same_answers_and_bills(quick: Emulator) -> None:
    for row in ITEMS[:10]:
        got = say(quick, "cheap", str(row.prompt))
        same = chat(quick, "cheap", str(row.prompt), max_tokens=64).json
        message = got.json
        assert message["content"] == [{"type": "text", "text": same["choices"][0]["message"]["content"]}]
        assert message["usage"]["input_tokens"] == same["usage"]["prompt_tokens"]
        assert message["usage"]["output_tokens"] == same["usage"]["completion_tokens"]
        assert (message["stop_reason"], message["model"]) == ("end_turn", "emulated/cheap")
        assert got.headers["x-thirdshift-emulated"] == "1"
    costs = [entry["cost_usd"] for entry in quick.books()[-20:]]
    assert costs[::2] == costs[1::2]


def test_a_tool_that_must_be_called_is_called_by_its_schema(quick: Emulator) -> None:
    schema = {"type": "object", "properties": {"label": {"enum": ["a", "b"]}}, "required": ["label"]}
    tool = {"name": "judge", "input_schema": schema}
    got = say(quick, "dear", "which?", tools=[tool], tool_choice={"type": "tool", "name": "judge"}).json
    assert got["stop_reason"] == "tool_use"
    assert got["content"][0]["input"]["label"] in ("a", "b")


ANTHROPIC_ERRORS = {
    Trouble.ERROR_500: (500, "api_error"),
    Trouble.ERROR_503: (529, "overloaded_error"),
    Trouble.ERROR_429: (429, "rate_limit_error"),
    Trouble.OVERFLOW: (400, "invalid_request_error"),
}


def test_anthropics_errors_are_in_its_own_words() -> None:
    models = [cheap(name=trouble.value, troubles={trouble: 1.0}) for trouble in ANTHROPIC_ERRORS]
    with emulated([*models, cheap(limits=Limits(rpm=1))]) as emulator:
        for trouble, (status, kind) in ANTHROPIC_ERRORS.items():
            got = say(emulator, trouble, "hello")
            assert (got.status, got.json["error"]["type"]) == (status, kind)
        assert (
            say(emulator, Trouble.OVERFLOW, "hello").json["error"]["message"].startswith("prompt is too long")
        )
        first, second = say(emulator, "cheap", "one"), say(emulator, "cheap", "two")
        assert (first.status, second.status) == (200, 429)
        assert first.headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert first.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
        assert 55 <= int(second.headers["retry-after"]) <= 60


def messages_batch(emulator: Emulator, rows: Sequence[KnownRow]) -> Got:
    requests = [
        {
            "custom_id": row.request_id,
            "params": {
                "model": "cheap",
                "max_tokens": 64,
                "messages": [{"role": "user", "content": row.prompt}],
            },
        }
        for row in rows
    ]
    return fetch(f"{emulator.root}/v1/messages/batches", {"requests": requests})


def test_a_message_batch_runs_its_course(quick: Emulator) -> None:
    url = f"{quick.root}/v1/messages/batches"
    batch = messages_batch(quick, ITEMS[:30]).json
    assert batch["request_counts"]["processing"] == 30
    while batch["processing_status"] != "ended":
        time.sleep(0.02)
        batch = fetch(f"{url}/{batch['id']}").json
    assert batch["request_counts"]["succeeded"] == 30
    raw = fetch(f"{quick.root}{batch['results_url']}").raw
    data = {line["custom_id"]: line["result"] for line in map(json.loads, raw.splitlines())}
    row = ITEMS[5]
    same = say(quick, "cheap", str(row.prompt)).json
    assert data[str(row.request_id)]["message"]["content"] == same["content"]
    assert batch["id"] in [one["id"] for one in fetch(url).json["data"]]
    assert batch["id"] not in [one["id"] for one in fetch(f"{quick.api_base}/batches").json["data"]]
    assert fetch(f"{url}/{batch['id']}", method="DELETE").json["type"] == "message_batch_deleted"
    assert fetch(f"{url}/{batch['id']}").status == 404


def test_a_message_batch_cancelled_or_expired_says_so_request_by_request() -> None:
    for habits, kind in (
        (BatchHabits(turnaround_seconds=0.1, stuck_at=0.5), "canceled"),
        (BatchHabits(turnaround_seconds=0.1, stuck_at=0.5, expires_seconds=0.5), "expired"),
    ):
        with emulated([cheap()], batches=habits) as emulator:
            url = f"{emulator.root}/v1/messages/batches"
            batch = messages_batch(emulator, ITEMS[:20]).json
            time.sleep(0.3)
            if kind == "canceled":
                fetch(f"{url}/{batch['id']}/cancel", method="POST")
            while batch["processing_status"] != "ended":
                time.sleep(0.02)
                batch = fetch(f"{url}/{batch['id']}").json
            assert batch["request_counts"][kind] == batch["request_counts"]["succeeded"] == 10
            raw = fetch(f"{emulator.root}{batch['results_url']}").raw
            kinds = [json.loads(line)["result"]["type"] for line in raw.splitlines()]
            assert sorted(kinds) == sorted([kind] * 10 + ["succeeded"] * 10)
            assert len(emulator.books()) == 10


def test_a_message_batch_with_a_fault_is_refused_whole(quick: Emulator) -> None:
    assert messages_batch(quick, []).status == 400
    assert messages_batch(quick, [ITEMS[0], ITEMS[0]]).json["error"]["message"] == "custom_id: used twice"
