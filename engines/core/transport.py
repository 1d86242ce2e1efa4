"""The one thing in which ways of reaching a model differ: sending one request and reading what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from thirdshift.router.values import FailureKind, Request, Usage


@dataclass(frozen=True, slots=True)
class Hints:
    """What a provider's headers say of its limits. None: not said."""

    limit_requests: int | None = None
    """Per minute."""
    limit_tokens: int | None = None
    remaining_requests: int | None = None
    remaining_tokens: int | None = None
    reset_requests_seconds: float | None = None
    reset_tokens_seconds: float | None = None


@dataclass(slots=True)
class Reply:
    """What came of sending a request once."""

    kind: FailureKind | None = None
    """None: an answer."""
    message: str = ""
    """For people, where it failed: no prompt, no key, none of the provider's prose."""
    text: str = ""
    reasoning: str | None = None
    logprobs: str | None = None
    """JSON, where the request asked for them."""
    finish_reason: str | None = None
    usage: Usage | None = None
    model: str | None = None
    ref: str | None = None
    """The provider's own name for the call."""
    unbilled: bool = False
    """It is certain that nothing was billed: a complete HTTP error, or never sent."""
    retry_after: float | None = None
    hints: Hints | None = None


class Transport(Protocol):
    """How one endpoint is reached. Used from the event loop of `thirdshift.engines.core.event_loop` only."""

    async def send(self, request: Request) -> Reply:
        """Send once and wait for what comes. Never raises but on cancellation, never sends twice."""

    async def close(self) -> None: ...


def lost(kind: FailureKind, message: str) -> Reply:
    """Sent, and what became of it is not known."""
    return Reply(kind=kind, message=message)


def not_sent(kind: FailureKind, message: str) -> Reply:
    return Reply(kind=kind, message=message, unbilled=True)
