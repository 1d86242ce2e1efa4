"""A key is planted, a night goes well and another is refused by a provider that repeats the key: it is nowhere."""

from __future__ import annotations

import gzip
import json
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import duckdb
import pytest
from typer.testing import CliRunner, Result

from tests.support.nights import ask, thirdshift, write_job, write_sums
from tests.support.servers import cheap, emulated
from thirdshift.flows.cli.app import app

pytestmark = pytest.mark.usefixtures("prefect_api")

KEY = "sk-planted-7f3a91c2e85d4b60"
PRICE = {"price": {"input": 0.1, "output": 0.4}, "api_key_env": "PLANTED_KEY"}


class Refuses(BaseHTTPRequestHandler):
    """401 with the key in the message and in a header, as careless providers have it."""

    seen: ClassVar[set[str]] = set()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        told = self.headers["authorization"]
        self.seen.add(told)
        body = json.dumps(
            {"error": {"message": f"Incorrect API key provided: {told}", "code": told}}
        ).encode()
        self.send_response(401)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-seen", told)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def refusing() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def holders(folder: Path) -> list[str]:
    """Files under `folder` that hold the key, gzipped or not."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
            found += [str(path)] if KEY.encode() in text else []
    return found


def cells_with_key(warehouse: Path) -> list[str]:
    """Columns of the warehouse with the key in a value: compressed blocks hide from a search of the bytes."""
    with duckdb.connect(str(warehouse), read_only=True) as con:
        tables = [name for (name,) in con.execute("select table_name from duckdb_tables()").fetchall()]
        return [
            table
            for table in tables
            if any(KEY in str(row) for row in con.execute(f"select * from {table}").fetchall())
        ]


def test_a_key_is_in_no_file_table_log_or_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_KEY", KEY)
    known = write_sums(tmp_path / "requests.parquet", 30)
    told: list[Result] = []
    with emulated([cheap(latency_seconds=0.01)], items=known) as emulator:
        job = write_job(tmp_path, emulator, {"cheap": PRICE}, output={"path": "published"})
        fine = thirdshift("run", job, "--run-id", "fine", "--json", watched=True)
        with refusing() as base:
            refused = {"cheap": PRICE | {"api_base": base}}
            job = write_job(tmp_path, emulator, refused)
            refusal = thirdshift("run", job, "--run-id", "refused", "--json", watched=True)
            told += [CliRunner().invoke(app, words) for words in (["plan", str(job), "--json"], ["doctor"])]
    assert (fine.returncode, refusal.returncode) == (0, 6), refusal.stderr
    warehouse = tmp_path / "warehouse.duckdb"
    errors = ask(warehouse, "select distinct error from results where run_id = 'refused'")
    assert Refuses.seen == {f"Bearer {KEY}"}
    assert all("auth" in error.lower() or "401" in error for (error,) in errors), errors
    assert KEY not in fine.stdout + fine.stderr + refusal.stdout + refusal.stderr
    assert not any(KEY in done.output for done in told)
    assert holders(tmp_path) == []
    assert cells_with_key(warehouse) == []
    assert holders(Path(os.environ["PREFECT_HOME"])) == []
    prefects = prefect_database()
    assert [told for told in prefects if KEY in told or re.search(r"What is \d", told)] == [], (
        "neither a key nor a prompt"
    )
    for path in [warehouse, *(tmp_path / "warehouse.duckdb.d").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert stat.S_IMODE((tmp_path / "warehouse.duckdb.d").stat().st_mode) == 0o700
    (manifest,) = (tmp_path / "published").rglob("manifest.json")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(manifest.stat().st_mode) == 0o666 & ~mask, "for others to read"


def prefect_database() -> list[str]:
    """All that Prefect's API knows of the nights: flow runs with their parameters, tasks, logs, artifacts."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        runs = [run.model_dump_json() for run in client.read_flow_runs()]
        runs += [run.model_dump_json() for run in client.read_task_runs()]
        runs += [log.model_dump_json() for log in client.read_logs()]
        runs += [artifact.model_dump_json() for artifact in client.read_artifacts()]
    assert runs, "the nights are known there"
    return runs
