"""The provider's HTTP server on loopback, in aiohttp."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from thirdshift.engines.core.json import loads
from thirdshift.engines.emulator import openai_wire
from thirdshift.engines.emulator.anthropic_wire import AnthropicHandlers
from thirdshift.engines.emulator.batches import Batches
from thirdshift.engines.emulator.inline_batches import DOORS
from thirdshift.engines.emulator.models import BatchHabits
from thirdshift.engines.emulator.openai_batches import FilesDoor
from thirdshift.engines.emulator.openai_wire import BadBody
from thirdshift.engines.emulator.provider import ErrorResponse, Provider
from thirdshift.engines.emulator.responses import (
    MARK,
    add_routes,
    addressed,
    deliver,
    error_response,
    json_response,
)

MAX_BODY = 512 * 1024 * 1024
"""More than any provider takes: their limits are what is emulated, not aiohttp's."""


def application(provider: Provider, habits: BatchHabits, folder: Path) -> web.Application:
    """Make the application with every address that the provider answers at. `folder` holds files and batches."""
    app = web.Application(client_max_size=MAX_BODY)
    door = WireHandlers(provider)
    add_routes(app, {("POST", "/v1/chat/completions"): door.chat, ("GET", "/v1/models"): door.models})
    app.router.add_get("/emulator/books", door.books)
    app.router.add_get("/emulator/totals", door.totals)
    batches = Batches(provider, habits, folder)
    inline = None if habits.tier is None else DOORS.get(habits.tier.wire)
    if habits.tier is not None and inline is not None:
        inline(batches, folder, habits.tier).add_to(app)
    else:
        FilesDoor(batches, folder).add_to(app)
    AnthropicHandlers(provider, batches, folder).add_to(app)
    return app


class WireHandlers:
    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def chat(self, request: web.Request) -> web.StreamResponse:
        try:
            asked = openai_wire.read_chat(loads(await request.read()))
        except (BadBody, ValueError) as error:
            return error_response(ErrorResponse(400, "invalid_body", str(error)), openai_wire.error_body)
        result = await self._provider.call(addressed(asked, request.match_info.get("at")))
        return await deliver(request, result, openai_wire.completion, openai_wire.error_body)

    async def models(self, _: web.Request) -> web.StreamResponse:
        names = [{"id": name, "object": "model", "owned_by": "emulated"} for name in self._provider.models]
        return json_response({"object": "list", "data": names})

    async def books(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={**MARK, "content-type": "application/x-ndjson"})
        await response.prepare(request)
        for piece in self._provider.billing.entries():
            await response.write(piece)
        await response.write_eof()
        return response

    async def totals(self, _: web.Request) -> web.StreamResponse:
        return json_response(self._provider.billing.summary())
