"""No client of ours follows a redirect: prompts and keys go where the job says, and nowhere else."""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from opentelemetry.sdk.trace import TracerProvider

from tests.support.engines import MemoryJournal, requests
from tests.support.imports import MODULES, name_of, tree
from thirdshift.engines.batch.anthropic import AnthropicBatches
from thirdshift.engines.batch.engine import BatchEngine
from thirdshift.engines.batch.provider import CallError
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.emulator.process import Emulator, EmulatorError
from thirdshift.engines.realtime.engine import RealtimeEngine
from thirdshift.engines.realtime.litellm import LitellmEngine
from thirdshift.engines.server.process import answers
from thirdshift.flows.execution import webhook
from thirdshift.flows.init.servers import NoModels, served_at
from thirdshift.flows.telemetry.exporting import exporter_of
from thirdshift.router.interfaces import EngineContext, Shard
from thirdshift.router.values import Endpoint, Mode, Price, PriceSchedule, Purpose

MAKERS = {
    "ClientSession", "new_session", "opener", "urlopen", "build_opener", "acompletion", "BatchSpanProcessor",
    "HTTPConnection", "HTTPSConnection", "AsyncClient",
}  # fmt: skip
"""Calls that make an HTTP client, or use one that a library makes."""
NO_CLIENTS = {"engines/direct.py"}
"""Makes the opener that others use, and asks nobody."""


class Sending(BaseHTTPRequestHandler):
    """Sends everybody to `elsewhere`, with the status that it is made for."""

    elsewhere = ""
    status = 307
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.status)
        self.send_header("Location", f"{self.elsewhere}{self.path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 (http.server's names)

    def log_message(self, *_: Any) -> None:
        return


@contextmanager
def redirecting(status: int) -> Iterator[tuple[str, list[str]]]:
    """(a server that sends everybody to another host, what came to that other one)."""
    came: list[str] = []

    class Taking(Sending):
        def answer(self) -> None:
            came.append(f"{self.command} {self.path} {dict(self.headers)}")
            super().answer()

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

    with ThreadingHTTPServer(("127.0.0.1", 0), Taking) as other:
        sending = type(
            "Here", (Sending,), {"elsewhere": f"http://127.0.0.1:{other.server_port}", "status": status}
        )
        with ThreadingHTTPServer(("127.0.0.1", 0), sending) as here:
            threads = [
                threading.Thread(target=server.serve_forever, args=(0.02,)) for server in (here, other)
            ]
            for thread in threads:
                thread.start()
            try:
                yield f"http://127.0.0.1:{here.server_port}", came
            finally:
                here.shutdown()
                other.shutdown()
                for thread in threads:
                    thread.join()


def asked(engine: Any) -> None:
    try:
        list(engine.collect(engine.submit(Shard("run", "s", "e", Purpose.MAIN, requests(1)), "run/s")))
    except CallError:
        pass
    finally:
        engine.close()


def _context(keep: Path) -> EngineContext:
    return EngineContext(MemoryJournal(), RunBudget(None), keep=keep)


def _endpoint(model: str, base: str, mode: Mode = Mode.REALTIME) -> Endpoint:
    price = PriceSchedule(Price(Decimal(100), Decimal(400)))
    return Endpoint("e", model, price, mode, api_base=base, api_key_env="REDIRECT_TEST_KEY")


def _by_litellm(model: str, base: str, keep: Path) -> None:
    asked(LitellmEngine(_endpoint(model, base), _context(keep), backoff_first_seconds=0.001))


def _anthropics_batches(base: str, keep: Path) -> None:
    endpoint = _endpoint("anthropic/m", f"{base}/v1", Mode.BATCH)
    asked(BatchEngine(endpoint, _context(keep), wire=AnthropicBatches(endpoint, keep)))


def _health(base: str, _: Path) -> None:
    assert not answers(f"{base}/health", any_reply=False)


def _models(base: str, _: Path) -> None:
    with pytest.raises(NoModels):
        served_at(base)


def _webhook(base: str, _: Path) -> None:
    with pytest.raises(HTTPError) as error:
        webhook.post(f"{base}/hook", {"run": "r"})
    error.value.close()


def _emulator(base: str, _: Path) -> None:
    provider = Emulator([])
    provider.root = base
    with pytest.raises(EmulatorError):
        provider.totals()


def _collector(base: str, _: Path) -> None:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", base)
        exporter = exporter_of("trace", "Span", {})
    with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("s") as span:
        pass
    exporter.export([span])


CLIENTS: Mapping[str, tuple[set[str], Callable[[str, Path], None]]] = {
    "real time": (
        {"engines/realtime/http.py"},
        lambda base, keep: asked(
            RealtimeEngine(_endpoint("openai/m", f"{base}/v1"), _context(keep), backoff_first_seconds=0.001)
        ),
    ),
    "litellm, OpenAI's wire": (
        {"engines/realtime/litellm.py"},
        lambda base, keep: _by_litellm("mistral/m", f"{base}/v1", keep),
    ),
    "litellm, Anthropic's wire": (
        {"engines/realtime/litellm.py"},
        lambda base, keep: _by_litellm("anthropic/m", base, keep),
    ),
    "OpenAI's batches": (
        {"engines/batch/http.py"},
        lambda base, keep: asked(
            BatchEngine(_endpoint("openai/m", f"{base}/v1", Mode.BATCH), _context(keep))
        ),
    ),
    "Anthropic's batches": ({"engines/batch/http.py"}, _anthropics_batches),
    "a server's health": ({"engines/server/process.py"}, _health),
    "a server's models": ({"flows/init/servers.py"}, _models),
    "a webhook": ({"flows/execution/webhook.py"}, _webhook),
    "the emulated provider": ({"engines/emulator/process.py"}, _emulator),
    "a collector of spans and metrics": ({"flows/telemetry/exporting.py"}, _collector),
}
"""Every client that we make: the modules that do, and one call by it."""


@pytest.mark.parametrize("status", [302, 307, 308])
@pytest.mark.parametrize("name", CLIENTS)
def test_no_client_follows_a_redirect(
    name: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIRECT_TEST_KEY", "sk-planted")
    with redirecting(status) as (base, came):
        CLIENTS[name][1](base, tmp_path)
    assert came == []


def test_every_module_that_makes_a_client_is_among_those_that_are_sent_elsewhere() -> None:
    makers = {name_of(path) for path in MODULES if MAKERS & set(_calls(path))}
    assert makers - NO_CLIENTS == set.union(*(modules for modules, _ in CLIENTS.values()))


def _calls(path: Path) -> Iterator[str]:
    """Names that a module calls, or hands on as values (`opener(…).open`)."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            called = node.func
            yield called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
