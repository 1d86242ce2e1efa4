"""What each failure leads to, and what it means for the ledger: the rules of every engine, as tables.

The money side has two questions. Did the provider tell the usage? Then the entry is settled, whatever the
reply was worth. If not: is it certain that nothing was billed (a complete HTTP error, or never sent)? Then it
is void; if not (dropped, hung, truncated), it is unsettled at what it can have cost at most.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from thirdshift.router.values import FailureKind, LedgerStatus, Usage

CUT_EMPTY_FACTOR = 4
"""An answer cut before its first word is asked for once more with so many times its max_tokens."""

BACKOFF_SECONDS = 1.0
"""The first wait; it doubles with each attempt, and each wait is drawn between half of it and the whole."""

BACKOFF_MAX_SECONDS = 60.0


class Step(StrEnum):
    SAME_ENDPOINT = "same_endpoint"
    """Try again here, after a wait."""
    OTHER_ENDPOINT = "other_endpoint"
    """This endpoint will not answer it; another one may."""
    GIVE_UP = "give_up"
    """No endpoint is asked again tonight."""
    STOP_RUN = "stop_run"
    """Nothing more is sent."""


@dataclass(frozen=True, slots=True)
class RetryRule:
    step: Step
    """What follows while attempts are left."""
    attempts: int
    """At most so many attempts that end in this failure, per request and shard."""
    after: Step
    """What follows when they are used up: for the flow to decide on."""
    ledger: LedgerStatus
    """What the ledger says of an attempt that ended so and told no usage."""
    wait: bool = True
    """Whether the next attempt waits: not where the endpoint did its part and the answer was of no use."""
    congestion: bool = False
    """Whether the limiter takes it as a sign to go slower."""
    endpoint_wide: bool = False
    """Whether it is the endpoint's rather than the request's: some in a row, and no more is sent."""


def _rule(step: Step, attempts: int, after: Step, ledger: LedgerStatus, **flags: bool) -> RetryRule:
    return RetryRule(step, attempts, after, ledger, **flags)


_AGAIN, _OTHER, _STOP = Step.SAME_ENDPOINT, Step.OTHER_ENDPOINT, Step.STOP_RUN
_VOID, _UNSETTLED = LedgerStatus.VOID, LedgerStatus.UNSETTLED

NEXT_STEP: dict[FailureKind, RetryRule] = {
    # A 429 is about timing, costs nothing and is waited for; the bound is so that nothing waits for ever.
    FailureKind.RATE_LIMITED: _rule(_AGAIN, 50, _OTHER, _VOID, congestion=True),
    FailureKind.OVERLOADED: _rule(_AGAIN, 8, _OTHER, _VOID, congestion=True),
    # Each of these three can have cost the whole reservation; at one in twenty, four leave 6 in a million.
    FailureKind.TIMEOUT: _rule(_AGAIN, 3, _OTHER, _UNSETTLED, congestion=True),
    FailureKind.CONNECTION: _rule(_AGAIN, 6, _OTHER, _UNSETTLED, congestion=True),
    FailureKind.BROKEN_REPLY: _rule(_AGAIN, 4, _OTHER, _UNSETTLED),
    FailureKind.REFUSED: _rule(_OTHER, 1, _OTHER, _UNSETTLED),
    FailureKind.CONTEXT_OVERFLOW: _rule(_OTHER, 1, _OTHER, _VOID),
    FailureKind.CUT_EMPTY: _rule(_AGAIN, 2, _OTHER, _UNSETTLED, wait=False),
    FailureKind.INVALID: _rule(_AGAIN, 2, _OTHER, _UNSETTLED, wait=False),
    # A parameter that one provider does not know may be known to the next.
    FailureKind.BAD_REQUEST: _rule(_OTHER, 1, _OTHER, _VOID),
    FailureKind.AUTH: _rule(_OTHER, 1, _OTHER, _VOID, endpoint_wide=True),
    FailureKind.NOT_FOUND: _rule(_OTHER, 1, _OTHER, _VOID, endpoint_wide=True),
    FailureKind.EXPIRED: _rule(_OTHER, 1, _OTHER, _VOID),
    FailureKind.WORKER_DIED: _rule(_AGAIN, 3, _OTHER, _UNSETTLED),
    FailureKind.BUDGET: _rule(_STOP, 1, _STOP, _VOID),
    FailureKind.DEADLINE: _rule(_STOP, 1, _STOP, _VOID),
    FailureKind.CANCELLED: _rule(Step.GIVE_UP, 1, Step.GIVE_UP, _VOID),
}

STATUS_KINDS: dict[int, FailureKind] = {
    401: FailureKind.AUTH,
    402: FailureKind.AUTH,
    403: FailureKind.AUTH,
    404: FailureKind.NOT_FOUND,
    408: FailureKind.OVERLOADED,
    409: FailureKind.OVERLOADED,
    413: FailureKind.CONTEXT_OVERFLOW,
    425: FailureKind.RATE_LIMITED,
    429: FailureKind.RATE_LIMITED,
    501: FailureKind.BAD_REQUEST,
}
"""Statuses with a meaning of their own; other 4xx are bad requests, 5xx overload, 3xx a wrong address."""

CODE_KINDS: dict[str, FailureKind] = {
    "context_length_exceeded": FailureKind.CONTEXT_OVERFLOW,
    "string_above_max_length": FailureKind.CONTEXT_OVERFLOW,
    "request_too_large": FailureKind.CONTEXT_OVERFLOW,
    "content_filter": FailureKind.REFUSED,
    "content_policy_violation": FailureKind.REFUSED,
    "data_inspection_failed": FailureKind.REFUSED,
    "insufficient_quota": FailureKind.AUTH,
    "insufficient_balance": FailureKind.AUTH,
    "billing_hard_limit_reached": FailureKind.AUTH,
    "invalid_api_key": FailureKind.AUTH,
    "model_not_found": FailureKind.NOT_FOUND,
    "rate_limit_exceeded": FailureKind.RATE_LIMITED,
    "overloaded_error": FailureKind.OVERLOADED,
    "server_error": FailureKind.OVERLOADED,
}
"""An error body's `code` or `type`, where it says more than the status."""

OVERFLOW_PHRASES = (
    "context length",
    "context window",
    "maximum context",
    "prompt is too long",
    "input is too long",
    "too many input tokens",
    "maximum model length",
    "max_model_len",
)
"""Servers without error codes (vLLM, llama.cpp, …) say it in words, with status 400."""


def kind_of_error(status: int, codes: tuple[str, ...] = (), text: str = "") -> FailureKind:
    """The failure that a complete HTTP error tells of: by its code, then its words, then its status."""
    for code in codes:
        if code in CODE_KINDS:
            return CODE_KINDS[code]
    if status in (400, 413, 422, 500) and any(phrase in text.lower() for phrase in OVERFLOW_PHRASES):
        return FailureKind.CONTEXT_OVERFLOW
    if status in STATUS_KINDS:
        return STATUS_KINDS[status]
    if 300 <= status < 400:
        return FailureKind.NOT_FOUND
    return FailureKind.OVERLOADED if status >= 500 else FailureKind.BAD_REQUEST


def ledger_status(kind: FailureKind | None, usage: Usage | None, *, unbilled: bool = False) -> LedgerStatus:
    """What the ledger says of an attempt. `unbilled`: it is certain that nothing was billed."""
    if usage is not None:
        return LedgerStatus.SETTLED
    if unbilled:
        return LedgerStatus.VOID
    return LedgerStatus.UNSETTLED if kind is None else NEXT_STEP[kind].ledger


def backoff_seconds(
    failures: int, retry_after: float | None, rng: random.Random, first: float = BACKOFF_SECONDS
) -> float:
    """How long a request waits after its nth failure (from 1); what the provider asked for comes first."""
    ceiling = min(BACKOFF_MAX_SECONDS, first * 2.0 ** min(failures - 1, 16))
    drawn = ceiling * rng.uniform(0.5, 1.0)
    return drawn if retry_after is None else retry_after + rng.uniform(0.0, 0.25 * first)
