"""Prompt caches: what providers' rules let be cached, what keeping it costs, and how much of it was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.lots import Tokens
from thirdshift.router.pricing.prices import CACHE_MARK, keeps_marked_only, keeps_unasked
from thirdshift.router.tokens.prefixes import Prefixes, cached_tokens, kept_tokens
from thirdshift.router.values import Endpoint


@dataclass(frozen=True, slots=True)
class CacheRule:
    """What a provider caches of a prompt that begins like one before it."""

    least_tokens: int = 1024
    step_tokens: int = 128
    hit_rate: float = 0.8
    """How often that is believed to be found before anything was observed: it is promised by nobody."""
    marked_only: bool = False
    """Nothing is cached but what a request marks."""


RULES = {
    "deepseek": CacheRule(least_tokens=64, step_tokens=64),
    "anthropic": CacheRule(step_tokens=1, marked_only=True),
}
"""By the provider in a model's name; others are taken to be like OpenAI (1,024 tokens, in steps of 128)."""

PRIOR_CALLS = 1.0
"""What is believed beforehand counts as one call."""


def cache_rule(endpoint: Endpoint) -> CacheRule:
    """Return the rule of who serves the endpoint's model: Claude's is Anthropic's wherever it is served."""
    provider = "anthropic" if keeps_marked_only(endpoint) else endpoint.model.partition("/")[0]
    return RULES.get(provider, CacheRule())


@dataclass(frozen=True, slots=True)
class CacheableTokens:
    """What a provider's cache may do to a batch, by row."""

    found: Tokens
    """Input tokens billed as cached if all that may be found are."""
    kept: Tokens | None
    """Input tokens that are kept at a price, unless they are found; None where keeping costs nothing."""

    def written(self, cached: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """What is written to the cache where so many tokens are found in it."""
        return None if self.kept is None else np.maximum(self.kept - cached, 0.0)


def cacheable(
    endpoints: Sequence[Endpoint],
    prefixes: Prefixes,
    input_tokens: NDArray[np.int32],
    marked: NDArray[np.bool_] | None,
    rows: NDArray[np.int64] | slice,
) -> tuple[CacheableTokens, ...]:
    """Return for each endpoint what its provider's cache may do to `rows`; endpoints under one rule share it.

    `prefixes`, `input_tokens` and `marked` are of all rows; the last tells which requests ask for their beginning to be
    kept, None where nobody looked.
    """
    known: dict[tuple[CacheRule, bool], CacheableTokens] = {}
    caches = []
    for endpoint in endpoints:
        rule = cache_rule(endpoint)
        asked = CACHE_MARK in endpoint.params if rule.marked_only else keeps_unasked(endpoint)
        if (rule, asked) not in known:
            found, kept = _cacheable(rule, prefixes, input_tokens, marked, asked=asked)
            known[rule, asked] = CacheableTokens(found[rows], None if kept is None else kept[rows])
        caches.append(known[rule, asked])
    return tuple(caches)


def _cacheable(
    rule: CacheRule,
    prefixes: Prefixes,
    input_tokens: NDArray[np.int32],
    marked: NDArray[np.bool_] | None,
    *,
    asked: bool,
) -> tuple[NDArray[np.int32], NDArray[np.int32] | None]:
    """`asked`: every request asks for that, or the provider does it unasked and at a price."""
    least, step = rule.least_tokens, rule.step_tokens
    found = cached_tokens(prefixes, input_tokens, least=least, step=step)
    if not rule.marked_only:
        return found, kept_tokens(input_tokens, least=least, step=step) if asked else None
    kept = kept_tokens(input_tokens, least=least, step=step, of=prefixes)
    if asked:
        return found, kept
    if marked is None or not marked.any():
        return np.zeros_like(found), None
    return found * marked, kept * marked


def hit_rate(rule: CacheRule, shared: float, calls: float, cached: float) -> float:
    """Return how much of what could be cached is expected to be, as a factor.

    `shared`: the share of the batch's input tokens that the rule lets be cached; `calls`: how many were observed, `cached`:
    the share of their input tokens that was billed as cached. Above 1 where prompts share more than `shared` shows, which
    is a lower bound.
    """
    if shared <= 0:
        return rule.hit_rate
    found = (calls * cached / shared + PRIOR_CALLS * rule.hit_rate) / (calls + PRIOR_CALLS)
    return min(max(found, 0.0), 1.0 / shared)
