"""The values that cross a package boundary.

Glossary, the same words in code, columns, command line and README:

request      one row of the input that was accepted; `row` is its position in the frozen input
endpoint     a model with its parameters, somewhere, at a price, with limits
assignment   a request's place in the plan: which endpoint answers it
shard        a unit of work: requests that go to one endpoint for one purpose
ticket       what an engine gives for a submitted shard
answer       what a model said to a request, with what it used
failure      why a request has no answer; a value, never an exception
intent       the record written before money can be spent: what an attempt can cost at most
outcome      the record written when it is known what became of an attempt
ledger entry an intent and its outcome, once in the warehouse
part         a sealed piece of the journal as Parquet, whole or absent
observation  a scored answer: request x endpoint
certificate  what is claimed of a run's quality, with its sample size and basis

Money is Decimal USD with nine places (`usd`), unit prices are Decimal USD per million tokens. Instants are aware, in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import ROUND_HALF_EVEN, ROUND_UP, Decimal
from enum import StrEnum
from typing import Any, NamedTuple

from thirdshift.router.tiers import BatchHistory, BatchTier

QUANTUM = Decimal("0.000000001")
"""The smallest amount a ledger holds: DECIMAL(18,9)."""
MOST_USD = 1_000_000_000
"""The first amount that it does not hold."""

JSON = Any  # whatever `json.loads` returns


def usd(amount: Decimal | float | str) -> Decimal:
    """An amount of money, to the ledger's nine places."""
    return Decimal(str(amount)).quantize(QUANTUM, ROUND_HALF_EVEN)


def usd_up(amount: Decimal | float | str) -> Decimal:
    """An amount that must never be too small (a reservation), rounded up to the ledger's nine places."""
    return Decimal(str(amount)).quantize(QUANTUM, ROUND_UP)


class Mode(StrEnum):
    REALTIME = "realtime"
    BATCH = "batch"
    FLEX = "flex"


class Purpose(StrEnum):
    PILOT = "pilot"
    MAIN = "main"
    VOTE = "vote"
    """A second answer asked to see whether two agree."""
    AUDIT = "audit"
    REPAIR = "repair"
    JUDGE = "judge"
    OVERHEAD = "overhead"


class LedgerStatus(StrEnum):
    RESERVED = "reserved"
    """In flight: an intent without an outcome yet."""
    SETTLED = "settled"
    """The provider told the usage."""
    UNSETTLED = "unsettled"
    """Sent, outcome never learnt; the cost is what it can have been at most."""
    VOID = "void"
    """Nothing was billed: a complete HTTP error, or never sent."""


class FailureKind(StrEnum):
    """Why an attempt gave no usable answer. What each leads to is one table: thirdshift.engines.core.failures.NEXT_STEP."""

    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    BROKEN_REPLY = "broken_reply"
    """A reply that breaks off or is no JSON of the expected shape."""
    REFUSED = "refused"
    """The model or a content filter declines."""
    CONTEXT_OVERFLOW = "context_overflow"
    PARTIAL = "partial"
    """It ends before its time (an engine's error, a loop, a broken call), or it is empty."""
    CUT_EMPTY = "cut_empty"
    """finish_reason `length` and no text: reasoning ate the budget."""
    INVALID = "invalid"
    """The answer does not validate against response_schema."""
    BAD_REQUEST = "bad_request"
    AUTH = "auth"
    NOT_FOUND = "not_found"
    EXPIRED = "expired"
    """A batch expired or was cancelled before this request was run."""
    WORKER_DIED = "worker_died"
    BUDGET = "budget"
    """Not sent: the cap leaves no room for what it can cost."""
    DEADLINE = "deadline"
    """Not sent: the deadline has passed."""
    CANCELLED = "cancelled"
    """Not sent: the run is stopping."""


@dataclass(frozen=True, slots=True)
class Price:
    """Unit prices, USD per million tokens. What is in force for one call; see `PriceSchedule`."""

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    """None: cached tokens cost as much as others."""
    cache_write: Decimal | None = (
        None  # to be kept for five minutes; None: `thirdshift.router.pricing.prices.written_usd`
    )
    cache_write_hour: Decimal | None = None


@dataclass(frozen=True, slots=True)
class ContextTier:
    above_tokens: int
    """The tier holds for requests with more input tokens than this."""
    price: Price


@dataclass(frozen=True, slots=True)
class OffPeak:
    """A factor on every price within certain hours of certain days in a time zone."""

    factor: Decimal
    tz: str
    hours: frozenset[int]  # of the day, 0 to 23, whole
    days: frozenset[int]  # of the week, Monday 0


@dataclass(frozen=True, slots=True)
class PriceSchedule:
    """Everything known of an endpoint's price, for its own mode; `price_at` tells what is in force when."""

    base: Price
    tiers: tuple[ContextTier, ...] = ()
    off_peak: tuple[OffPeak, ...] = ()
    usd_per_hour: Decimal | None = None  # per worker while it is up; token prices are then zero
    source: str = "job"
    as_of: date | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """None: not stated; learnt while it runs."""

    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    enqueued_tokens: int | None = None
    """Input tokens that may wait at a batch tier at a time, over all its batches."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What policy asks about. None: unknown, and then the rule fails."""

    licence: str | None = None
    lab: str | None = None
    origin: str | None = None  # the lab's country, ISO 3166 alpha-2
    region: str | None = None  # where the endpoint runs
    zero_retention: bool | None = None
    self_hosted: bool = False


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """The Ray cluster that an endpoint's workers run on."""

    address: str
    """As `ray.init` takes it: `host:port`, or `auto` for the one on this machine."""
    runtime_env: Mapping[str, JSON] = field(default_factory=dict)
    """Ray's own description of a worker's environment, passed through."""
    python: str | None = None
    """The interpreter on the nodes that has vLLM; None: the one that Ray runs there."""
    whole: bool = False
    """`workers: max`: as many as the cluster has room for when the plan is made."""
    hardware: tuple[tuple[str, int], ...] = ()
    """What a worker would run on, and how many of these the cluster has room for; empty until it was looked at."""
    per_node: int = 1
    """Workers that a node has room for, as most of its nodes do; 1 until it was looked at."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """How to start vLLM workers of an endpoint, on this machine or on a cluster."""

    device: str  # cuda, npu or cpu
    workers: int  # at most
    python: str  # the interpreter that has vLLM
    options: Mapping[str, JSON] = field(default_factory=dict)  # passed through to vllm.LLM
    minimum_minutes: float = 0.0
    billing_increment_minutes: float = 0.0
    """Each that has begun is paid for as a whole; 0: by the second."""
    node_price: bool = False
    """The price is the machine's, whether or not all its workers are up."""
    spot_price: str | None = None
    """A command that prints what an hour costs now."""
    usd_per_kwh: Decimal | None = None
    """What electricity costs, by the devices' own counters: charged back, not planned with."""
    accounting_usd_per_hour: Decimal | None = None
    """Charged back, not planned with: hardware already paid."""
    cluster: ClusterSpec | None = None
    """None: on this machine."""

    @property
    def together(self) -> int:
        """Workers that have one price together: those of a machine that is rented as a whole."""
        if not self.node_price:
            return 1
        return self.workers if self.cluster is None else max(1, min(self.cluster.per_node, self.workers))


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """Commands and a URL that start, probe and stop a server of the user's."""

    up: str | None = None
    health: str | None = None
    down: str | None = None
    folder: str = "."  # where the commands run


@dataclass(frozen=True, slots=True)
class Endpoint:
    name: str
    model: str
    """litellm's name (`provider/model`), or a path for vLLM."""
    price: PriceSchedule
    mode: Mode = Mode.REALTIME
    params: Mapping[str, JSON] = field(default_factory=dict)
    """Sent as they are with every request."""
    api_base: str | None = None
    api_key_env: str | None = None  # the name of a variable, never a key
    limits: Limits = Limits()
    facts: Facts = Facts()
    context_window: int | None = None
    quality_prior: float | None = None
    turnaround_seconds: float | None = None
    """How long a batch usually takes; None where answers come at once or nobody knows."""
    reasoning_tokens_max: int | None = None
    """Billed on top of max_tokens, where the provider's ceiling leaves reasoning out."""
    delete_remote: bool = False
    workers: WorkerSpec | None = None
    server: ServerSpec | None = None
    tier_prices: Mapping[str, PriceSchedule] = field(default_factory=dict)
    """What a reply's own word on its tier (`default`, `flex`, `priority`) makes of the price, where the book has it."""
    surcharges: Mapping[str, Decimal] = field(default_factory=dict)
    """Places and speeds that a reply may tell, and the factor of each on every price."""
    emulated: bool = False
    """Answered by our loopback emulator; said wherever the endpoint shows."""
    tier: BatchTier | None = None
    """The provider's batch tier as this endpoint uses it; None where it is none, or as the registry has it."""
    batches: BatchHistory | None = None
    """What its earlier batches took; None: nobody has looked."""
    vendor: str | None = None
    """Who is paid, where that is not told by the model's name: at an address of its own."""

    @property
    def provider(self) -> str:
        """Who is paid, for the books and shares of vendors: as stated, or `anthropic` of `anthropic/claude-…`, or `vllm`
        for our own workers."""
        if self.vendor is not None:
            return self.vendor
        return "vllm" if self.workers is not None else self.protocol

    @property
    def protocol(self) -> str:
        """Whose wire is spoken: what litellm's name of the model begins with."""
        return self.model.partition("/")[0] if "/" in self.model else "unknown"

    @property
    def wire_model(self) -> str:
        """The model's name as an OpenAI-compatible server expects it."""
        return self.model.partition("/")[2] or self.model


@dataclass(frozen=True, slots=True)
class Request:
    row: int
    request_id: str
    request_hash: str
    task: str
    messages: tuple[Mapping[str, JSON], ...] = field(repr=False)
    max_tokens: int = 1024
    temperature: float | None = 0.0
    """None: not sent."""
    response_schema: Mapping[str, JSON] | None = field(default=None, repr=False)
    tools: tuple[Mapping[str, JSON], ...] | None = field(default=None, repr=False)
    sampling: Mapping[str, JSON] = field(default_factory=dict)
    """Further parameters of the row itself (top_p, stop, seed, …)."""


class Usage(NamedTuple):
    """Tokens as the provider reports them. Cached tokens are among the input, reasoning tokens among the output."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    written_tokens: int = 0  # of the input, to a cache, where that costs more
    written_hour_tokens: int = 0  # of those, to be kept for an hour


@dataclass(frozen=True, slots=True)
class Answer:
    row: int
    request_id: str
    output: str = field(repr=False)
    """The text, or the tool calls as JSON where there is no text."""
    finish_reason: str | None = None
    reasoning: str | None = field(default=None, repr=False)
    valid: bool | None = None
    """Against response_schema; None where there is none."""
    logprobs: str | None = field(default=None, repr=False)  # JSON, where asked for


@dataclass(frozen=True, slots=True)
class Failure:
    row: int
    request_id: str
    kind: FailureKind
    message: str
    """What happened, to which endpoint, what to do; never a key or a prompt."""


class Intent(NamedTuple):
    """Written before an attempt is sent."""

    entry_id: str
    run_id: str
    shard_id: str | None
    row: int | None
    """None for overhead."""
    request_id: str | None
    endpoint: str
    model: str
    provider: str
    mode: Mode
    purpose: Purpose
    attempt: int
    reserved_usd: Decimal
    started_at: datetime
    price_id: str | None = None
    region: str | None = None
    provider_ref: str | None = None


class Outcome(NamedTuple):
    """Written when it is known what became of an attempt."""

    entry_id: str
    status: LedgerStatus
    cost_usd: Decimal
    settled_at: datetime
    usage: Usage | None = None
    model_reported: str | None = None
    provider_ref: str | None = None
    reply: Answer | Failure | None = None
    final: bool = True
    """False where another attempt at the same request follows in this shard."""
    service_tier: str | None = None
    """As the provider tells it."""
    note: str | None = None
    """What the figures alone do not say: a usage that was not believed, an answer that was recovered."""

    @property
    def certain(self) -> bool:
        """Whether `cost_usd` is what it cost, and not only the most that it can have cost."""
        return self.status is not LedgerStatus.UNSETTLED


def _say_nothing(words: str) -> None:
    """Nobody listens."""
