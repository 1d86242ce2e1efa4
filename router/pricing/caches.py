"""Prompt caches: what providers' rules let be cached, and how much of that was."""

from __future__ import annotations

from dataclasses import dataclass

from thirdshift.router.values import Endpoint


@dataclass(frozen=True, slots=True)
class CacheRule:
    """What a provider caches of a prompt that begins like one before it."""

    least_tokens: int = 1024
    step_tokens: int = 128
    hit_rate: float = 0.8
    """How often that is believed to be found before anything was observed: it is promised by nobody."""


RULES = {
    "deepseek": CacheRule(least_tokens=64, step_tokens=64),
    "anthropic": CacheRule(hit_rate=0.0),
}
"""By the provider in a model's name; others are taken to be like OpenAI (1,024 tokens, in steps of 128). Anthropic caches
what is marked alone, and a mark of the user's shows in what was observed."""

PRIOR_CALLS = 1.0
"""What is believed beforehand counts as one call."""


def cache_rule(endpoint: Endpoint) -> CacheRule:
    """Return the rule of the endpoint's provider."""
    return RULES.get(endpoint.model.partition("/")[0], CacheRule())


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
