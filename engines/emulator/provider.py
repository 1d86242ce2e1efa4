"""The provider behind the wires: what it lets in, what goes wrong, what it answers and what it bills."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from thirdshift.engines.emulator.answers import CACHED_FROM, CACHED_STEP, EmulatedAnswer, Oracle, WireRequest
from thirdshift.engines.emulator.billing import Billing
from thirdshift.engines.emulator.models import PERSISTENT, EmulatedModel, Trouble
from thirdshift.engines.emulator.rate_limits import Allowance, retry_headers
from thirdshift.router.values import Mode
from thirdshift.world import REAL, World


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """A complete error: nothing was billed."""

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BilledAnswer:
    """An answer, billed. `trouble` is what is wrong with it or with its way to the client."""

    ref: str
    model: str
    answer: EmulatedAnswer
    trouble: Trouble | None
    headers: Mapping[str, str]
    at: float
    """POSIX time."""


@dataclass(frozen=True, slots=True)
class DroppedConnection:
    """The connection closes without a reply. `billed`: the answer is on the bill all the same."""

    billed: bool


STATUSES = {
    Trouble.ERROR_500: (500, "server_error", "The server had an error while processing your request"),
    Trouble.ERROR_503: (503, "overloaded", "The server is overloaded, please try again later"),
    Trouble.ERROR_408: (408, "timeout", "The request took too long"),
    Trouble.ERROR_429: (429, "rate_limit_exceeded", "Too many requests"),
    Trouble.ERROR_429_SILENT: (429, "rate_limit_exceeded", "Too many requests"),
    Trouble.OVERFLOW: (400, "context_length_exceeded", "This model's maximum context length is exceeded"),
}
"""Troubles that are complete HTTP errors."""


class Provider:
    """`models` by the names on the wire."""

    def __init__(self, models: Iterable[EmulatedModel], oracle: Oracle, world: World = REAL) -> None:
        self.models = {model.name: model for model in models}
        self.oracle, self.world = oracle, world
        self.billing = Billing(world)
        self._allowances = {name: Allowance(model.limits) for name, model in self.models.items()}
        self._troubles = {name: _parted(model.troubles) for name, model in self.models.items()}
        self._attempts: Counter[tuple[str, int]] = Counter()
        self._prefixes: set[tuple[str, int]] = set()
        self._numbers = itertools.count(1)

    async def call(self, asked: WireRequest) -> BilledAnswer | ErrorResponse | DroppedConnection:
        """Serve one request in real time. Returns what is to be sent back."""
        model = self.models.get(asked.model)
        if model is None:
            names = ", ".join(self.models)
            return ErrorResponse(404, "model_not_found", f"no model {asked.model}; models are {names}")
        allowance = self._allowances[model.name]
        answer = self._with_cache(model, asked, self.oracle.answer(model, asked))
        totals = self.billing.of(model.name)
        totals.requests += 1
        wait = allowance.admit(answer.usage.input_tokens + answer.usage.output_tokens, self.world.monotonic())
        headers = allowance.headers(self.world.monotonic())
        if wait > 0.0:
            result: BilledAnswer | ErrorResponse | DroppedConnection = ErrorResponse(
                429, "rate_limit_exceeded", "Rate limit reached", {**headers, **retry_headers(wait)}
            )
        else:
            totals.most_in_flight = allowance.most_in_flight
            try:
                result = await self._admitted(model, asked, answer, headers)
            finally:
                allowance.leave()
        self._count(model, result)
        return result

    async def _admitted(
        self, model: EmulatedModel, asked: WireRequest, answer: EmulatedAnswer, headers: Mapping[str, str]
    ) -> BilledAnswer | ErrorResponse | DroppedConnection:
        trouble = self.trouble(model, asked)
        if trouble is not None:
            totals = self.billing.of(model.name)
            totals.troubles[trouble] = totals.troubles.get(trouble, 0) + 1
        if (refusal := refused(model, asked, trouble)) is not None:
            return replace(refusal, headers={**headers, **refusal.headers})
        if trouble is Trouble.DROP_BEFORE:
            return DroppedConnection(billed=False)
        seconds = model.latency_seconds + model.seconds_per_token * answer.usage.output_tokens
        if trouble is Trouble.SLOW:
            seconds = max(seconds * model.slow_factor, model.slow_seconds)
        if seconds > 0.0:
            await asyncio.sleep(seconds)
        tier = Mode.FLEX if asked.flex else Mode.REALTIME
        billed_answer = self.bill_answer(model, asked, answer, trouble, tier, headers)
        if trouble is Trouble.HANG:
            await asyncio.sleep(model.hang_seconds)
        return (
            DroppedConnection(billed=True) if trouble in (Trouble.HANG, Trouble.DROP_AFTER) else billed_answer
        )

    def bill_answer(
        self,
        model: EmulatedModel,
        asked: WireRequest,
        answer: EmulatedAnswer,
        trouble: Trouble | None,
        mode: Mode,
        headers: Mapping[str, str],
    ) -> BilledAnswer:
        """Bill an answer, with the trouble that is in it."""
        answer = marred(answer, asked, trouble)
        ref = f"emulated-{next(self._numbers)}"
        self.billing.bill(ref, model, asked.messages_key, answer, mode, trouble=trouble)
        return BilledAnswer(ref, model.name, answer, trouble, headers, self.world.time())

    def trouble(self, model: EmulatedModel, asked: WireRequest) -> Trouble | None:
        """Draw the trouble of this attempt: the nth attempt at a request meets the same in every run of one seed."""
        if not model.troubles:
            return None
        key = (model.name, asked.messages_key)
        self._attempts[key] += 1
        lasting, passing = self._troubles[model.name]
        return self._met(lasting, *key) or self._met(passing, *key, self._attempts[key])

    def _met(self, rates: Mapping[Trouble, float], *what: object) -> Trouble | None:
        """Draw one of these troubles, where there are any."""
        return _drawn(rates, self.oracle.draw(*what)) if rates else None

    def _with_cache(self, model: EmulatedModel, asked: WireRequest, answer: EmulatedAnswer) -> EmulatedAnswer:
        """Return the answer with its prefix counted as cached where this model saw it before."""
        if not model.caches_prefix or asked.prefix_tokens < CACHED_FROM:
            return answer
        key = (model.name, asked.prefix_key)
        seen = key in self._prefixes
        self._prefixes.add(key)
        if not seen:
            written = min(asked.prefix_tokens, answer.usage.input_tokens) if asked.keeps else 0
            return replace(answer, usage=answer.usage._replace(written_tokens=written))
        cached = min(asked.prefix_tokens // CACHED_STEP * CACHED_STEP, answer.usage.input_tokens)
        return replace(answer, usage=answer.usage._replace(cached_tokens=cached))

    def _count(self, model: EmulatedModel, result: BilledAnswer | ErrorResponse | DroppedConnection) -> None:
        statuses = self.billing.of(model.name).statuses
        status = "none" if isinstance(result, DroppedConnection) else "200"
        if isinstance(result, ErrorResponse):
            status = str(result.status)
        statuses[status] = statuses.get(status, 0) + 1


def refused(model: EmulatedModel, asked: WireRequest, trouble: Trouble | None) -> ErrorResponse | None:
    """Return the complete error that a request gets, if any."""
    if model.context_window is not None:
        wanted = asked.input_tokens + (asked.max_tokens or 0)
        if wanted > model.context_window:
            words = f"maximum context length is {model.context_window} tokens; {wanted} were asked for"
            return ErrorResponse(400, "context_length_exceeded", words)
    if trouble is None or trouble not in STATUSES:
        return None
    status, code, message = STATUSES[trouble]
    headers = retry_headers(model.retry_after_seconds) if trouble is Trouble.ERROR_429 else {}
    return ErrorResponse(status, code, message, headers)


def marred(answer: EmulatedAnswer, asked: WireRequest, trouble: Trouble | None) -> EmulatedAnswer:
    """Return the answer as the trouble leaves it; its usage is what is billed."""
    usage = answer.usage
    if trouble is Trouble.CUT_EMPTY:
        tokens = usage.output_tokens if asked.max_tokens is None else asked.max_tokens
        eaten = usage._replace(output_tokens=tokens, reasoning_tokens=tokens)
        return EmulatedAnswer("", eaten, "length", right=False)
    if trouble is Trouble.REFUSE:
        return replace(answer, text="I'm sorry, but I can't help with that.", right=False)
    if trouble is Trouble.INVALID_JSON and asked.schema is not None:
        return replace(answer, text=answer.text[: max(1, len(answer.text) // 2)], right=False)
    return answer


def _parted(
    troubles: Mapping[Trouble, float],
) -> tuple[Mapping[Trouble, float], Mapping[Trouble, float]]:
    """Return those that a request meets at every attempt, and those that pass."""
    lasting = {trouble: rate for trouble, rate in troubles.items() if trouble in PERSISTENT}
    return lasting, {trouble: rate for trouble, rate in troubles.items() if trouble not in lasting}


def _drawn(rates: Mapping[Trouble, float], at: float) -> Trouble | None:
    """Return the trouble whose stretch of 0..1 `at` falls into; stretches lie in the order given."""
    for trouble, rate in rates.items():
        if at < rate:
            return trouble
        at -= rate
    return None
