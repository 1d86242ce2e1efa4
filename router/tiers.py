"""Providers' batch tiers as rows of data: limits, windows, states, what expiry leaves, each with its source and date.

The rows are `pricing/tiers.toml`, handed in as text and checked. What is not known of a tier is absent; a limit that is
not known is no limit to rely on, and `limits_to_keep` then takes the smallest that any row of that wire states.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

HOURS = re.compile(r"(\d+(?:\.\d+)?)\s*([mhd])")
UNITS = {"m": 1 / 60, "h": 1.0, "d": 24.0}
GENERIC = "compatible"
"""The row of an `api_base` that no other row is of."""


class _TierPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class TierState(StrEnum):
    """What a status of the provider's means."""

    RUNNING = "running"
    ENDED = "ended"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    FAILED = "failed"
    """It was never run."""


class Expiry(StrEnum):
    """What a batch leaves that is not done when its window closes."""

    KEEPS = "keeps"
    """What is done is kept, and charged."""
    LOSES = "loses"
    """Nothing is kept."""
    NEVER = "never"
    """It does not come: a batch may wait for as long as it takes."""


class TierWindow(_TierPart):
    """A time within which a batch is to be done."""

    name: str
    """As the provider writes it."""
    hours: float | None = Field(default=None, gt=0)
    """Absent: not told."""
    discount: Decimal | None = Field(default=None, ge=0, lt=1)
    """The share off the price in real time. Absent: not known, or not the same for all models."""


class TierLimits(_TierPart):
    """What one batch may hold, and how much may be under way. Absent: not known."""

    requests: int | None = Field(default=None, gt=0)
    bytes: int | None = Field(default=None, gt=0)
    """The whole file's, or the call's that holds the requests."""
    line_bytes: int | None = Field(default=None, gt=0)
    enqueued_tokens: int | None = Field(default=None, gt=0)
    enqueued_requests: int | None = Field(default=None, gt=0)
    batches: int | None = Field(default=None, gt=0)
    """At once."""


class BatchTier(_TierPart):
    """One provider's batch tier."""

    name: str
    """What a model's name begins with, as litellm has it."""
    title: str
    also: tuple[str, ...] = ()
    """Other beginnings of the same provider's names."""
    hosts: tuple[str, ...] = ()
    """Ends of the host names that an `api_base` of it has."""
    base: str | None = None
    key: tuple[str, ...] = ()
    """Variables with its key, the first that is set."""
    wire: Literal["openai", "anthropic", "openrouter", "gemini", "none"]
    family: Literal["A", "B", "C", "D", "own"]
    """A: OpenAI's files and batches; B: nearly; C: requests inline; D: an object store; own: neither."""
    missing: str | None = None
    """Why it is not built; absent where it is."""
    path: str = "/v1/chat/completions"
    """Inside a line and where a batch is made."""
    purpose: str = "batch"
    jobs: str = "/batches"
    upload: str = "/files"
    bare_lines: bool = False
    """A line is `custom_id` and `body` alone."""
    model_in_job: bool = False
    """The job names the model, no line does."""
    input_list: bool = False
    """The job takes a list of files under `input_files`."""
    window_key: Literal["completion_window", "timeout_hours", "none"] = "completion_window"
    """Under what name the window is asked for; none: it is not."""
    create: Mapping[str, Any] = Field(default={})
    """What else is sent when a batch is made."""
    windows: tuple[TierWindow, ...] = ()
    """The first is asked for where the job says nothing."""
    window_hours: tuple[float, float] | None = None
    """Any window between these may be asked for, at the first one's discount."""
    window_days: bool = False
    """Whole days are written 1d, 3d."""
    longest_hours: float | None = Field(default=None, gt=0)
    """How long a batch may take, where that is longer than its window."""
    limits: TierLimits = TierLimits()
    states: Mapping[str, TierState] = Field(default={})
    """By its own words."""
    expiry: Expiry | None = None
    cancel: Literal["keeps", "loses", "none"] | None = None
    """What cancelling leaves; none: there is no cancelling."""
    label: Literal["metadata", "filename", "results", "display_name"] = "metadata"
    """How a batch is found whose creation was not heard of."""
    idempotent: str | None = None
    """What makes creating it twice one batch."""
    results_kept: str | None = None
    notifies: str | None = None
    """Besides being asked."""
    zero_retention: bool | None = None
    """Whether the tier goes with it."""
    cached: str | None = None
    """What cached tokens cost on it."""
    other_window: bool = False
    """A job asks for another window than the provider gives by itself."""
    hearsay: tuple[str, ...] = ()
    """Fields told by somebody other than the provider."""
    note: str | None = None
    source: str = Field(min_length=1)
    as_of: date

    @model_validator(mode="after")
    def _is_whole(self) -> BatchTier:
        if (self.wire == "none") != (self.missing is not None):
            raise ValueError(f"{self.name}: a row has a wire, or says what is missing")
        unknown = [
            field
            for field in self.hearsay
            if field not in (*type(self).model_fields, *TierLimits.model_fields)
        ]
        if unknown:
            raise ValueError(f"{self.name}: hearsay names no field {', '.join(unknown)}")
        if self.missing is None and {TierState.RUNNING, TierState.ENDED} - set(self.states.values()):
            raise ValueError(f"{self.name}: states lack one for running or ended")
        return self

    @property
    def window(self) -> TierWindow | None:
        """The one that is asked for; None where the row knows none."""
        return self.windows[0] if self.windows else None

    @property
    def discount(self) -> Decimal | None:
        """The share off the price in real time within the window asked for."""
        return None if self.window is None else self.window.discount

    @property
    def usual_window(self) -> bool:
        """Whether the window asked for is the one that the provider gives by itself: what a price book knows."""
        return not self.other_window

    def state_of(self, status: str) -> TierState | None:
        """What a status means, however its letters are written; None: a word that the row lacks."""
        word = status.casefold()
        return next((state for name, state in self.states.items() if name.casefold() == word), None)

    def with_window(self, text: str) -> BatchTier:
        """The row with the window that a job asks for first. Raises ValueError where `text` is no time.

        One that the row does not have is asked for all the same, at a discount that is not known: the row may be old.
        """
        hours = hours_of(text)
        known = next((window for window in self.windows if math.isclose(window.hours or 0.0, hours)), None)
        if known is None:
            low, high = self.window_hours or (math.inf, -math.inf)
            known = TierWindow(
                name=self._written(hours),
                hours=hours,
                discount=self.discount if low <= hours <= high else None,
            )
        if known is self.window:
            return self
        others = tuple(window for window in self.windows if window is not known)
        longest = None if self.longest_hours is None else max(self.longest_hours, hours)
        return self.model_copy(
            update={"windows": (known, *others), "longest_hours": longest, "other_window": True}
        )

    def _written(self, hours: float) -> str:
        if self.window_days and hours % 24 == 0:
            return f"{hours / 24:g}d"
        return f"{hours:g}h" if hours >= 1 else f"{hours * 60:g}m"

    def with_limits(self, **stated: int | None) -> BatchTier:
        """The row with the limits that a job states instead."""
        told = {name: value for name, value in stated.items() if value is not None}
        return self.model_copy(update={"limits": self.limits.model_copy(update=told)}) if told else self


@dataclass(frozen=True, slots=True)
class BatchHistory:
    """What earlier batches of an endpoint took, in seconds; those that left their work undone count as endless."""

    seconds: tuple[float, ...] = ()
    stated: bool = False
    """The job says how long a batch usually takes: within that time it is not late."""


class BatchTiers(_TierPart):
    """All rows."""

    tiers: tuple[BatchTier, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_consistent(self) -> BatchTiers:
        names = [name for tier in self.tiers for name in (tier.name, *tier.also)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or GENERIC not in names:
            raise ValueError(f"named twice: {', '.join(twice)}" if twice else f"no row is called {GENERIC}")
        return self

    def named(self, name: str) -> BatchTier | None:
        """The row of a provider, by what its models' names begin with."""
        return next((tier for tier in self.tiers if name in (tier.name, *tier.also)), None)

    def of(self, model: str, api_base: str | None) -> BatchTier | None:
        """The row of a model at an address; None: no row, and no address that could speak OpenAI's wire."""
        own = self.named(model.partition("/")[0])
        if api_base is None:
            return own
        host = urlsplit(api_base).hostname or ""
        there = [tier for tier in self.tiers for end in tier.hosts if host == end or host.endswith(f".{end}")]
        if there:
            return own if own in there else there[0]
        speaks = own is not None and own.wire in ("openai", "openrouter", "gemini") and own.name != "openai"
        return own if speaks else self.named(GENERIC)

    def limits_to_keep(self, tier: BatchTier) -> TierLimits:
        """A row's limits; where requests or bytes are not known, the smallest that a row of its wire states, or any row."""
        kept = {
            name: getattr(tier.limits, name) or self._smallest(name, tier.wire)
            for name in ("requests", "bytes")
        }
        return tier.limits.model_copy(update=kept)

    def _smallest(self, name: str, wire: str) -> int:
        known: list[tuple[str, int]] = [
            (tier.wire, value) for tier in self.tiers if (value := getattr(tier.limits, name)) is not None
        ]
        return min([value for other, value in known if other == wire] or [value for _, value in known])


def hours_of(text: str) -> float:
    """Hours of `90m`, `24h` or `3d`. Raises ValueError."""
    match = HOURS.fullmatch(text.strip())
    hours = float(match.group(1)) * UNITS[match.group(2)] if match else 0.0
    if hours <= 0:
        raise ValueError(f"{text!r} is no time; write it like 1h, 24h or 3d")
    return hours


def load(text: str) -> BatchTiers:
    """Read the rows. Raises ValueError, naming the row, where one is wrong."""
    return BatchTiers.model_validate(tomllib.loads(text))
