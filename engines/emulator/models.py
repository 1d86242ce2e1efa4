"""Values that describe an emulated provider: models, prices, limits, habits and troubles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum

from thirdshift.router.pricing.prices import scaled
from thirdshift.router.tiers import BatchTier
from thirdshift.router.values import Limits, Mode, Price, PriceSchedule


class Trouble(StrEnum):
    """What can go wrong with one attempt. Those marked *billed* cost what the answer would have cost."""

    ERROR_500 = "error_500"
    ERROR_503 = "error_503"
    ERROR_408 = "error_408"
    ERROR_429 = "error_429"
    """Too many requests, with retry-after."""
    ERROR_429_SILENT = "error_429_silent"
    """Too many requests, without retry-after."""
    DROP_BEFORE = "drop_before"
    """The connection closes before anything was done."""
    DROP_AFTER = "drop_after"
    """Billed: the answer is made, the connection closes instead of delivering it."""
    HANG = "hang"
    """Billed: the answer is made and nothing comes for `hang_seconds`; then the connection closes."""
    TRUNCATE = "truncate"
    """Billed: the body breaks off halfway."""
    CUT_EMPTY = "cut_empty"
    """Billed: reasoning eats max_tokens, finish_reason `length`, no text."""
    INVALID_JSON = "invalid_json"
    """Billed: where a schema was sent, the answer breaks off as JSON; else nothing happens."""
    SLOW = "slow"
    """Billed: the answer takes `slow_factor` times as long, at least `slow_seconds`."""
    REFUSE = "refuse"
    """Billed: the model declines. It declines the same requests every time."""
    OVERFLOW = "overflow"
    """400, context_length_exceeded. The same requests every time."""


PERSISTENT = frozenset({Trouble.REFUSE, Trouble.OVERFLOW})
"""Troubles that lie in the request, and so meet every attempt at it; the others are drawn anew each time."""


@dataclass(frozen=True, slots=True)
class OutputTokens:
    """How long answers are: lognormal around a median that grows with difficulty; the answer's text fits."""

    median: float = 1.0
    spread: float = 0.0
    """Standard deviation of the logarithm."""
    growth: float = 0.0
    """The median is multiplied by exp(growth x difficulty)."""
    reasoning_share: float = 0.0
    """How many of these tokens are hidden reasoning."""
    fits: bool = False
    """Whether no more is written than max_tokens allows, where the answer's text fits: lengths that are invented cut no
    answer that is right."""


@dataclass(frozen=True, slots=True)
class EmulatedModel:
    """A model on offer, right with probability logistic(slope x (ability - difficulty)) at each request.

    Requests of unknown difficulty draw one from the standard logistic distribution, the same for every model;
    `ability_for` gives the ability that is right in a stated share of those.
    """

    name: str
    """On the wire."""
    price: Price | PriceSchedule
    ability: float = 0.0
    slope: float = 1.0
    """How sharply it fails beyond its ability; 1 suits difficulties in logits, 8 or so those from 0 to 1."""
    batch_price: Price | PriceSchedule | None = None
    """For batches on either wire, and for calls with `service_tier: flex`; None: half of `price`."""
    output: OutputTokens = OutputTokens()
    latency_seconds: float = 0.0
    seconds_per_token: float = 0.0
    """Seconds for each token of output, on top of the latency."""
    limits: Limits = field(default_factory=Limits)
    context_window: int | None = None
    caches_prefix: bool = True
    """Whether a prefix of 1,024 tokens or more, seen before, counts as cached."""
    recorded_as: str | None = None
    """Its name in the outcomes file; None: `name`."""
    lenient: float = 0.1
    """As a judge (`thirdshift.router.certification.judge`): the share of wrong answers that it scores 1."""
    harsh: float = 0.05
    """As a judge: the share of right answers that it scores 0."""
    troubles: Mapping[Trouble, float] = field(default_factory=dict)
    """Trouble → the share of attempts that meet it; together at most 1 in each kind (see PERSISTENT)."""
    hang_seconds: float = 3600.0
    slow_factor: float = 10.0
    slow_seconds: float = 0.1
    retry_after_seconds: float = 1.0
    """What an ERROR_429 asks for."""

    def price_for(self, mode: Mode) -> PriceSchedule:
        """Return what a call in `mode` is billed at."""
        if mode is Mode.REALTIME:
            return _schedule(self.price)
        return _halved(_schedule(self.price)) if self.batch_price is None else _schedule(self.batch_price)


@dataclass(frozen=True, slots=True)
class BatchHabits:
    """How batches fare. Times are seconds from creation; requests are done evenly over the turnaround."""

    turnaround_seconds: float = 1.0
    validating_seconds: float = 0.0
    failed_share: float = 0.0
    """The share of a batch's requests that get status 500 in the error file, unbilled."""
    stuck_at: float | None = None
    """The share of a batch's requests at which nothing moves any more."""
    stuck_batches: float = 1.0
    """The share of batches that get stuck, where `stuck_at` is set."""
    expires_seconds: float = 86_400.0
    cancel_seconds: float = 0.0
    """How long a cancelled batch is `cancelling`."""
    cancel_goes_on: bool = True
    """Whether requests are still done, and billed, while it is."""
    max_requests: int = 50_000
    max_bytes: int = 200_000_000
    enqueued_tokens: int | None = None
    """Input tokens per model over all batches under way; beyond it a batch fails in validation."""
    tier: BatchTier | None = None
    """The row that batches on OpenAI's wire are held to: its path, purpose, window, words for states, limits and expiry."""
    strangers: int = 0
    """So many batches of other people stand in the list from the beginning."""
    lost_creates: int = 0
    """So many batches are created without the client hearing of it: the connection drops."""


def _schedule(price: Price | PriceSchedule) -> PriceSchedule:
    return PriceSchedule(price) if isinstance(price, Price) else price


def _halved(schedule: PriceSchedule) -> PriceSchedule:
    """What providers take for the batch tier."""
    half = Decimal("0.5")
    tiers = tuple(replace(tier, price=scaled(tier.price, half)) for tier in schedule.tiers)
    return replace(schedule, base=scaled(schedule.base, half), tiers=tiers)


def mean_right(ability: float) -> float:
    """Return the share of requests of unknown difficulty that are answered rightly, slope 1: P(D + E < ability)."""
    odds = math.exp(ability)
    if abs(ability) < 1e-4:
        return 0.5 + ability / 6.0  # the limit of the expression below, which is 0/0 here
    return odds * (odds - 1.0 - ability) / (odds - 1.0) ** 2


def ability_for(share: float) -> float:
    """Return the ability that answers `share` (0..1) of requests of unknown difficulty rightly, with slope 1."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if mean_right(middle) < share else (low, middle)
    return (low + high) / 2.0
