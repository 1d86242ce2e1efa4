"""What a row of the batch tiers means to the wire that speaks it: limits, keys, and what an end before its time leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from thirdshift.engines.batch.provider import BatchLimits, RemoteState
from thirdshift.engines.realtime.http import key_of
from thirdshift.engines.registry import tier_rows
from thirdshift.engines.wires.usage import count
from thirdshift.router.tiers import BatchTier, Expiry, TierState
from thirdshift.router.values import Endpoint

ROOM = 0.995
"""The share of the bytes that are used: a multipart has a little around its file."""

REMOTE: Mapping[TierState, RemoteState] = {
    TierState.RUNNING: RemoteState.RUNNING,
    TierState.ENDED: RemoteState.ENDED,
    TierState.EXPIRED: RemoteState.ENDED,
    TierState.CANCELLED: RemoteState.ENDED,
    TierState.FAILED: RemoteState.FAILED,
}
SHORT = frozenset({TierState.EXPIRED, TierState.CANCELLED})
"""Ends before all is done."""


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


def kept_nothing(tier: BatchTier, state: TierState | None, counts: Mapping[str, Any]) -> bool:
    """Whether a batch that ended before its time without results may have done, and billed, what it does not show: its
    tier keeps nothing, or nobody says what it keeps, and `counts` (what was done, by name) do not say that it is none."""
    keeps = tier.expiry is Expiry.KEEPS if state is TierState.EXPIRED else tier.cancel == "keeps"
    return not keeps and not (counts and not any(map(count, counts.values())))
