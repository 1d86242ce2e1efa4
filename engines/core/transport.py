"""The one thing in which ways of reaching a model differ: sending one request and reading what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

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


class Reply(NamedTuple):
    """What came of sending a request once: what it is, what it used, at which tier, and how certain that is."""

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
    certain: bool = True
    """False where the figures of `usage` contradict each other: it is then the dearest reading of them."""
    tier: str | None = None
    """The service tier as the provider tells it."""
    place: str | None = None
    """Where it was served, where that is told and costs more; empty: nowhere in particular."""
    speed: str | None = None
    """How fast it was served, where that is told and costs more; empty: at no particular speed."""
    note: str | None = None
    """For the ledger: what was recovered, or a usage that was not believed."""
    model: str | None = None
    ref: str | None = None
    """The provider's own name for the call."""
    unbilled: bool = False
    """It is certain that nothing was billed: a complete HTTP error, or never sent."""
    decided: bool = False
    """The words leave no doubt that it is the endpoint's fault (its key, its account), whatever was sent."""
    retry_after: float | None = None
    hints: Hints | None = None
    said: str | None = None
    """A failure's whole text, for the run's folder; it may quote the prompt and is shown nowhere."""
    parameter: str | None = None
    """What the server refuses to be sent."""
    adapted: bool = False
    """The endpoint's bodies leave that parameter out from now on: the same request is worth sending again."""

    def __repr__(self) -> str:
        """Without a text that could quote a prompt."""
        return f"Reply(kind={self.kind}, message={self.message!r}, usage={self.usage})"


class Transport(Protocol):
    """How one endpoint is reached. Used from the event loop of the run's world only."""

    async def send(self, request: Request) -> Reply:
        """Send once and wait for what comes. Never raises but on cancellation, never sends twice."""

    async def close(self) -> None: ...


def lost(kind: FailureKind, message: str) -> Reply:
    """Sent, and what became of it is not known."""
    return Reply(kind=kind, message=message)


def not_sent(kind: FailureKind, message: str) -> Reply:
    return Reply(kind=kind, message=message, unbilled=True)


def within(reply: Reply, input_tokens: int, output_tokens: int) -> Reply:
    """The reply, without its usage where that is more than can have been sent (`input_tokens`) or asked: a counter that
    has run wild is no bill. The figure stays as text."""
    usage = reply.usage
    if usage is None or (usage.input_tokens <= input_tokens and usage.output_tokens <= output_tokens):
        return reply
    figure = f"usage not believed: {usage.input_tokens} tokens in, {usage.output_tokens} out"
    return reply._replace(usage=None, note=figure)
