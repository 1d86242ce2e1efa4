"""What a row of the batch tiers means to the wire that speaks it: limits, keys, and what an end before its time leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from thirdshift.engines.batch.provider import BatchLimits, RemoteState
from thirdshift.engines.realtime.http import key_of
from thirdshift.engines.registry import tier_rows
from thirdshift.engines.wires.usage import count
from thirdshift.router.tiers import BatchTier, Expiry, TierState
from thirdshift.router.values import Endpoint

ROOM = 0.995
"""The share of the bytes that are used: a multipart has a little around its file."""

_REMOTE: Mapping[TierState, RemoteState] = {
    TierState.RUNNING: RemoteState.RUNNING,
    TierState.ENDED: RemoteState.ENDED,
    TierState.EXPIRED: RemoteState.ENDED,
    TierState.CANCELLED: RemoteState.ENDED,
    TierState.FAILED: RemoteState.FAILED,
}
_SHORT = frozenset({TierState.EXPIRED, TierState.CANCELLED})
"""Ends before all is done."""


class TierStanding(NamedTuple):
    """How a batch stands, as the watcher knows it."""

    state: RemoteState
    cut_short: bool
    """It ended before all was done, and its results say what was."""
    emptied: bool
    """It ended before all was done, and may have done and billed what it does not show."""


def limits_of(tier: BatchTier) -> BatchLimits:
    """What one batch of a tier is cut to."""
    kept = tier_rows().limits_to_keep(tier)
    requests = min(kept.requests or 1, kept.enqueued_requests or kept.requests or 1)
    return BatchLimits(requests, int((kept.bytes or 1) * ROOM), kept.line_bytes, kept.batches)


def key_for(endpoint: Endpoint, tier: BatchTier) -> tuple[str | None, str | None]:
    """`key_of` at a tier: its own variables count at its own address alone, so that no key goes to another host."""
    host = urlsplit(endpoint.api_base or "").hostname or ""
    at_home = endpoint.api_base is None or any(host == end or host.endswith(f".{end}") for end in tier.hosts)
    return key_of(endpoint, *(tier.key if at_home else ()))


def state_of(meant: TierState | None) -> RemoteState:
    """What a tier's state is to the watcher; None: a word that its row lacks."""
    return RemoteState.UNKNOWN if meant is None else _REMOTE[meant]


def standing_of(
    tier: BatchTier, meant: TierState | None, counts: Mapping[str, Any], *, results: bool
) -> TierStanding:
    """How a batch stands whose state is `meant`. `counts`: what it says was done, by name; `results`: it has some."""
    short = meant in _SHORT
    empty = short and not results and _kept_nothing(tier, meant, counts)
    return TierStanding(state_of(meant), short and not empty, empty)


def base_of(endpoint: Endpoint, tier: BatchTier) -> str:
    """The address that calls go to: the endpoint's own, or its tier's."""
    return (endpoint.api_base or tier.base or "").rstrip("/")


def _kept_nothing(tier: BatchTier, state: TierState | None, counts: Mapping[str, Any]) -> bool:
    """Whether a batch that ended before its time without results may have done, and billed, what it does not show: its
    tier keeps nothing, or nobody says what it keeps, and `counts` (what was done, by name) do not say that it is none."""
    keeps = tier.expiry is Expiry.KEEPS if state is TierState.EXPIRED else tier.cancel == "keeps"
    return not keeps and not (counts and not any(map(count, counts.values())))
