"""Whole nights at providers that say the unexpected: the ledger against the bill, exit codes, who answers instead."""

from __future__ import annotations

import json
import struct
import time
import unicodedata
from base64 import b64encode
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.support.nights import ask, night_here
from tests.support.scripted import Said, Script, ScriptedProvider, completion, failed, scripted
from thirdshift.world import World

PRICE = {"input": 1.0, "output": 10.0}


def write_rows(folder: Path, count: int, **columns: Any) -> None:
    rows = [{"request_id": f"r{n:04d}", "prompt": f"question {n}", **columns} for n in range(count)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "requests.parquet")


def write_job(folder: Path, endpoints: list[dict[str, Any]], **keys: Any) -> Path:
    job = {
        "name": "odd",
        "input": "requests.parquet",
        "warehouse": "warehouse.duckdb",
        "request": {"max_tokens": 64},
        "endpoints": endpoints,
        **keys,
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path


def at(provider: ScriptedProvider, name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "model": f"openai/{name}", "api_base": provider.base, "price": PRICE, **more}


def row_of(body: dict[str, Any]) -> int:
    return int(body["messages"][-1]["content"].split()[-1])


def cost(usage: tuple[int, int]) -> Decimal:
    return (usage[0] * Decimal(1) + usage[1] * Decimal(10)) / 10**6


def spent(folder: Path) -> Decimal:
    return Decimal(ask(folder / "warehouse.duckdb", "select sum(cost_usd) from ledger")[0][0])


def test_thoughts_told_in_the_total_alone_are_billed_and_stop_the_endpoint_at_the_cap(tmp_path: Path) -> None:
    write_rows(tmp_path, 300)
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 915}
    with scripted(lambda _: Said(completion(usage=usage))) as provider:
        job = write_job(tmp_path, [at(provider, "thinker")], budget={"cap_usd": 0.5})
        night = night_here(job, "n1")
    assert spent(tmp_path) == len(provider.bodies) * cost((10, 905))
    assert night.code == 4
    assert "thinker billed" in night.said


def test_moderated_rows_are_answered_by_the_other_endpoint(tmp_path: Path) -> None:
    write_rows(tmp_path, 200)
    bad = {11, 12, 13, 14, 15, 16}

    def strict(body: dict[str, Any]) -> Said:
        return failed(403, "Input was flagged by moderation") if row_of(body) in bad else Said(completion())

    with scripted(strict) as cheap, scripted(lambda _: Said(completion())) as dear:
        endpoints = [at(cheap, "cheap"), at(dear, "dear", price={"input": 10.0, "output": 100.0})]
        night = night_here(write_job(tmp_path, endpoints), "n1")
    assert night.code == 0
    served = dict(
        ask(
            tmp_path / "warehouse.duckdb",
            "select endpoint, count(*) from results where error is null group by 1",
        )
    )
    assert served == {"cheap": 194, "dear": 6}


def test_an_endpoint_that_is_out_for_hours_leaves_the_rest_to_the_other(tmp_path: Path) -> None:
    write_rows(tmp_path, 100)

    calls = count()

    def limited(_: dict[str, Any]) -> Said:
        more = next(calls) < 10
        return Said(completion()) if more else failed(429, "no more today", {"retry-after": "7200"})

    with scripted(limited) as cheap, scripted(lambda _: Said(completion())) as dear:
        endpoints = [
            at(cheap, "cheap", limits={"concurrency": 4}),
            at(dear, "dear", price={"input": 10.0, "output": 100.0}),
        ]
        night = night_here(write_job(tmp_path, endpoints), "n1")
    assert night.code == 0
    assert "out until" in night.said
    served = dict(
        ask(
            tmp_path / "warehouse.duckdb",
            "select endpoint, count(*) from results where error is null group by 1",
        )
    )
    assert served == {"cheap": 10, "dear": 90}


class Impatient(World):
    """A world in which to sleep is to be there at once, by the clock of whoever waits."""

    def __init__(self) -> None:
        self.slept = 0.0

    def time(self) -> float:
        return time.time() + self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


def test_where_all_ask_to_be_left_alone_the_night_waits_and_asks_again(
    tmp_path: Path,
) -> None:
    world = Impatient()
    write_rows(tmp_path, 60)

    def resting(seconds: float) -> Script:
        """Answers ten rows, then asks for a wait until that is over."""

        def script(body: dict[str, Any]) -> Said:
            if row_of(body) < 10 or world.slept >= seconds:
                return Said(completion())
            return failed(429, "later", {"retry-after": str(seconds)})

        return script

    with scripted(resting(7200)) as cheap, scripted(resting(3600)) as dear:
        endpoints = [
            at(cheap, "cheap", limits={"concurrency": 4}),
            at(dear, "dear", price={"input": 10.0, "output": 100.0}, limits={"concurrency": 4}),
        ]
        night = night_here(write_job(tmp_path, endpoints, deadline="8h"), "n1", world=world)
        assert len(cheap.bodies) <= 10 + 8, "what was told to wait is not asked over and over"
    assert (night.code, night.summary["results"], night.summary["errors"]) == (0, 60, 0)
    assert "when an endpoint may be asked again" in night.said
    served = dict(ask(tmp_path / "warehouse.duckdb", "select endpoint, count(*) from results group by 1"))
    assert served == {"cheap": 10, "dear": 50}, "by the one that was back first"


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("text", "exit_code"),
    [('```json\n{"n": 1}\n```', 0), ('{"n": "one"}', 6), ("no", 6)],
    ids=["fence", "wrong", "none"],
)
def test_what_stays_invalid_is_an_error_in_verdict_and_exit_code(
    tmp_path: Path, text: str, exit_code: int
) -> None:
    write_rows(tmp_path, 7, response_schema=json.dumps(SCHEMA))
    with scripted(lambda _: Said(completion(text))) as provider:
        night = night_here(write_job(tmp_path, [at(provider, "m")]), "n1")
    assert night.code == exit_code
    assert night.summary["errors"] == (0 if exit_code == 0 else 7)
    (note,) = ask(tmp_path / "warehouse.duckdb", "select any_value(note) from ledger")[0]
    assert (note is not None) == (exit_code == 0)


def test_lines_that_failed_by_a_servers_error_are_asked_again_in_another_batch(tmp_path: Path) -> None:
    write_rows(tmp_path, 300)
    seen: dict[int, int] = {}

    def now_and_then(body: dict[str, Any]) -> Said:
        row = row_of(body)
        seen[row] = seen.get(row, 0) + 1
        return failed(500, "oops") if row % 20 == 0 and seen[row] < 3 else Said(completion())

    with scripted(now_and_then) as provider:
        job = write_job(tmp_path, [at(provider, "night", mode="batch")])
        night = night_here(job, "n1")
    assert night.code == 0
    assert night.summary["errors"] == 0
    assert spent(tmp_path) == 300 * cost((100, 20))


def test_a_params_key_of_ours_and_an_unpriced_place_are_mistakes_of_the_job(tmp_path: Path) -> None:
    from thirdshift.flows.errors import JobError
    from thirdshift.flows.jobs.building import books, endpoint_values
    from thirdshift.flows.jobs.job import load_job

    write_rows(tmp_path, 1)
    model = {"name": "e", "model": "openai/gpt-5.5", "api_base": "http://127.0.0.1:1/v1"}

    def priced(**params: Any) -> Any:
        (endpoint,) = endpoint_values(load_job(write_job(tmp_path, [{**model, "params": params}])), *books())
        return endpoint

    with pytest.raises(JobError, match="max_completion_tokens"):
        priced(max_completion_tokens=5)
    with pytest.raises(JobError, match=r"no factor.*(\n.*)*price:"):
        priced(inference_geo="us")
    with pytest.raises(JobError, match="turbo"):
        priced(service_tier="turbo")
    standard = priced().price.base
    assert priced(service_tier="priority").price.base.input == standard.input * Decimal("2.5")
    assert priced(service_tier="flex").price.base.input == standard.input / 2
    assert set(priced().tier_prices) >= {"default", "flex", "batch", "priority"}


def test_pictures_are_planned_and_reserved_by_their_familys_rule_not_by_their_bytes(tmp_path: Path) -> None:
    head = struct.pack(">IIBBBBB", 800, 600, 8, 2, 0, 0, 0)
    data = b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + head + b"\0" * 400_000).decode()
    content = [
        {"type": "text", "text": "what is this"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
    ]
    rows = [
        {
            "request_id": f"r{n}",
            "messages": json.dumps(
                [{"role": "user", "content": [*content, {"type": "text", "text": str(n)}]}]
            ),
        }
        for n in range(10)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "requests.parquet")
    with scripted(lambda _: Said(completion(usage=(800, 20)))) as provider:
        endpoint = {**at(provider, "gpt-4o"), "price": {"input": 2.5, "output": 10.0}}
        night = night_here(write_job(tmp_path, [endpoint], budget={"cap_usd": 0.5}), "n1")
    assert (night.code, night.summary["errors"]) == (0, 0)
    reserved, planned = ask(
        tmp_path / "warehouse.duckdb",
        "select (select max(reserved_usd) from ledger), (select min(input_tokens) from assignments)",
    )[0]
    assert reserved < Decimal("0.02")
    assert 700 <= planned <= 1_500


def test_decomposed_text_is_told_with_what_composing_saves_and_composed_only_where_that_is_asked(
    tmp_path: Path,
) -> None:
    text = unicodedata.normalize("NFD", "다음 문장을 영어로 번역해 주세요")
    rows = [{"request_id": f"r{n}", "prompt": f"{text} {n}"} for n in range(30)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "requests.parquet")
    with scripted(lambda _: Said(completion())) as provider:
        plain = night_here(write_job(tmp_path, [at(provider, "gpt-5")]), "n1")
        assert provider.bodies[-1]["messages"][-1]["content"].startswith(text)
        asked = {"max_tokens": 64, "normalise": "nfc"}
        composed = night_here(write_job(tmp_path, [at(provider, "gpt-5")], request=asked), "n2")
        sent = provider.bodies[-1]["messages"][-1]["content"]
    assert "decomposed text (NFD)" in plain.said
    assert "of gpt-5's input tokens less" in plain.said
    assert unicodedata.is_normalized("NFC", sent)
    assert unicodedata.normalize("NFD", sent).startswith(text)
    assert "NFD" not in composed.said
