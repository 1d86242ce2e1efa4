"""An OpenAI batch file in, an OpenAI output file out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.nights import ask, known_sums, thirdshift, write_job
from tests.support.servers import cheap, emulated
from thirdshift.engines.emulator import Trouble
from thirdshift.warehouse.exchange.batch_output import _line

LINES = 24


def write_batch(folder: Path) -> list[str]:
    """A batch file whose last line is of another address; the custom ids of all."""
    lines = [
        {"custom_id": f"c-{n}", "method": "POST", "url": "/v1/chat/completions",
         "body": {"model": "any", "messages": [{"role": "user", "content": row.prompt}]}}
        for n, row in enumerate(known_sums(LINES))
    ]  # fmt: skip
    lines[-1]["url"] = "/v1/responses"
    (folder / "batch.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [str(line["custom_id"]) for line in lines]


def test_every_line_of_a_batch_file_has_one_in_the_output_file(tmp_path: Path) -> None:
    ids = write_batch(tmp_path)
    model = cheap(latency_seconds=0.0, troubles={Trouble.OVERFLOW: 0.3})
    with emulated([model], items=known_sums(LINES)) as emulator:
        price = {"price": {"input": 1, "output": 4}}
        job = write_job(tmp_path, emulator, {"cheap": price}, input="batch.jsonl")
        done = thirdshift("run", job, "--batch-output", "out.jsonl", cwd=tmp_path)
        assert done.returncode == 6, done.stderr
        ((run_id,),) = ask(tmp_path / "warehouse.duckdb", "select run_id from runs")
        over = thirdshift("resume", run_id, "--batch-output", "again.jsonl", cwd=tmp_path)
    assert over.returncode == 6, over.stderr
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["custom_id"] for line in lines] == ids
    assert all(set(line) == {"id", "custom_id", "response", "error"} for line in lines)
    answered, failed = ([line for line in lines if (line["error"] is None) is kind] for kind in (True, False))
    assert {line["error"]["code"] for line in failed} == {"context_overflow", "invalid_request"}
    assert all(line["response"] is None for line in failed)
    paid = ask(
        tmp_path / "warehouse.duckdb",
        "select sum(input_tokens), sum(output_tokens) from ledger where status = 'settled'",
    )
    told = [line["response"]["body"]["usage"] for line in answered]
    assert [(sum(u["prompt_tokens"] for u in told), sum(u["completion_tokens"] for u in told))] == paid
    body = answered[0]["response"]["body"]
    assert answered[0]["response"]["status_code"] == 200
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert body["choices"][0]["finish_reason"] == "stop"


def test_a_file_that_cannot_be_written_is_said_before_anything_is_spent(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("name: x\n")
    done = thirdshift("run", "job.yaml", "--batch-output", "nowhere/out.jsonl", cwd=tmp_path)
    assert done.returncode == 2
    assert "--batch-output" in done.stderr


ROW: dict[str, Any] = {
    "request_id": "a", "model": "m", "output": "yes", "finish_reason": "stop", "reasoning": None, "error": None,
    "completed_at": None, "ref": None, "input_tokens": None, "output_tokens": None, "cached_tokens": None,
    "reasoning_tokens": None,
}  # fmt: skip


def test_calls_of_tools_are_calls_again() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    line = _line(ROW | {"output": json.dumps(calls), "finish_reason": "tool_calls"})
    message = line["response"]["body"]["choices"][0]["message"]
    assert (message["content"], message["tool_calls"]) == (None, calls)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("refused: no", "refused"),
        ("unanswered: none", "unanswered"),
        ("what: ever", "unanswered"),
        ("odd", "unanswered"),
    ],
)
def test_an_error_has_its_kind_as_code(error: str, code: str) -> None:
    assert _line(ROW | {"output": None, "error": error})["error"]["code"] == code
