"""The emulated providers in process: the emulator's own code behind sessions that know no socket."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace, TracebackType
from typing import Any, NamedTuple, cast
from urllib.parse import SplitResult, parse_qsl, urlsplit

import aiohttp
from aiohttp import web

from tests.support.simulated.loop import VirtualLoop
from tests.support.simulated.world import SimulatedWorld
from thirdshift.engines.core.json import dumps, loads
from thirdshift.engines.emulator import openai_wire
from thirdshift.engines.emulator.answer_key import AnswerKey
from thirdshift.engines.emulator.answers import Oracle
from thirdshift.engines.emulator.anthropic_wire import AnthropicHandlers
from thirdshift.engines.emulator.batches import Batches
from thirdshift.engines.emulator.models import BatchHabits, EmulatedModel, Trouble
from thirdshift.engines.emulator.openai_batches import FilesDoor
from thirdshift.engines.emulator.provider import BilledAnswer, DroppedConnection, ErrorResponse, Provider
from thirdshift.engines.emulator.responses import addressed
from thirdshift.world import World

CHAT = "/chat/completions"
HOST = "provider.test"
RESULTS = re.compile(r"/files/([^/]+)/content$|/batches/[^/]+/results$")
ABSURD = (10**6, 10**15)
"""Tokens in a usage that nobody believes: of such a request, and of any."""

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Net:
    """How messages travel."""

    seconds: tuple[float, float] = (0.01, 0.2)
    """Each way, at least and at most."""
    refused: float = 0.0
    """The share of calls whose connection is not made."""
    lost_there: float = 0.0
    """The share that breaks on the way there."""
    lost_back: float = 0.0
    """The share whose reply breaks on the way back: the provider has done its part."""
    lies: float = 0.0
    """The share of answers in real time whose usage is absent, or absurd."""
    outage: tuple[float, float] | None = None
    """From when to when nobody listens, seconds since the beginning."""
    gone: float = 0.0
    """The share of files of results that the provider does not have any more when they are asked for."""

    def refuses(self, now: float, rng: Random) -> bool:
        """Whether a connection is not made."""
        out = self.outage is not None and self.outage[0] <= now < self.outage[1]
        return rng.random() < self.refused or out


@dataclass(frozen=True, slots=True)
class Upload:
    """A file as a form carries it."""

    name: str
    purpose: str
    data: bytes


@dataclass(slots=True)
class Arrived:
    """A request as the emulator's handlers read one."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes
    match_info: Mapping[str, str]
    hung_up: bool = False

    async def read(self) -> bytes:
        return self.body

    @property
    def transport(self) -> Arrived:
        return self

    def abort(self) -> None:
        self.hung_up = True


class JsonResponse(NamedTuple):
    """What of `web.Response` is read here, and no more: hundreds are made in a night."""

    status: int
    headers: Message
    body: bytes


Sent = JsonResponse | web.StreamResponse
Coming = asyncio.Future[Sent]
"""A reply on its way."""


class _Broken(aiohttp.ServerDisconnectedError):
    """The connection closed before the reply was whole."""


class SimulatedProvider:
    """One account at one provider, with its bills, for all lives of a night. Tasks of its own outlive its clients."""

    def __init__(
        self,
        models: list[EmulatedModel],
        habits: BatchHabits,
        folder: Path,
        world: World,
        loop: VirtualLoop,
        rng: Random,
        net: Net,
        answers: AnswerKey,
    ) -> None:
        self.provider = Provider(models, Oracle(rng.randrange(2**32), answers, None), world)
        self.net, self.loop, self.tasks = net, loop, set[asyncio.Task[Any]]()
        self.lied: set[str] = set()
        self.uploaded: set[str] = set()
        """Files of requests, by id."""
        self._gone: dict[str, bool] = {}
        self._rng, self._folder = rng, folder
        self.batches = Batches(self.provider, habits, folder)
        self.files = FilesDoor(self.batches, folder)
        routes: list[tuple[str, str, Any]] = []
        door: Any = SimpleNamespace(router=SimpleNamespace(add_route=lambda *route: routes.append(route)))
        self.files.add_to(door)
        AnthropicHandlers(self.provider, self.batches, folder).add_to(door)
        self._routes = [(method, _pattern(path), handler) for method, path, handler in routes]

    def books(self) -> Iterator[dict[str, Any]]:
        """What was billed, entry by entry."""
        for line in b"".join(self.provider.billing.entries()).splitlines():
            yield loads(line)

    def arrive(self, method: str, url: str, body: bytes | Upload, reply: Coming) -> None:
        """Take a request in; the provider goes on with it where its client does not wait any more."""
        if self._rng.random() < self.net.lost_there:
            _fail(reply, _Broken())
            return
        serving = self.loop.create_task(self._served(method, url, body, reply))
        self.tasks.add(serving)
        serving.add_done_callback(self.tasks.discard)

    async def _served(self, method: str, url: str, body: bytes | Upload, reply: Coming) -> None:
        try:
            response = await self.serve(method, url, body)
        except Exception as error:  # noqa: BLE001 - raised where the reply is awaited
            _fail(reply, error)
        else:
            self.loop.call_later(self._rng.uniform(*self.net.seconds), self._go_back, response, reply)

    def _go_back(self, response: Sent, reply: Coming) -> None:
        if self._rng.random() < self.net.lost_back:
            _fail(reply, _Broken())
        elif not reply.done():
            reply.set_result(response)

    async def serve(self, method: str, url: str, body: bytes | Upload) -> Sent:
        """Answer one request. Raises what a client sees where the connection breaks."""
        parts = urlsplit(url)
        if method == "POST" and parts.path.endswith(CHAT):
            return await self._chat(parts.path, body)
        if isinstance(body, Upload):
            path, number = self.files.place()
            path.write_bytes(body.data)
            taken = self.files.take(path, body.name, body.purpose, number)
            self.uploaded.add(str(loads(cast("bytes", taken.body))["id"]))
            return taken
        for known, pattern, handler in self._routes:
            if known == method and (match := pattern.fullmatch(parts.path)) is not None:
                if self._is_gone(parts.path):
                    return _json({"error": {"message": "no such file", "code": "not_found"}}, 404, {})
                query = dict(parse_qsl(parts.query))
                request = Arrived(method, parts.path, query, body, match.groupdict())
                response: web.StreamResponse = await handler(request)
                if request.hung_up:
                    raise _Broken
                return response
        raise AssertionError(f"nobody answers {method} {parts.path}")

    def _is_gone(self, path: str) -> bool:
        """Whether it is a file of results that is there no longer: once gone, gone for ever."""
        match = RESULTS.search(path)
        if match is None or match[1] in self.uploaded:
            return False
        if path not in self._gone:
            self._gone[path] = self._rng.random() < self.net.gone
        return self._gone[path]

    async def _chat(self, path: str, body: bytes | Upload) -> JsonResponse:
        at = re.match(r"/at/([^/]+)/", path)
        asked = addressed(openai_wire.read_chat(loads(cast("bytes", body))), None if at is None else at[1])
        result = await self.provider.call(asked)
        if isinstance(result, DroppedConnection):
            raise _Broken
        if isinstance(result, ErrorResponse):
            return _json(openai_wire.error_body(result), result.status, result.headers)
        if result.trouble is Trouble.TRUNCATE:
            raise aiohttp.ClientPayloadError
        return _json(self._perhaps_a_lie(result), 200, result.headers)

    def _perhaps_a_lie(self, result: BilledAnswer) -> Message:
        told = openai_wire.completion(result)
        if self._rng.random() < self.net.lies:
            self.lied.add(result.ref)
            if self._rng.random() < 0.5:
                del told["usage"]
            else:
                told["usage"]["completion_tokens"] = self._rng.choice(ABSURD)
        return told

    def close(self) -> None:
        """Close its books and what batches hold open."""
        self.provider.billing.close()
        for batch in self.batches.all.values():
            batch.source.close()

    def session(self, world: SimulatedWorld) -> SimulatedSession:
        return SimulatedSession(self, world, self._rng)


class SimulatedSession:
    """What `aiohttp.ClientSession` is to the engines."""

    def __init__(self, provider: SimulatedProvider, world: SimulatedWorld, rng: Random) -> None:
        self._provider, self._world, self._rng = provider, world, rng

    def post(self, url: str, **options: Any) -> Exchange:
        return self.request("POST", url, **options)

    def request(self, method: str, url: str, *, timeout: aiohttp.ClientTimeout, **options: Any) -> Exchange:
        seconds = timeout.total or timeout.sock_read
        return Exchange(lambda: self._exchange(method, url, seconds, options))

    async def _exchange(
        self, method: str, url: str, seconds: float | None, options: Mapping[str, Any]
    ) -> Received:
        if self._world.dead:
            raise aiohttp.ConnectionTimeoutError
        body = dumps(options["json"]) if "json" in options else await _body(options.get("data"))
        provider, loop, rng = self._provider, self._provider.loop, self._rng
        if provider.net.refuses(loop.now, rng):
            raise aiohttp.ConnectionTimeoutError
        reply: Coming = loop.create_future()
        loop.call_later(rng.uniform(*provider.net.seconds), provider.arrive, method, url, body, reply)
        timer = None if seconds is None else loop.call_later(seconds, _fail, reply, TimeoutError())
        try:
            return Received(method, url, await reply)
        finally:
            if timer is not None:
                timer.cancel()

    async def close(self) -> None:
        """Nothing is held."""


class Exchange:
    """An asynchronous context for a response."""

    def __init__(self, send: Callable[[], Awaitable[Received]]) -> None:
        self._send = send

    async def __aenter__(self) -> Received:
        return await self._send()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held."""


class Received:
    """What `aiohttp.ClientResponse` is to the engines."""

    def __init__(self, method: str, url: str, response: Sent) -> None:
        self.method, self._url = method, url
        self.status, self.headers = response.status, response.headers
        self._body = response._path.read_bytes() if isinstance(response, web.FileResponse) else response.body  # type: ignore[union-attr]
        self.content_length = len(self._body)
        self.content = self

    @property
    def url(self) -> SplitResult:
        return urlsplit(self._url)

    async def read(self) -> bytes:
        return bytes(self._body)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), size):
            yield self._body[start : start + size]


def _json(value: Any, status: int, headers: Message) -> JsonResponse:
    return JsonResponse(status, headers, dumps(value))


def _fail(reply: Coming, error: Exception) -> None:
    if not reply.done():
        reply.set_exception(error)


@cache
def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))


async def _body(data: Any) -> bytes | Upload:
    """What a client sends, whole."""
    if data is None or isinstance(data, bytes):
        return data or b""
    if isinstance(data, aiohttp.BytesPayload):
        return bytes(data._value)
    if isinstance(data, aiohttp.FormData):
        fields = {options["name"]: (options, value) for options, _, value in data._fields}
        options, file = fields["file"]
        return Upload(options["filename"], fields["purpose"][1], file.read())
    return b"".join([piece async for piece in data])
