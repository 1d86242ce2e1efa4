"""Rehearsals: each endpoint of a job has a stand-in, and is reached as before but for its address."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.servers import emulated, fetch, known_items
from thirdshift.engines.emulator import Emulator, recorded_for, recorded_models, stand_in, stood_in
from thirdshift.engines.emulator.billing import bill_usd
from thirdshift.router.values import (
    Endpoint,
    Limits,
    Mode,
    Price,
    PriceSchedule,
    ServerSpec,
    Usage,
    WorkerSpec,
)

ITEMS = known_items(60)


def priced(name: str, model: str, amount: str, **more: Any) -> Endpoint:
    schedule = PriceSchedule(Price(Decimal(amount), Decimal(amount) * 4))
    return replace(Endpoint(name, model, schedule), **more)


ENDPOINTS = [
    priced("low effort", "deepseek/v4", "0.3", params={"reasoning_effort": "low"}, quality_prior=0.4),
    priced("high/effort", "deepseek/v4", "0.6", quality_prior=0.9, limits=Limits(rpm=90)),
    priced("batch", "openai/gpt", "2.5", mode=Mode.BATCH, api_key_env="OPENAI_API_KEY"),
    priced(
        "house", "some/path", "0", workers=WorkerSpec("cpu", 1, "python"), server=ServerSpec(up="make up")
    ),
]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with emulated([stand_in(end, quality=end.quality_prior) for end in ENDPOINTS], items=ITEMS) as running:
        yield running


def ask(endpoint: Endpoint, prompt: str) -> dict[str, object]:
    body = {
        "model": endpoint.wire_model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 500,
    }
    got: dict[str, object] = fetch(f"{endpoint.api_base}/chat/completions", body).json
    return got


def test_only_the_address_of_an_endpoint_changes(emulator: Emulator) -> None:
    for end in ENDPOINTS:
        reached = stood_in(end, emulator.root)
        assert reached.emulated
        assert (reached.workers, reached.server, reached.api_key_env) == (None, None, None)
        same = (
            "name",
            "model",
            "price",
            "mode",
            "params",
            "limits",
            "facts",
            "context_window",
            "quality_prior",
        )
        assert [getattr(reached, name) for name in same] == [getattr(end, name) for name in same]


def test_two_endpoints_with_one_model_have_a_stand_in_each_at_their_own_price(emulator: Emulator) -> None:
    for end in ENDPOINTS[:2]:
        reply = ask(stood_in(end, emulator.root), str(ITEMS[0].prompt))
        assert reply["model"] == f"emulated/{end.name}"
        entry = emulator.books()[-1]
        usage = Usage(entry["input_tokens"], entry["output_tokens"])
        assert Decimal(entry["cost_usd"]) == bill_usd(end.price.base, usage)


def test_a_batch_endpoint_is_billed_at_its_own_price(emulator: Emulator) -> None:
    base = stood_in(ENDPOINTS[2], emulator.root).api_base
    body = {"model": "gpt", "messages": [{"role": "user", "content": ITEMS[0].prompt}], "max_tokens": 9}
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    part = b'--e\r\ncontent-disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    parts = part % (b"purpose", b"", b"batch") + part % (
        b"file",
        b'; filename="f"',
        json.dumps(line).encode(),
    )
    stored = fetch(f"{base}/files", parts + b"--e--\r\n", content_type="multipart/form-data; boundary=e").json
    wanted = {"input_file_id": stored["id"], "endpoint": line["url"], "completion_window": "24h"}
    batch = fetch(f"{base}/batches", wanted).json
    while batch["status"] != "completed":
        batch = fetch(f"{base}/batches/{batch['id']}").json
    entry = emulator.books()[-1]
    assert (entry["model"], entry["mode"]) == ("batch", "batch")
    usage = Usage(entry["input_tokens"], entry["output_tokens"])
    assert Decimal(entry["cost_usd"]) == bill_usd(ENDPOINTS[2].price.base, usage)


def test_stand_ins_are_as_good_as_believed_where_difficulties_are_unknown() -> None:
    rows = [replace(row, difficulty=None) for row in known_items(250, seed=9)]
    cast = [stand_in(end, quality=end.quality_prior) for end in ENDPOINTS[:2]]
    with emulated(cast, items=rows) as emulator:
        for end in ENDPOINTS[:2]:
            for row in rows[: 90 if end.limits.rpm else 250]:
                ask(stood_in(end, emulator.root), str(row.prompt))
            total = emulator.totals()[end.name]
            assert total["right"] / total["billed"] == pytest.approx(end.quality_prior, abs=0.12)


def test_recorded_models_play_the_endpoints_they_are_named_like(tmp_path: Path) -> None:
    names = ["DeepSeek-V4", "openai/gpt-5.5", "other/gpt-5.5", "Llama-3_1-70B"]
    pq.write_table(pa.table({"model": names * 2}), tmp_path / "outcomes.parquet")
    known = recorded_models(tmp_path / "outcomes.parquet")
    assert known == sorted(names)
    cases = {
        ("flash", "deepseek/deepseek-v4"): "DeepSeek-V4",
        ("Llama-3_1-70B", "any/thing"): "Llama-3_1-70B",
        ("x", "meta/llama-3.1-70b"): "Llama-3_1-70B",
        ("x", "openai/gpt-5.5"): "openai/gpt-5.5",
        ("gpt-5.5", "x/y"): None,  # two are named so
        ("x", "y/z"): None,
    }
    for (name, model), expected in cases.items():
        assert recorded_for(priced(name, model, "1"), known) == expected, (name, model)
