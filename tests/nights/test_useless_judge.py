"""A judge that gives no verdicts is not paid to the end of its money."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.nights import ask, night_here, write_job, write_sums
from tests.support.servers import cheap, emulated
from thirdshift.engines.emulator import ability_for

SAID = "What a lovely answer, truly."


class Chatty(BaseHTTPRequestHandler):
    """A model that says something else than was asked for."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": SAID}
        body = json.dumps(
            {
                "id": "x",
                "model": "wise",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 10},
            }
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def chatty() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Chatty)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def test_a_judge_without_verdicts_is_stopped_after_a_handful_and_its_words_are_told(
    tmp_path: Path, chatty: str
) -> None:
    known = write_sums(tmp_path / "requests.parquet", 200)
    table = pq.read_table(tmp_path / "requests.parquet").drop(["reference"])
    pq.write_table(table, tmp_path / "requests.parquet")
    endpoints = {
        "cheap": {"price": {"input": 0.1, "output": 0.4}},
        "wise": {"price": {"input": 1, "output": 4}, "only": "judge", "api_base": chatty},
    }
    judge = {"endpoint": "wise", "rubric": "1 if right, else 0", "max_usd": 2}
    with emulated([cheap(ability=ability_for(0.9), slope=1)], items=known, seed=2) as emulator:
        job = write_job(
            tmp_path,
            emulator,
            endpoints,
            quality={"floor": 0.8, "scorer": "judge", "judge": judge},
            budget={"cap_usd": 5},
        )
        night = night_here(job, "one")
    summary = night.summary
    assert (night.code, summary["outcomes"]) == (3, ["not_certified"]), night.said
    assert summary["certificate"] is None
    assert any(SAID in note and "It is not asked again" in note for note in summary["notes"]), summary[
        "notes"
    ]
    asked = ask(
        tmp_path / "warehouse.duckdb", "select count(distinct request_id) from ledger where purpose = 'judge'"
    )
    assert asked == [(5,)], "a handful tells"
