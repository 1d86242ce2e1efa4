"""The provider's front door: an aiohttp server on loopback."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from engines.emulator import openai_wire
from engines.emulator.models import Trouble
from engines.emulator.openai_wire import BadBody
from engines.emulator.provider import Provider, Refusal, Silence, Spoken
from engines.quickjson import dumps, loads

MARK = {"x-thirdshift-emulated": "1"}
MAX_BODY = 512 * 1024 * 1024
"""More than any provider takes: their limits are what is emulated, not aiohttp's."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(provider: Provider) -> web.Application:
    """Every address that the provider answers at."""
    app = web.Application(client_max_size=MAX_BODY)
    door = Door(provider)
    app.router.add_post("/v1/chat/completions", door.chat)
    app.router.add_get("/v1/models", door.models)
    app.router.add_get("/emulator/books", door.books)
    app.router.add_get("/emulator/totals", door.totals)
    return app


class Door:
    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def chat(self, request: web.Request) -> web.StreamResponse:
        try:
            asked = openai_wire.read_chat(loads(await request.read()))
        except (BadBody, ValueError) as error:
            return error_response(Refusal(400, "invalid_body", str(error)), openai_wire.error_body)
        result = await self._provider.call(asked)
        return await deliver(request, result, openai_wire.completion, openai_wire.error_body)

    async def models(self, _: web.Request) -> web.StreamResponse:
        names = [{"id": name, "object": "model", "owned_by": "emulated"} for name in self._provider.models]
        return json_response({"object": "list", "data": names})

    async def books(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={**MARK, "content-type": "application/x-ndjson"})
        await response.prepare(request)
        for piece in self._provider.bills.entries():
            await response.write(piece)
        await response.write_eof()
        return response

    async def totals(self, _: web.Request) -> web.StreamResponse:
        return json_response(self._provider.bills.summary())


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    marked = {**MARK, **headers} if headers else MARK
    return web.Response(body=dumps(value), status=status, headers=marked, content_type="application/json")


def error_response(refusal: Refusal, write: Callable[[Refusal], Any]) -> web.StreamResponse:
    return json_response(write(refusal), refusal.status, refusal.headers)


async def deliver(
    request: web.Request,
    result: Spoken | Refusal | Silence,
    write: Callable[[Spoken], Any],
    write_error: Callable[[Refusal], Any],
) -> web.StreamResponse:
    """What became of a call, on its way to the client, as far as its trouble lets it."""
    if isinstance(result, Refusal):
        return error_response(result, write_error)
    if isinstance(result, Silence):
        return hang_up(request)
    if result.trouble is Trouble.TRUNCATE:
        return await _half(request, dumps(write(result)))
    return json_response(write(result), headers=result.headers)


def hang_up(request: web.Request) -> web.StreamResponse:
    """Close the connection without a byte of reply."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _half(request: web.Request, body: bytes) -> web.StreamResponse:
    """Promise the whole body, send half of it and close."""
    response = web.StreamResponse(headers={**MARK, "content-type": "application/json"})
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
