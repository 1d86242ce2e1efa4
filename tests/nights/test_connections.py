"""Nothing reaches a host that the job does not name, whichever client asks: every connection is recorded."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prefect.settings import PREFECT_API_URL

from tests.support.connections import connections, recording
from tests.support.nights import PROGRAM, environment, write_job, write_sums
from tests.support.patience import PATIENCE_SECONDS
from tests.support.servers import cheap, dear, emulated
from thirdshift.flows.init.servers import USUAL_PORTS

PRICES = {"dear": {"input": 5, "output": 25}, "cheap": {"input": 0.1, "output": 0.4}}
LOOPBACK = {"127.0.0.1", "localhost", "::1", None, ""}


def command(folder: Path, *words: str | Path) -> int:
    """A command in `folder`, recorded; its exit code."""
    done = subprocess.run(
        [PROGRAM, *map(str, words)],
        env={**environment(), **recording(folder), "SOME_KEY": "a-made-up-key"},
        cwd=folder,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return done.returncode


def port_of(url: str) -> int | None:
    return urlsplit(url).port


def test_a_job_in_real_time_and_by_batch_reaches_its_provider_and_prefect_alone(
    prefect_api: None, tmp_path: Path
) -> None:
    items = write_sums(tmp_path / "requests.parquet", 40)
    with emulated([cheap(), dear()], items=items) as emulator:
        more = {
            "cheap": {"price": PRICES["cheap"], "api_key_env": "SOME_KEY", "mode": "batch"},
            "dear": {"price": PRICES["dear"], "api_key_env": "SOME_KEY"},
        }
        quality = {"floor": 0.5, "scorer": "numeric", "pilot": 5}
        job = write_job(tmp_path, emulator, more, quality=quality)
        codes = [
            command(tmp_path, *words)
            for words in (
                ("plan", job),
                ("run", job, "--run-id", "tonight"),
                ("doctor",),
                ("models",),
                ("init", "requests.parquet", "--output", "mine.yaml"),
            )
        ]
        named = {port_of(emulator.api_base), port_of(str(PREFECT_API_URL.value()))}
    assert set(codes) <= {0, 3}
    found = connections(tmp_path)
    assert {host for host, _ in found} <= LOOPBACK
    # `init` asks the ports at which local servers usually listen
    assert {port for _, port in found} - {None} - set(USUAL_PORTS) == named


class _Trap(BaseHTTPRequestHandler):
    """Where a provider would send us on to; it must never be asked."""

    asked = 0

    def do_POST(self) -> None:
        type(self).asked += 1
        self.send_error(500)

    do_GET = do_PUT = do_POST  # noqa: N815 (as http.server calls them)

    def log_message(self, *_: object) -> None:
        pass


class _SendingOn(BaseHTTPRequestHandler):
    """A provider that answers everything with "ask there"."""

    trap = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(307)
        self.send_header("Location", f"http://localhost:{self.trap}{self.path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST  # noqa: N815 (likewise)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def sending_on() -> Iterator[str]:
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), _Trap) as trap,
        ThreadingHTTPServer(("127.0.0.1", 0), _SendingOn) as server,
    ):
        _SendingOn.trap = trap.server_port
        for each in (trap, server):
            threading.Thread(target=each.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        for each in (trap, server):
            each.shutdown()


@pytest.mark.parametrize("mode", ["realtime", "batch"])
def test_a_provider_that_sends_us_on_gets_neither_key_nor_body_there(
    prefect_api: None, tmp_path: Path, sending_on: str, mode: str
) -> None:
    write_sums(tmp_path / "requests.parquet", 3)
    with emulated([cheap()]) as emulator:
        more = {"price": PRICES["cheap"], "api_key_env": "SOME_KEY", "mode": mode, "api_base": sending_on}
        job = write_job(tmp_path, emulator, {"cheap": more})
        command(tmp_path, "run", job, "--run-id", "tonight")
    assert _Trap.asked == 0
    asked = {port for _, port in connections(tmp_path)} - {None}
    assert asked == {port_of(sending_on), port_of(str(PREFECT_API_URL.value()))}
