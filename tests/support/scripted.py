"""A provider on loopback that says exactly what a test tells it to, in real time and in batches of both wires."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Said:
    """A reply."""

    body: Any
    """Bytes or a text as they are; anything else as JSON."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def raw(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()


Script = Callable[[dict[str, Any]], Said]
"""The body that came → what is said to it."""


def completion(
    text: Any = "yes", finish: Any = "stop", usage: Any = (100, 20), **more: Any
) -> dict[str, Any]:
    """A chat completion; `usage` as (prompt, completion), or as it is."""
    if isinstance(usage, tuple):
        usage = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    message = {"role": "assistant", "content": text}
    return {
        "id": "c1",
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": usage,
        **more,
    }


def failed(status: int, message: str = "no", headers: dict[str, str] | None = None, **more: Any) -> Said:
    """An error of OpenAI's shape."""
    return Said({"error": {"message": message, **more}}, status, headers or {})


class ScriptedProvider:
    """Batches are over as soon as they are made, unless `batch` says otherwise of the object."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.bodies: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.paths: list[str] = []
        self.batch: Callable[[dict[str, Any]], dict[str, Any]] = lambda batch: batch
        """The batch object as it is told."""
        self.strangers: list[Any] = []
        """Batches of others in the list."""
        self.line: Callable[[str, Said], bytes] = result_line
        self.listing: Said | None = None
        """What is said to whoever lists batches, where it is not the list."""
        self.absent: Callable[[str], bool] = lambda _: False
        """Whether a batch or file, by its path, is said not to be there."""
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()

    def _run(self, ready: threading.Event) -> None:
        self._loop.run_until_complete(self._begin())
        ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()

    async def _begin(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.base = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/v1")
        self.paths.append(f"{request.method} {path}")
        if path in ("/chat/completions", "/messages"):
            body = await request.json()
            self.bodies.append(body)
            return _response(self.script(body))
        if request.method == "GET" and self.absent(path):
            return _response(failed(404))
        if path == "/files" and request.method == "POST":
            return await self._upload(request)
        if path.startswith("/files/"):
            name = path.split("/")[2]
            return web.Response(body=self.files[name]) if name in self.files else _response(failed(404))
        if path == "/messages/batches" and request.method == "POST":
            return self._make_messages(await request.json())
        if path in ("/batches", "/messages/batches"):
            return await self._list_or_make(request)
        return self._one(path)

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        name = f"file-{len(self.files)}"
        self.files[name] = form["file"].file.read()  # type: ignore[union-attr]
        return web.json_response({"id": name})

    async def _list_or_make(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            if self.listing is not None:
                return _response(self.listing)
            return web.json_response({"data": [*self.strangers, *map(self.batch, self.batches.values())]})
        asked = await request.json()
        lines = [json.loads(line) for line in self.files[asked["input_file_id"]].splitlines()]
        name = f"batch-{len(self.batches)}"
        self.files[f"{name}-out"] = b"".join(self._result(line["custom_id"], line["body"]) for line in lines)
        self.batches[name] = {
            "id": name,
            "status": "completed",
            "created_at": 1,
            "metadata": asked.get("metadata"),
            "input_file_id": asked["input_file_id"],
            "output_file_id": f"{name}-out",
            "error_file_id": None,
            "request_counts": {"total": len(lines), "completed": len(lines), "failed": 0},
        }
        return web.json_response(self.batch(self.batches[name]))

    def _result(self, custom_id: str, body: dict[str, Any]) -> bytes:
        self.bodies.append(body)
        return self.line(custom_id, self.script(body))

    def _make_messages(self, asked: dict[str, Any]) -> web.StreamResponse:
        name = f"msgbatch-{len(self.batches)}"
        lines = []
        for each in asked["requests"]:
            self.bodies.append(each["params"])
            said = self.script(each["params"])
            kind = "succeeded" if said.status == 200 else "errored"
            result = {"type": kind, ("message" if said.status == 200 else "error"): json.loads(said.raw)}
            lines.append(json.dumps({"custom_id": each["custom_id"], "result": result}).encode() + b"\n")
        self.files[f"{name}-out"] = b"".join(lines)
        self.batches[name] = {
            "id": name,
            "processing_status": "ended",
            "created_at": "2026-11-28T00:00:00Z",
            "request_counts": {"succeeded": len(lines)},
        }
        return web.json_response(self.batch(self.batches[name]))

    def _one(self, path: str) -> web.StreamResponse:
        steps = path.removeprefix("/messages").split("/")
        name = steps[2] if len(steps) > 2 else ""
        if name not in self.batches:
            return _response(failed(404))
        if steps[-1] == "results":
            return web.Response(body=self.files[f"{name}-out"])
        return web.json_response(self.batch(self.batches[name]))


def result_line(custom_id: str, reply: Said) -> bytes:
    """A line of a batch's results."""
    response = {"status_code": reply.status, "body": json.loads(reply.raw)}
    return (
        json.dumps({"id": "b", "custom_id": custom_id, "response": response, "error": None}).encode() + b"\n"
    )


def _response(reply: Said) -> web.StreamResponse:
    headers = {"content-type": "application/json", **reply.headers}
    return web.Response(body=reply.raw, status=reply.status, headers=headers)


@contextmanager
def scripted(script: Script) -> Iterator[ScriptedProvider]:
    provider = ScriptedProvider(script)
    try:
        yield provider
    finally:
        provider.close()
