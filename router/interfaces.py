"""What passes between a run and its engines: shards, tickets, and the protocols of journal, budget and engine."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Protocol

from thirdshift.router.values import Answer, Failure, Intent, Outcome, Purpose, Request, _say_nothing
from thirdshift.world import REAL, World


def _tells_nothing(endpoint: str) -> None:
    """Tell no price."""


class RequestSource(Protocol):
    """Requests that can be read more than once, from disk, without holding all of them."""

    def __iter__(self) -> Iterator[Request]: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Shard:
    run_id: str
    shard_id: str
    endpoint: str
    purpose: Purpose
    requests: RequestSource = field(repr=False)
    first_attempt: int = 1
    """The number of the first attempt: one more than earlier shards have made at these requests."""
    barred: Container[int] = frozenset()
    """Rows that may not go to the endpoint any more: what it has of them is taken in, and nothing is sent."""


class Journal(Protocol):
    """Append-only. When a call returns, the record survives kill -9 of this process. Safe from any thread."""

    def sent(self, intents: Iterable[Intent]) -> None: ...
    def settled(self, outcomes: Iterable[Outcome]) -> None: ...


class Budget(Protocol):
    """The run's money. Reservations plus what is spent never pass the cap. Safe from any thread, never blocks."""

    def reserve(self, amount_usd: Decimal) -> bool:
        """Whether `amount_usd` could be set aside; False leaves everything as it was."""

    def settle(self, reserved_usd: Decimal, cost_usd: Decimal, *, certain: bool = True) -> None:
        """Give a reservation back and book what it really cost; or, not `certain`, what it can have cost at most."""

    @property
    def reserved_usd(self) -> Decimal:
        """What is set aside at this moment; zero means that waiting for returns is in vain."""


@dataclass(frozen=True, slots=True)
class EngineContext:
    """What the night lends to an engine."""

    journal: Journal
    budget: Budget
    deadline: datetime | None = None
    """After this instant nothing more is sent."""
    committed: dict[str, dict[str, Decimal]] = field(default_factory=dict)
    """Shard to entry to what is set aside already: attempts of a dead process, until they are adopted or disowned."""
    keep: Path | None = None
    """A folder of the run's, for what an engine must still know when its process has died."""
    rented_until: Mapping[str, Sequence[datetime]] = field(default_factory=dict)
    """Endpoint to until when workers are paid for that earlier processes of this run have rented."""
    elsewhere: bool = False
    """Another endpoint may answer what one will not: then nobody waits for hours."""
    text_only: bool = False
    """No request of the run holds anything but text."""
    say: Callable[[str], None] = _say_nothing
    """For what people should know at once: an endpoint is given up, and until when."""
    hourly_usd: Callable[[str], Decimal | None] = _tells_nothing
    """What an hour of an endpoint's workers costs at this moment, where a command of the job's tells it; it may take a
    minute."""
    world: World = REAL
    """Where time, chance, connections and disk come from."""


@dataclass(frozen=True, slots=True)
class Ticket:
    shard_id: str
    key: str


@dataclass(frozen=True, slots=True)
class Progress:
    done: int  # requests with an answer or a final failure
    total: int
    in_flight: int = 0
    finished: bool = False


class Engine(Protocol):
    """Runs shards on one endpoint, however that endpoint is reached. Methods may be called from several threads."""

    def submit(self, shard: Shard, key: str) -> Ticket:
        """Start a shard. Submitting twice with one `key` gives one ticket, and one lot of work at the provider."""

    def progress(self, ticket: Ticket) -> Progress: ...

    def collect(self, ticket: Ticket) -> Iterator[Answer | Failure]:
        """Each request of the shard once, as they come, in no order; ends when the shard is done."""

    def stop(self) -> None:
        """Send nothing more; what is in flight may finish. What was not sent fails with CANCELLED."""

    def close(self) -> None:
        """Release what is held: connections, workers. Idempotent."""
