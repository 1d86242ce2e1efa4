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

TRUSTED_WAITS = 3
"""So often a request waits no longer than it is told to."""


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
    """At most so many attempts that end in this failure, per request and shard; then the flow decides."""
    ledger: LedgerStatus
    """What the ledger says of an attempt that ended so and told no usage."""
    wait: bool = True
    """Whether the next attempt waits: not where the endpoint did its part and the answer was of no use."""
    congestion: bool = False
    """Whether the limiter takes it as a sign to go slower."""


_AGAIN, _OTHER, _STOP = Step.SAME_ENDPOINT, Step.OTHER_ENDPOINT, Step.STOP_RUN
_VOID, _UNSETTLED = LedgerStatus.VOID, LedgerStatus.UNSETTLED

NEXT_STEP: dict[FailureKind, RetryRule] = {
    # A 429 is about timing, costs nothing and is waited for; the bound is so that nothing waits for ever.
    FailureKind.RATE_LIMITED: RetryRule(_AGAIN, 50, _VOID, congestion=True),
    FailureKind.OVERLOADED: RetryRule(_AGAIN, 8, _VOID, congestion=True),
    # Each of these three can have cost the whole reservation; at one in twenty, four leave 6 in a million.
    FailureKind.TIMEOUT: RetryRule(_AGAIN, 3, _UNSETTLED, congestion=True),
    FailureKind.CONNECTION: RetryRule(_AGAIN, 6, _UNSETTLED, congestion=True),
    FailureKind.BROKEN_REPLY: RetryRule(_AGAIN, 4, _UNSETTLED),
    FailureKind.REFUSED: RetryRule(_OTHER, 1, _UNSETTLED),
    FailureKind.CONTEXT_OVERFLOW: RetryRule(_OTHER, 1, _VOID),
    FailureKind.PARTIAL: RetryRule(_AGAIN, 2, _UNSETTLED, wait=False),
    FailureKind.CUT_EMPTY: RetryRule(_AGAIN, 2, _UNSETTLED, wait=False),
    FailureKind.INVALID: RetryRule(_AGAIN, 2, _UNSETTLED, wait=False),
    # A parameter that one provider does not know may be known to the next.
    FailureKind.BAD_REQUEST: RetryRule(_OTHER, 1, _VOID),
    FailureKind.AUTH: RetryRule(_OTHER, 1, _VOID),
    FailureKind.NOT_FOUND: RetryRule(_OTHER, 1, _VOID),
    # A result that says so is unbilled; a batch that kept nothing may have been billed.
    FailureKind.EXPIRED: RetryRule(_OTHER, 1, _UNSETTLED),
    FailureKind.WORKER_DIED: RetryRule(_AGAIN, 3, _UNSETTLED),
    FailureKind.BUDGET: RetryRule(_STOP, 1, _VOID),
    FailureKind.DEADLINE: RetryRule(_STOP, 1, _VOID),
    FailureKind.CANCELLED: RetryRule(Step.GIVE_UP, 1, _VOID),
}


class Nature(StrEnum):
    """What a reply is, in one word."""

    ANSWER = "answer"
    PARTIAL = "partial"
    REFUSAL = "refusal"
    REQUEST = "request's fault"
    ENDPOINT = "endpoint's fault"
    WAIT = "wait"
    UNKNOWN = "unknown"
    """Nothing came that can be read: whose fault it is, the next attempts show."""
    NOT_SENT = "not sent"


NATURE: dict[FailureKind | None, Nature] = {
    None: Nature.ANSWER,
    FailureKind.RATE_LIMITED: Nature.WAIT,
    FailureKind.OVERLOADED: Nature.WAIT,
    FailureKind.TIMEOUT: Nature.UNKNOWN,
    FailureKind.CONNECTION: Nature.UNKNOWN,
    FailureKind.BROKEN_REPLY: Nature.UNKNOWN,
    FailureKind.REFUSED: Nature.REFUSAL,
    FailureKind.CONTEXT_OVERFLOW: Nature.REQUEST,
    FailureKind.PARTIAL: Nature.PARTIAL,
    FailureKind.CUT_EMPTY: Nature.PARTIAL,
    FailureKind.INVALID: Nature.PARTIAL,
    FailureKind.BAD_REQUEST: Nature.REQUEST,
    FailureKind.AUTH: Nature.ENDPOINT,
    FailureKind.NOT_FOUND: Nature.ENDPOINT,
    FailureKind.EXPIRED: Nature.NOT_SENT,
    FailureKind.WORKER_DIED: Nature.UNKNOWN,
    FailureKind.BUDGET: Nature.NOT_SENT,
    FailureKind.DEADLINE: Nature.NOT_SENT,
    FailureKind.CANCELLED: Nature.NOT_SENT,
}


def ledger_status(
    kind: FailureKind | None, usage: Usage | None, *, unbilled: bool = False, certain: bool = True
) -> LedgerStatus:
    """What the ledger says of an attempt. `unbilled`: it is certain that nothing was billed; `certain`: the figures of
    `usage` agree with each other."""
    if usage is not None:
        return LedgerStatus.SETTLED if certain else LedgerStatus.UNSETTLED
    if unbilled:
        return LedgerStatus.VOID
    return LedgerStatus.UNSETTLED if kind is None else NEXT_STEP[kind].ledger


def backoff_seconds(
    failures: int, retry_after: float | None, rng: random.Random, first: float = BACKOFF_SECONDS
) -> float:
    """How long a request waits after its nth failure (from 1): as long as the provider asks, and longer where that was in
    vain before (some say "0" or "1" of every limit)."""
    ceiling = min(BACKOFF_MAX_SECONDS, first * 2.0 ** min(failures - 1, 16))
    drawn = ceiling * rng.uniform(0.5, 1.0)
    if retry_after is None:
        return drawn
    asked = retry_after + rng.uniform(0.0, 0.25 * first)
    return asked if failures <= TRUSTED_WAITS else max(asked, drawn)
