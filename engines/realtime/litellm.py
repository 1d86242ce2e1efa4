"""Providers whose wire is not OpenAI's, through litellm: the same attempts, another transport.

litellm sends once (no retries of its own, no fallbacks), and its exceptions become failures by one table. It
costs 5 to 6 ms of processor time a call and 4 s to import; who speaks OpenAI's wire is better served by
`thirdshift.engines.realtime.engine`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from functools import wraps
from typing import Any, TypeVar

from thirdshift.engines.core.failures import NEXT_STEP
from thirdshift.engines.core.transport import Hints, Reply, lost, not_sent
from thirdshift.engines.realtime.engine import RealtimeEngine, patience_with
from thirdshift.engines.realtime.http import key_of, missing_key
from thirdshift.engines.wires.errors import meaning, parameter_in, surely_unbilled
from thirdshift.engines.wires.openai import Bodies, refused_beforehand
from thirdshift.engines.wires.parsing import as_text
from thirdshift.engines.wires.rate_limit_headers import hints_of, retry_after_of
from thirdshift.engines.wires.replies import read_completion
from thirdshift.engines.wires.rules import DECIDED_STATUS, FINISH
from thirdshift.engines.wires.waits import wait_told
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.values import Endpoint, FailureKind, LedgerStatus, Request

K = TypeVar("K")

OFFLINE = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_OFFLINE_MODE": "true",
    "LITELLM_TELEMETRY": "False",
}
"""Set before the import: otherwise it fetches prices and tokenizers (23 s of retries without a network)."""

GRACE_SECONDS = 5.0
"""litellm's own time-out comes first; some of its clients do not keep it."""

_SAID, _LOST = True, False

EXCEPTIONS: tuple[tuple[str, FailureKind, bool], ...] = (
    ("AuthenticationError", FailureKind.AUTH, _SAID),
    ("PermissionDeniedError", FailureKind.AUTH, _SAID),
    ("PaymentRequiredError", FailureKind.AUTH, _SAID),
    ("LiteLLMUnknownProvider", FailureKind.NOT_FOUND, _SAID),
    ("ModelNotMappedError", FailureKind.NOT_FOUND, _SAID),
    ("NotFoundError", FailureKind.NOT_FOUND, _SAID),
    ("RateLimitError", FailureKind.RATE_LIMITED, _SAID),
    ("ContextWindowExceededError", FailureKind.CONTEXT_OVERFLOW, _SAID),
    ("ContentPolicyViolationError", FailureKind.REFUSED, _SAID),
    ("RejectedRequestError", FailureKind.REFUSED, _SAID),
    ("BlockedPiiEntityError", FailureKind.REFUSED, _SAID),
    ("GuardrailRaisedException", FailureKind.REFUSED, _SAID),
    ("ModifyResponseException", FailureKind.REFUSED, _SAID),
    ("SensitiveDataRouteException", FailureKind.REFUSED, _SAID),
    ("BudgetExceededError", FailureKind.BAD_REQUEST, _SAID),
    ("ImageFetchError", FailureKind.BAD_REQUEST, _SAID),
    ("UnsupportedParamsError", FailureKind.BAD_REQUEST, _SAID),
    ("VectorStoreSearchError", FailureKind.BAD_REQUEST, _SAID),
    ("UnprocessableEntityError", FailureKind.BAD_REQUEST, _SAID),
    ("InvalidRequestError", FailureKind.BAD_REQUEST, _SAID),
    ("BadRequestError", FailureKind.BAD_REQUEST, _SAID),
    ("JSONSchemaValidationError", FailureKind.INVALID, _LOST),
    ("APIResponseValidationError", FailureKind.BROKEN_REPLY, _LOST),
    ("MidStreamFallbackError", FailureKind.BROKEN_REPLY, _LOST),
    ("Timeout", FailureKind.TIMEOUT, _LOST),
    # litellm gives these to dropped connections too: void only where HOW_FAR shows a status
    ("InternalServerError", FailureKind.OVERLOADED, _LOST),
    ("BadGatewayError", FailureKind.OVERLOADED, _LOST),
    ("ServiceUnavailableError", FailureKind.OVERLOADED, _LOST),
    ("MockException", FailureKind.OVERLOADED, _LOST),
    ("APIConnectionError", FailureKind.CONNECTION, _LOST),
    ("APIError", FailureKind.CONNECTION, _LOST),
    ("OpenAIError", FailureKind.CONNECTION, _LOST),
)
"""litellm's exception, what it means, and whether it alone shows that nothing was billed; the first that is among
the classes of what was raised."""

HINTS = {
    "UnsupportedParamsError": "; does the model refuse a temperature? `request: {temperature: null}` sends none",
}
"""What to do, where an exception has a usual cause."""

HOW_FAR: tuple[tuple[str, FailureKind | None, bool], ...] = (
    ("HTTPStatusError", None, _SAID),
    ("ClientResponseError", None, _SAID),
    ("ConnectError", FailureKind.CONNECTION, _SAID),
    ("ConnectTimeout", FailureKind.CONNECTION, _SAID),
    ("ClientConnectorError", FailureKind.CONNECTION, _SAID),
    ("TimeoutException", FailureKind.TIMEOUT, _LOST),
    ("TransportError", FailureKind.CONNECTION, _LOST),
    ("ClientError", FailureKind.CONNECTION, _LOST),
    ("JSONDecodeError", FailureKind.BROKEN_REPLY, _LOST),
    ("ValidationError", FailureKind.BROKEN_REPLY, _LOST),
)
"""What httpx, aiohttp or a parser raised before litellm made an exception of its own of it: how far the call came.
None: as EXCEPTIONS says. The first that is in the chain."""

UNFINISHED = (FailureKind.PARTIAL, FailureKind.CONTEXT_OVERFLOW)
"""What a finish reason makes of a reply, besides an answer and a refusal."""


def load_litellm() -> Any:
    """The module, imported without reaching for the network."""
    for name, value in OFFLINE.items():
        os.environ.setdefault(name, value)
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    if litellm.aclient_session is None:
        from litellm.llms.custom_httpx import http_handler

        litellm.aclient_session = _without_redirects(http_handler.AsyncHTTPHandler)(
            follow_redirects=False
        ).client
        _keep_finish_reasons()
    return litellm


def _keep_finish_reasons() -> None:
    """Have litellm tell apart the reasons that make no whole answer. It says `stop` for them, and warns on standard error;
    on the wires of Anthropic and Gemini nothing beside tells what came. It takes words of its own list only."""
    from litellm.litellm_core_utils import core_helpers

    known = getattr(core_helpers, "_FINISH_REASON_MAP", None)
    if isinstance(known, dict):
        unfinished = [name for name, kind in FINISH.items() if kind in UNFINISHED]
        known |= dict.fromkeys((*unfinished, *map(str.upper, unfinished)), "finish_reason_unspecified")


def _without_redirects(handler: Any) -> Any:
    """Have litellm's clients follow no redirect: each would carry the body and the key to another host. It has no setting
    for that; OpenAI's clients take `aclient_session`, all others are made by this class."""
    made = handler.__init__

    @wraps(made)
    def make(self: Any, *given: Any, **named: Any) -> None:
        made(self, *given, **{**named, "follow_redirects": False})

    handler.__init__ = make
    return handler


class LitellmEngine(RealtimeEngine):
    """`interfaces.Engine` for any provider that litellm knows."""

    def __init__(
        self,
        endpoint: Endpoint,
        engine_context: EngineContext,
        *,
        timeout_seconds: float | None = None,
        **options: Any,
    ) -> None:
        timeout_seconds = timeout_seconds or patience_with(endpoint)
        transport = LitellmTransport(endpoint, timeout_seconds)
        super().__init__(
            endpoint, engine_context, transport=transport, timeout_seconds=timeout_seconds, **options
        )


class LitellmTransport:
    """One call of `acompletion` per request."""

    def __init__(self, endpoint: Endpoint, timeout_seconds: float) -> None:
        self._litellm = load_litellm()
        self._name = endpoint.name
        self._bodies = Bodies(endpoint)
        self._timeout = timeout_seconds
        self._fixed: dict[str, Any] = {"model": endpoint.model, "num_retries": 0, "max_retries": 0}
        if endpoint.api_base is not None:
            self._fixed["api_base"] = endpoint.api_base
        key, self._missing = key_of(endpoint)
        if key is not None:
            self._fixed["api_key"] = key
        elif endpoint.api_key_env is None and endpoint.api_base is None:
            self._missing = self._missing_variable(endpoint)

    def _missing_variable(self, endpoint: Endpoint) -> str | None:
        """The sentence where litellm looks for one key variable in vain. Clouds have other ways in."""
        missing = self._litellm.validate_environment(model=endpoint.model)["missing_keys"]
        if len(missing) != 1 or not missing[0].endswith("_API_KEY"):
            return None
        return missing_key(endpoint, missing[0])

    async def send(self, request: Request) -> Reply:
        fault = refused_beforehand(request)
        if fault is not None:
            return not_sent(FailureKind.BAD_REQUEST, fault)
        if self._missing is not None:
            return not_sent(FailureKind.AUTH, self._missing)
        body = self._bodies.body(request) | self._fixed
        body["messages"] = [dict(message) for message in request.messages]
        try:
            async with asyncio.timeout(self._timeout + GRACE_SECONDS):
                response = await self._litellm.acompletion(**body, timeout=self._timeout)
            reply = read_completion(_with_own_reasons(response.model_dump()))._replace(hints=_hints(response))
            return (
                reply
                if reply.kind is None
                else reply._replace(message=f"endpoint {self._name}: {reply.message}")
            )
        except TimeoutError:
            return lost(
                FailureKind.TIMEOUT, f"endpoint {self._name}: no complete reply within the time allowed"
            )
        except Exception as error:  # noqa: BLE001 - EXCEPTIONS is the table; what it lacks is a lost connection
            reply = translated(error, self._name)
            parameter = reply.parameter
            return reply._replace(adapted=parameter is not None and self._bodies.adapt(parameter, body))

    async def close(self) -> None:
        """Nothing: litellm keeps clients of its own, for the process."""


def _with_own_reasons(data: dict[str, Any]) -> dict[str, Any]:
    """A completion with its provider's own finish reasons. litellm says `stop` for those that it does not know, and for
    `error`; what came stands beside."""
    for choice in data.get("choices") or ():
        beside = choice.get("provider_specific_fields") if isinstance(choice, dict) else None
        own = beside.get("native_finish_reason") if isinstance(beside, dict) else None
        if isinstance(own, str) and own.lower() in FINISH:
            choice["finish_reason"] = own
    return data


def _hints(response: Any) -> Hints | None:
    """The provider's limit headers, which litellm keeps under names of its own."""
    kept = getattr(response, "_hidden_params", None) or {}
    headers = kept.get("additional_headers") or {}
    return hints_of({name.removeprefix("llm_provider-"): str(value) for name, value in headers.items()})


def translated(error: BaseException, endpoint: str) -> Reply:
    """What an exception of litellm's means. None of its prose is repeated: it can quote a prompt or a key."""
    kind, reason = _kind(error)
    name, status = type(error).__name__, getattr(error, "status_code", None)
    message = f"endpoint {endpoint}: {name}" + (f", status {status}" if status else "")
    words = str(error)
    wait, unbilled = wait_told({}, words.lower()), reason
    remedy = HINTS.get(name, "")
    decided = kind is FailureKind.AUTH and status in DECIDED_STATUS
    if reason:  # litellm names an exception by the status; the words can say more
        if kind is FailureKind.CONNECTION and (redirect := _redirect_behind(error)) is not None:
            kind, status = meaning(redirect, (), "")[0], redirect
        by_words, phrase = meaning(status if isinstance(status, int) else 400, (), words.lower(), wait)
        unbilled = surely_unbilled(by_words, phrase)
        if by_words is FailureKind.TIMEOUT:
            kind = by_words
        if phrase is not None:
            kind, decided = by_words, phrase.decided
            remedy = f": {phrase.remedy}" if phrase.remedy else remedy
    return Reply(
        kind=kind,
        message=message + remedy,
        unbilled=unbilled,
        decided=decided,
        retry_after=retry_after_of(_headers(error)) or (wait if kind is FailureKind.RATE_LIMITED else None),
        said=as_text(words),
        parameter=parameter_in(words.lower()) if kind is FailureKind.BAD_REQUEST else None,
    )


def _kind(error: BaseException) -> tuple[FailureKind, bool]:
    """What befell the request, and whether it is certain that nothing was billed."""
    kind, words = _first(EXCEPTIONS, _names(error)) or (FailureKind.CONNECTION, _LOST)
    behind = set[str]().union(*(_names(link) for link in _chain(error)))
    far = _first(HOW_FAR, behind)
    if far is not None:
        kind, words = far[0] or kind, far[1]
    if not words and NEXT_STEP[kind].ledger is LedgerStatus.VOID:
        kind = FailureKind.CONNECTION  # nothing shows that a status was received
    return kind, words


def _first(table: tuple[tuple[str, K, bool], ...], names: set[str]) -> tuple[K, bool] | None:
    return next(((kind, words) for name, kind, words in table if name in names), None)


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _chain(error: BaseException) -> Iterator[BaseException]:
    """What led to an exception, at most ten links."""
    link = error.__cause__ or error.__context__
    for _ in range(10):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def _redirect_behind(error: BaseException) -> int | None:
    """The status of a redirect that was not followed; litellm takes it for a lost connection."""
    statuses = (getattr(link, "status_code", None) for link in _chain(error))
    return next((status for status in statuses if isinstance(status, int) and 300 <= status < 400), None)


def _headers(error: BaseException) -> Mapping[str, str]:
    headers = getattr(error, "litellm_response_headers", None)
    if not headers:
        headers = getattr(getattr(error, "response", None), "headers", None)
    return headers or {}
