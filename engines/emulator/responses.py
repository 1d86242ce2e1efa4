"""HTTP responses of every wire, whole or broken. Every reply says that it is emulated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web

from thirdshift.engines.core.json import dumps
from thirdshift.engines.emulator.answers import WireRequest
from thirdshift.engines.emulator.models import Trouble
from thirdshift.engines.emulator.provider import BilledAnswer, DroppedConnection, ErrorResponse

MARK = {"x-thirdshift-emulated": "1"}
ROOTS = ("", "/at/{at}")
"""Where the wires begin: plainly, or at a model of one's own, whatever name the bodies give (see stand_ins.py)."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def add_routes(app: web.Application, handlers: Mapping[tuple[str, str], Handler]) -> None:
    """(method, path) → handler, at every root."""
    for root in ROOTS:
        for (method, path), handler in handlers.items():
            app.router.add_route(method, f"{root}{path}", handler)


def addressed(asked: WireRequest, at: str | None) -> WireRequest:
    """Return `asked` for the model that its address names, where it names one."""
    return asked if at in (None, asked.model) else replace(asked, model=at)


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    marked = {**MARK, **headers} if headers else MARK
    return web.Response(body=dumps(value), status=status, headers=marked, content_type="application/json")


def error_response(refusal: ErrorResponse, write: Callable[[ErrorResponse], Any]) -> web.StreamResponse:
    return json_response(write(refusal), refusal.status, refusal.headers)


async def deliver(
    request: web.Request,
    result: BilledAnswer | ErrorResponse | DroppedConnection,
    write: Callable[[BilledAnswer], Any],
    write_error: Callable[[ErrorResponse], Any],
) -> web.StreamResponse:
    """Send the result of a call to the client, as far as its trouble lets it."""
    if isinstance(result, ErrorResponse):
        return error_response(result, write_error)
    if isinstance(result, DroppedConnection):
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
