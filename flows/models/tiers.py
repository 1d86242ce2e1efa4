"""Providers' batch tiers for people: the table of `models tiers`, its JSON, and docs/tiers.md.

python -m thirdshift.flows.models.tiers > docs/tiers.md
"""

from __future__ import annotations

import sys

from thirdshift.engines.registry import tier_rows
from thirdshift.router.tiers import BatchTier
from thirdshift.router.values import JSON

INTRODUCTION = """# Batch tiers

Made from `router/pricing/tiers.toml`; a test holds it current. A row says how a provider's batch tier is reached,
what one batch may hold, within what time and at what discount, by which words it tells a batch's state, and what a
batch leaves that expires or is cancelled. Each has its source and the date of the reading. **None was tried against a
real provider**: every row that is built is played in `tests/engines/batch/test_tiers.py` against an emulator that is
held to it.

`?`: not known. A limit that is not known is no limit to rely on: batches are then cut to the smallest that a row of
the same wire states. What ends before its time without results, at a tier of which nobody says what it keeps, is
booked `unsettled` at the most it can have cost. A tier whose reason stands under *wire* is not built, and a job that
asks for it is exit 2.

A plan reckons with what is late or lost. The prior is the only latencies that are published (230,000 batches at
OpenRouter: half done in 7 minutes, 90 % in an hour; 2 % beyond a day), one batch in twenty lost where a tier loses
everything or nobody says that it does not; each batch in the warehouse weighs against a prior of twenty. What a batch
leaves is paid in real time, and where the tier does not keep what was done, the lost batch is reckoned with as well;
there a batch holds a twentieth of the requests at most. `benchmarks/tiers.py` plays it. A batch that takes one and a
half times its window is cancelled; with `on_deadline: realtime` one that would be late is cancelled in time for its
rest to be answered before the deadline.

An endpoint overrides its row: `window: 72h`, `limits: {batch_requests, batch_bytes, line_bytes, batches,
enqueued_tokens}`, `price`. An `api_base` of which no row knows anything is taken to be as OpenAI's (`compatible`).

Wires: A OpenAI's files and batches, B nearly that, C requests inline in one call, D an object store or data set.

| provider | wire | windows: discount | requests · bytes · batches at once | expiry | cancelling | found again by | source |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def page() -> str:
    """docs/tiers.md."""
    tiers = tier_rows().tiers
    notes = [f"- **{tier.title}**: {_notes(tier)}" for tier in tiers if _notes(tier)]
    titles: dict[str, list[str]] = {}
    for tier in tiers:
        if tier.states:
            titles.setdefault(_states(tier), []).append(tier.title)
    words = [f"- **{', '.join(told)}**: {states}" for states, told in titles.items()]
    lines = [
        *map(_line, tiers),
        "",
        "## Besides",
        "",
        *notes,
        "",
        "## States, in the provider's words",
        "",
        *words,
    ]
    return INTRODUCTION + "\n".join(lines) + "\n"


def tier_json(tier: BatchTier) -> dict[str, JSON]:
    """Return a row as JSON; what is not known is absent."""
    return tier.model_dump(mode="json", exclude_none=True, exclude_defaults=True)


def summary(tier: BatchTier) -> tuple[str, str, str, str, str]:
    """Return a row for a terminal: name, wire, windows, limits, expiry."""
    wire = f"{tier.family}, not built" if tier.missing is not None else tier.family
    return tier.name, wire, _windows(tier), _limits(tier), tier.expiry or "?"


def _line(tier: BatchTier) -> str:
    wire = tier.family if tier.missing is None else f"{tier.family}; not built: {tier.missing}"
    cells = [
        f"{tier.title} (`{tier.name}`)",
        wire,
        _windows(tier),
        _limits(tier),
        tier.expiry or "?",
        tier.cancel or "?",
        tier.label if tier.missing is None else "",
        f"{tier.source}, {tier.as_of}",
    ]
    return f"| {' | '.join(cells)} |"


def _windows(tier: BatchTier) -> str:
    told = [
        f"{window.name}: {'?' if window.discount is None else f'{window.discount:.0%}'}"
        for window in tier.windows
    ]
    if tier.window_hours is not None:
        told.append(f"{tier.window_hours[0]:g}h to {tier.window_hours[1]:g}h")
    return ", ".join(told) or "?"


def _limits(tier: BatchTier) -> str:
    limits = (tier.limits.requests, tier.limits.bytes, tier.limits.batches)
    return " · ".join("?" if limit is None else f"{limit:,}" for limit in limits)


def _notes(tier: BatchTier) -> str:
    told = [
        tier.note,
        tier.limits.enqueued_tokens and f"{tier.limits.enqueued_tokens:,} tokens enqueued",
        tier.limits.enqueued_requests and f"{tier.limits.enqueued_requests:,} requests waiting",
        tier.idempotent and f"created once by {tier.idempotent}",
        tier.results_kept and f"results are kept {tier.results_kept}",
        tier.notifies and f"it tells by {tier.notifies}",
        tier.zero_retention is False and "not with zero retention",
        tier.cached and f"cached tokens: {tier.cached}",
        tier.hearsay and f"not from its own documentation: {', '.join(tier.hearsay)}",
    ]
    return "; ".join(str(words) for words in told if words)


def _states(tier: BatchTier) -> str:
    return ", ".join(f"`{word}` {meant}" for word, meant in tier.states.items())


if __name__ == "__main__":
    sys.stdout.write(page())
