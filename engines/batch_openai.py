"""OpenAI's files and batches: the batch tier of whoever speaks that wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
import stamina

from engines.batch_wire import BatchLimits, CallError, Remote, RemoteState
from engines.http import EXCEPTIONS, OPENAI_BASE, authorization, key_of, new_session, proxy_for
from engines.outcomes import NEXT_STEP, Step
from engines.quickjson import dumps, loads
from engines.transport import Reply, lost
from engines.wire import Bodies, read_completion, read_error
from router.values import Endpoint, FailureKind, Request

CHAT = "/v1/chat/completions"
LABEL = "thirdshift_key"
"""Where a batch's metadata carry its label. A value may have 512 characters."""
PAGE = 100
PAGES_MAX = 50
"""As far back as a batch is looked for: 5,000 batches."""
SILENCE_SECONDS = 120.0
"""Without a byte in a transfer, it is lost. A transfer as a whole may take as long as it takes."""
PIECE = 1 << 18

STATES: dict[str, RemoteState] = {
    "validating": RemoteState.RUNNING,
    "in_progress": RemoteState.RUNNING,
    "finalizing": RemoteState.RUNNING,
    "cancelling": RemoteState.RUNNING,
    "completed": RemoteState.ENDED,
    "expired": RemoteState.ENDED,
    "cancelled": RemoteState.ENDED,
    "failed": RemoteState.FAILED,
}
QUEUE_FULL = {"token_limit_exceeded", "enqueued_token_limit_exceeded", "rate_limit_exceeded"}


def _passing(error: Exception) -> bool:
    return isinstance(error, CallError) and error.passing


_again = stamina.retry(on=_passing, attempts=8, timeout=None, wait_initial=0.2, wait_max=30.0)
"""For calls that may be made twice: everything but the creation of a batch."""


class OpenAIBatches:
    """`BatchWire` over HTTP. `limits`: what OpenAI documents, less a little for the multipart around it."""

    limits = BatchLimits(requests=50_000, bytes=199_000_000)

    def __init__(self, endpoint: Endpoint, bodies: Bodies) -> None:
        self._name = endpoint.name
        self._bodies = bodies
        self._base = (endpoint.api_base or OPENAI_BASE).rstrip("/")
        self._proxy = proxy_for(self._base)
        key, self._missing = key_of(endpoint, None if endpoint.api_base else "OPENAI_API_KEY")
        self._headers = authorization(key)
        self._session: aiohttp.ClientSession | None = None

    def line(self, custom_id: str, request: Request) -> bytes:
        body = self._bodies.body(request)
        return dumps({"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}) + b"\n"

    @_again
    async def upload(self, path: Path) -> str:
        with path.open("rb") as file:
            form = aiohttp.FormData()
            form.add_field("purpose", "batch")
            form.add_field("file", file, filename="requests.jsonl", content_type="application/jsonl")
            made = await self._call("POST", "/files", data=form)
        return str(made["id"])

    async def create(self, source: str, label: str) -> Remote:
        body = {
            "input_file_id": source,
            "endpoint": CHAT,
            "completion_window": "24h",
            "metadata": {LABEL: label},
        }
        return _remote(await self._call("POST", "/batches", json=body))

    async def find(self, prefix: str) -> AsyncIterator[Remote]:
        after = ""
        for _ in range(PAGES_MAX):
            page = await self._get(f"/batches?limit={PAGE}{after}")
            for batch in page.get("data", ()):
                found = _remote(batch)
                if found.label.startswith(prefix):
                    yield found
            if not page.get("has_more") or not page.get("data"):
                return
            after = f"&after={page['data'][-1]['id']}"

    async def look(self, batch_id: str) -> Remote:
        return _remote(await self._get(f"/batches/{batch_id}"))

    @_again
    async def cancel(self, batch_id: str) -> None:
        try:
            await self._call("POST", f"/batches/{batch_id}/cancel")
        except CallError as error:
            if error.status != 409:  # it has ended meanwhile
                raise

    @_again
    async def fetch(self, name: str, path: Path) -> None:
        with path.open("wb") as file:
            async with self._request("GET", f"/files/{name}/content") as response:
                await self._check(response)
                async for piece in response.content.iter_chunked(PIECE):
                    file.write(piece)

    @_again
    async def delete(self, name: str) -> None:
        await self._call("DELETE", f"/files/{name}")

    def custom_id(self, line: bytes) -> str | None:
        try:
            found = loads(line)["custom_id"]
        except (ValueError, KeyError, TypeError):
            return None
        return found if isinstance(found, str) else None

    def read(self, line: bytes) -> Reply:
        data = loads(line)
        response, error = data.get("response"), data.get("error")
        if isinstance(response, dict) and isinstance(response.get("body"), dict):
            if response.get("status_code") == 200:
                return read_completion(response["body"])
            return read_error(int(response.get("status_code") or 500), dumps(response["body"]))
        if isinstance(error, dict) and error.get("code") in ("batch_expired", "batch_cancelled"):
            return not_run(f"endpoint {self._name}: {error['code']}")
        if isinstance(error, dict):
            return read_error(500, dumps({"error": error}))
        return lost(FailureKind.BROKEN_REPLY, f"endpoint {self._name}: a result without a response")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # --- calls ---

    @_again
    async def _get(self, path: str) -> dict[str, Any]:
        return await self._call("GET", path)

    def _request(self, method: str, path: str, **body: Any) -> Any:
        if self._missing is not None:
            raise CallError(FailureKind.AUTH, self._missing, passing=False)
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=30.0, sock_read=SILENCE_SECONDS)
            self._session = new_session(self._headers, timeout)
        return _Guarded(
            self._session.request(method, self._base + path, proxy=self._proxy, **body), self._name
        )

    async def _call(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        async with self._request(method, path, **body) as response:
            await self._check(response)
            try:
                answer = loads(await response.read())
            except ValueError:
                answer = None
        if not isinstance(answer, dict):
            words = f"endpoint {self._name}: what came is no JSON object"
            raise CallError(FailureKind.BROKEN_REPLY, words, passing=True, lost=True)
        return answer

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        """Raise what a status other than 2xx means."""
        if response.status // 100 != 2:
            reply = read_error(response.status, await response.read())
            kind = reply.kind or FailureKind.OVERLOADED
            passing = NEXT_STEP[kind].step is Step.SAME_ENDPOINT
            words = f"endpoint {self._name}: {reply.message}"
            raise CallError(kind, words, passing=passing, status=response.status)


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
                passing = NEXT_STEP[kind].step is Step.SAME_ENDPOINT
                return CallError(kind, f"endpoint {self._name}: {words}", passing=passing, lost=not unsent)
        return error


def not_run(message: str) -> Reply:
    """The batch ended before this request's turn: nothing was billed for it."""
    return Reply(kind=FailureKind.EXPIRED, message=message, unbilled=True)


def _remote(batch: Mapping[str, Any]) -> Remote:
    status = str(batch.get("status"))
    names = (batch.get("output_file_id"), batch.get("error_file_id"))
    faults = (batch.get("errors") or {}).get("data") or []
    codes = [str(fault.get("code")) for fault in faults if isinstance(fault, dict)]
    counts = batch.get("request_counts") or {}
    return Remote(
        id=str(batch["id"]),
        label=str((batch.get("metadata") or {}).get(LABEL, "")),
        state=STATES.get(status, RemoteState.RUNNING),
        created_at=datetime.fromtimestamp(batch.get("created_at") or 0, UTC),
        cut_short=status in ("expired", "cancelled"),
        queue_full=status == "failed" and bool(QUEUE_FULL & set(codes)),
        fault=", ".join(dict.fromkeys(codes))[:200],
        done=int(counts.get("completed") or 0) + int(counts.get("failed") or 0),
        source=batch.get("input_file_id"),
        results=tuple(name for name in names if isinstance(name, str)),
    )
