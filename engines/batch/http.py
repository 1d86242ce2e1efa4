"""Calls to a provider's batch tier over HTTP: one session, one table of what its errors mean, files as streams."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
import stamina

from thirdshift.engines.batch.provider import CallError
from thirdshift.engines.core.failures import NEXT_STEP, Step
from thirdshift.engines.core.transport import Reply
from thirdshift.engines.realtime.http import EXCEPTIONS, new_session, proxy_for
from thirdshift.engines.realtime.reply_size import CALL_BYTES, pieces, read_bounded
from thirdshift.engines.wires.errors import read_error
from thirdshift.engines.wires.parsing import parsed
from thirdshift.router.values import FailureKind
from thirdshift.world import REAL, World

SILENCE_SECONDS = 120.0
"""Without a byte in a transfer, it is lost."""
CALL_SECONDS = 300.0
"""A call has its whole answer by then, however slowly it trickles; one that sends a file, so long after LEAST_PACE."""
LEAST_PACE = 16_384
"""Bytes a second: a transfer that is slower over SILENCE_SECONDS is lost too. At this pace 200 MB take three hours."""
PIECE = 1 << 18


def passing(error: Exception) -> bool:
    """Whether trying again may help."""
    return isinstance(error, CallError) and error.passing


logging.getLogger("stamina").addHandler(logging.NullHandler())
"""A retry is no line for people: what comes of it in the end is told. Whoever wants them sets this logger up."""

again = stamina.retry(on=passing, attempts=8, timeout=None, wait_initial=0.2, wait_max=30.0)
"""For calls that may be made twice: everything but the creation of a batch."""


class BatchCalls:
    """`missing`: the sentence where the key is not there; then nothing is sent."""

    def __init__(
        self,
        name: str,
        base: str,
        headers: Mapping[str, str],
        missing: str | None,
        world: World = REAL,
    ) -> None:
        self._name, self._base, self._headers, self._missing = name, base, headers, missing
        self._world = world
        self._proxy = proxy_for(base)
        self._session: aiohttp.ClientSession | None = None

    @again
    async def get(self, path: str) -> dict[str, Any]:
        return await self.call("GET", path)

    @again
    async def get_any(self, path: str) -> dict[str, Any] | list[Any]:
        """Get what a path answers with, where that may be a plain list."""
        return await self.value("GET", path)

    def request(self, method: str, path: str, **body: Any) -> Any:
        """Enter an asynchronous context for its response. What goes wrong in it is raised as a CallError."""
        if self._missing is not None:
            raise CallError(FailureKind.AUTH, self._missing, passing=False)
        if self._session is None:
            self._session = new_session(self._headers, self._world)
        without_end = aiohttp.ClientTimeout(total=None, sock_connect=30.0, sock_read=SILENCE_SECONDS)
        body.setdefault("timeout", without_end)
        return _Guarded(
            self._session.request(
                method, self._base + path, proxy=self._proxy, allow_redirects=False, **body
            ),
            self._name,
        )

    async def call(self, method: str, path: str, *, sends_bytes: int = 0, **body: Any) -> dict[str, Any]:
        """The JSON object that is answered. `sends_bytes`: the size of the file that goes out."""
        answer = await self.value(method, path, sends_bytes=sends_bytes, **body)
        if not isinstance(answer, dict):
            raise self._broken()
        return answer

    async def value(
        self, method: str, path: str, *, sends_bytes: int = 0, **body: Any
    ) -> dict[str, Any] | list[Any]:
        """The JSON object or list that is answered."""
        total = CALL_SECONDS + sends_bytes / LEAST_PACE
        timeout = aiohttp.ClientTimeout(total=total, sock_connect=30.0, sock_read=SILENCE_SECONDS)
        async with self.request(method, path, timeout=timeout, **body) as response:
            await self.check(response)
            answer = parsed(await read_bounded(response, CALL_BYTES))
        if not isinstance(answer, dict | list):
            raise self._broken()
        return answer

    def _broken(self) -> CallError:
        words = f"endpoint {self._name}: what came is no JSON object"
        return CallError(FailureKind.BROKEN_REPLY, words, passing=True, lost=True)

    @again
    async def cancel(self, path: str) -> None:
        """Ask for a batch to be cancelled."""
        try:
            await self.call("POST", path)
        except CallError as error:
            if error.status not in (400, 409):  # it has ended meanwhile, or is ending
                raise

    @again
    async def fetch(self, path: str, to: Path) -> None:
        """Write what is answered to a file, a piece at a time."""
        with to.open("wb") as file:
            async with self.request("GET", path) as response:
                await self.check(response)
                async for piece in paced(pieces(response), self._world):
                    file.write(piece)

    async def check(self, response: aiohttp.ClientResponse) -> None:
        """Raise what a status other than 2xx means."""
        if response.status // 100 != 2:
            raw = await read_bounded(response, CALL_BYTES)
            reply = read_error(response.status, parsed(raw), raw)
            kind = reply.kind or FailureKind.OVERLOADED
            words = f"endpoint {self._name}: {response.method} {response.url.path} answers {reply.message}"
            raise CallError(kind, words, passing=_may_pass(kind), status=response.status)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


async def paced(source: AsyncIterator[bytes], world: World) -> AsyncIterator[bytes]:
    """Pass a source's pieces on. Raises TimeoutError where they come more slowly than LEAST_PACE over SILENCE_SECONDS."""
    begun, came = world.monotonic(), 0
    async for piece in source:
        came += len(piece)
        seconds = world.monotonic() - begun
        if seconds >= SILENCE_SECONDS:
            if came < LEAST_PACE * seconds:
                raise TimeoutError
            begun, came = world.monotonic(), 0
        yield piece


class _Guarded:
    """An aiohttp request whose exceptions become CallErrors."""

    def __init__(self, request: Any, name: str) -> None:
        self._request, self._name = request, name

    async def __aenter__(self) -> aiohttp.ClientResponse:
        try:
            response: aiohttp.ClientResponse = await self._request.__aenter__()
        except Exception as error:
            raise self._translated(error) from error
        return response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._request.__aexit__(kind, error, trace)
        if isinstance(error, Exception) and not isinstance(error, CallError):
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> Exception:
        for known, kind, unsent, words in EXCEPTIONS:
            if isinstance(error, known):
                return CallError(
                    kind, f"endpoint {self._name}: {words}", passing=_may_pass(kind), lost=not unsent
                )
        return error


def _may_pass(kind: FailureKind) -> bool:
    return NEXT_STEP[kind].step is Step.SAME_ENDPOINT


def listed(page: Mapping[str, Any] | list[Any]) -> list[dict[str, Any]]:
    """The batches on a page, which may be a plain list: those that have an id."""
    objects = page if isinstance(page, list) else page.get("data")
    return (
        [item for item in objects if isinstance(item, dict) and item.get("id")]
        if isinstance(objects, list)
        else []
    )


def instant(text: Any) -> datetime:
    """When something was made, as seconds since 1970 or in ISO's manner; where neither, now."""
    try:
        if isinstance(text, str) and not text.replace(".", "", 1).isdigit():
            at = datetime.fromisoformat(text)
            return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        return datetime.fromtimestamp(float(text), UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return datetime.now(UTC)


def custom_id_in(line: bytes) -> str | None:
    """A line's custom id; None where it cannot be read."""
    data = parsed(line)
    custom_id = data.get("custom_id") if isinstance(data, dict) else None
    return custom_id if isinstance(custom_id, str) else None


def of_endpoint(name: str, reply: Reply) -> Reply:
    """What a line says, with the endpoint's name before its message; what expired was not run."""
    if reply.kind is None:
        return reply
    message = f"endpoint {name}: {reply.message}"
    return not_run(message) if reply.kind is FailureKind.EXPIRED else reply._replace(message=message)


def not_run(message: str) -> Reply:
    """The batch ended before this request's turn: nothing was billed for it."""
    return Reply(kind=FailureKind.EXPIRED, message=message, unbilled=True)
