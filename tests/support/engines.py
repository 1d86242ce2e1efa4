"""What the engines' tests share: a journal in memory, requests of one question, shards, and counts of replies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from thirdshift.router.interfaces import Shard
from thirdshift.router.values import (
    Answer,
    Endpoint,
    Failure,
    Intent,
    Outcome,
    Price,
    PriceSchedule,
    Purpose,
    Request,
)


class MemoryJournal:
    """A journal in memory that holds each attempt once, its intent before its outcome.

    `across_processes`: a second engine goes on with it and may write down again what the first one did.
    """

    def __init__(self, *, across_processes: bool = False) -> None:
        self.intents: dict[str, Intent] = {}
        self.outcomes: dict[str, Outcome] = {}
        self._across_processes = across_processes

    def sent(self, intents: Iterable[Intent]) -> None:
        for intent in intents:
            assert self._across_processes or intent.entry_id not in self.intents
            self.intents[intent.entry_id] = intent

    def settled(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            assert outcome.entry_id in self.intents
            assert self._across_processes or outcome.entry_id not in self.outcomes
            self.outcomes[outcome.entry_id] = outcome

    @property
    def statuses(self) -> Counter[str]:
        """How many attempts ended in each ledger status."""
        return Counter(outcome.status.value for outcome in self.outcomes.values())

    @property
    def cost(self) -> Decimal:
        """US dollars of all outcomes."""
        return sum((outcome.cost_usd for outcome in self.outcomes.values()), Decimal(0))

    def worst_usd(self) -> Decimal:
        """The ledger's US dollars, had the process died now: an open attempt counts with what it reserved."""
        pending = self.intents.keys() - self.outcomes.keys()
        return self.cost + sum((self.intents[entry].reserved_usd for entry in pending), Decimal(0))

    def of(self, shard_id: str) -> list[Outcome]:
        """The outcomes of one shard."""
        return [
            outcome for entry, outcome in self.outcomes.items() if self.intents[entry].shard_id == shard_id
        ]


def request(row: int, text: str, max_tokens: int = 16, **fields: Any) -> Request:
    """One user message as a request; `fields` are Request's."""
    messages = ({"role": "user", "content": text},)
    return Request(row, f"r{row}", f"h{row}", "t", messages, max_tokens, **fields)


def requests(count: int, text: str = "question", max_tokens: int = 64, **fields: Any) -> list[Request]:
    """`count` requests whose prompts differ in the number that they end in."""
    return [request(row, f"{text} {row}", max_tokens, **fields) for row in range(count)]


def shard(endpoint: str, requests: Sequence[Request], shard_id: str = "00001") -> Shard:
    """A shard of the main phase."""
    return Shard("run", shard_id, endpoint, Purpose.MAIN, requests)


def endpoint_at(
    api_base: str | None, price: Price, model: str = "openai/m", name: str = "near", **fields: Any
) -> Endpoint:
    """An endpoint that is reached at `api_base`; `fields` are Endpoint's."""
    return Endpoint(name, model, PriceSchedule(price), api_base=api_base, **fields)


def kinds(replies: Mapping[int, Answer | Failure]) -> Counter[str]:
    """How many replies are answers, and how many are failures of each kind."""
    return Counter(reply.kind.value if isinstance(reply, Failure) else "answer" for reply in replies.values())
