"""OpenAI's wire over one aiohttp session: the transport of every endpoint that speaks it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from thirdshift.engines.core.json import dumps
from thirdshift.engines.core.transport import Reply, lost, not_sent
from thirdshift.engines.realtime.reply_size import TooLongError, read_bounded, reply_bytes_max
from thirdshift.engines.wires.openai import Bodies, refused_beforehand
from thirdshift.engines.wires.replies import read_reply
from thirdshift.router.values import Endpoint, FailureKind, Request
from thirdshift.world import REAL, World

OPENAI_BASE = "https://api.openai.com/v1"

KEEPALIVE_SECONDS = 3.5
"""Shorter than any server's we know (uvicorn closes after 5): a connection closed under our feet while we
send is an attempt whose outcome nobody knows."""

CONNECT_SECONDS = 30.0

EXCEPTIONS: tuple[tuple[type[BaseException], FailureKind, bool, str], ...] = (
    (TooLongError, FailureKind.BROKEN_REPLY, False, "the reply is longer than anything that was asked for"),
    (aiohttp.InvalidURL, FailureKind.NOT_FOUND, True, "its api_base is no URL"),
    (aiohttp.ConnectionTimeoutError, FailureKind.CONNECTION, True, "no connection within the time allowed"),
    (aiohttp.ClientConnectorCertificateError, FailureKind.NOT_FOUND, True, "its certificate is not trusted"),
    (aiohttp.ClientConnectorError, FailureKind.CONNECTION, True, "no connection could be made"),
    (asyncio.TimeoutError, FailureKind.TIMEOUT, False, "no complete reply within the time allowed"),
    (aiohttp.ClientPayloadError, FailureKind.BROKEN_REPLY, False, "the reply broke off"),
    (aiohttp.ClientResponseError, FailureKind.BROKEN_REPLY, False, "the reply is no HTTP"),
    (aiohttp.ClientError, FailureKind.CONNECTION, False, "the connection was lost"),
    (OSError, FailureKind.CONNECTION, False, "the connection was lost"),
    (ValueError, FailureKind.BROKEN_REPLY, False, "the reply cannot be read"),
)
"""What aiohttp raises, what it means, whether it is certain that nothing was sent; the first that fits."""


def key_of(endpoint: Endpoint, *defaults: str | None) -> tuple[str | None, str | None]:
    """The key, and the sentence to say where its variable is empty: the endpoint's, else the first default that is set. An
    own server may need none."""
    variables = [endpoint.api_key_env] if endpoint.api_key_env else [name for name in defaults if name]
    keys = [key for variable in variables if (key := os.environ.get(variable, "").strip())]
    if keys or not variables:
        return (keys[0] if keys else None), None
    return None, missing_key(endpoint, variables[0])


def missing_key(endpoint: Endpoint, variable: str) -> str:
    return f"endpoint {endpoint.name}: the environment variable {variable} is not set; export it and resume"


class HttpTransport:
    """`timeout_seconds`: from sending to the last byte of the reply."""

    def __init__(
        self, endpoint: Endpoint, bodies: Bodies, timeout_seconds: float, world: World = REAL
    ) -> None:
        self._name, self._world = endpoint.name, world
        self._bodies = bodies
        base = (endpoint.api_base or OPENAI_BASE).rstrip("/")
        self._url = f"{base}/chat/completions"
        key, self._missing = key_of(endpoint, None if endpoint.api_base else "OPENAI_API_KEY")
        self._headers = {"Content-Type": "application/json", **authorization(key)}
        self._proxy = proxy_for(base)
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=CONNECT_SECONDS)
        self._session: aiohttp.ClientSession | None = None

    async def send(self, request: Request) -> Reply:
        fault = refused_beforehand(request)
        if fault is not None:
            return not_sent(FailureKind.BAD_REQUEST, fault)
        if self._missing is not None:
            return not_sent(FailureKind.AUTH, self._missing)
        if self._session is None:
            self._session = new_session(self._headers, self._world)
        try:
            return await self._exchange(self._session, request)
        except Exception as error:  # noqa: BLE001 - EXCEPTIONS is the table; its last line is for the rest
            return self._translate(error)

    async def _exchange(self, session: aiohttp.ClientSession, request: Request) -> Reply:
        body = self._bodies.body(request)
        sent = aiohttp.BytesPayload(dumps(body), content_type="application/json")
        async with session.post(
            self._url, data=sent, proxy=self._proxy, allow_redirects=False, timeout=self._timeout
        ) as response:
            raw = await read_bounded(response, reply_bytes_max(body, request.max_tokens))
            reply = read_reply(response.status, response.headers, raw)
        if reply.kind is None:
            return reply
        adapted = reply.parameter is not None and self._bodies.adapt(reply.parameter, body)
        return reply._replace(message=f"endpoint {self._name}: {reply.message}", adapted=adapted)

    def _translate(self, error: BaseException) -> Reply:
        for kind_of_error, kind, unsent, words in EXCEPTIONS:
            if isinstance(error, kind_of_error):
                message = f"endpoint {self._name}: {words}"
                return not_sent(kind, message) if unsent else lost(kind, message)
        return lost(FailureKind.CONNECTION, f"endpoint {self._name}: {type(error).__name__} while sending")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


def authorization(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def new_session(headers: Mapping[str, str], world: World) -> aiohttp.ClientSession:
    """A session without a bound of its own on connections: the limiter is the bound. Each call has its own timeout."""
    return world.session(
        lambda: aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS, ttl_dns_cache=60),
            headers={"Accept-Encoding": "gzip, deflate", **headers},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # `reply_size` does it, within bounds
        )
    )


def proxy_for(url: str) -> str | None:
    """The environment's proxy for a URL, looked up once per engine and not once per request."""
    parts = urlsplit(url)
    if parts.hostname is None or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)
