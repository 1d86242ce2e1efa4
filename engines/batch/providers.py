"""Which wire reaches a provider's batch tier: the one that its row names."""

from __future__ import annotations

from pathlib import Path

from thirdshift.engines.batch.anthropic import AnthropicBatches
from thirdshift.engines.batch.gemini import GeminiBatches
from thirdshift.engines.batch.openai import OpenAIBatches
from thirdshift.engines.batch.openrouter import OpenRouterBatches
from thirdshift.engines.batch.provider import BatchWire
from thirdshift.engines.registry import tier_of
from thirdshift.engines.wires.openai import Bodies
from thirdshift.router.values import Endpoint
from thirdshift.world import REAL, World


def wire_for(endpoint: Endpoint, bodies: Bodies, keep: Path | None, world: World = REAL) -> BatchWire:
    """The wire of an endpoint's row. Raises BadEndpointError where there is none, or it is not built."""
    tier = tier_of(endpoint)
    if tier.wire == "anthropic":
        return AnthropicBatches(endpoint, keep, world)
    if tier.wire == "openrouter":
        return OpenRouterBatches(endpoint, bodies, keep, world)
    if tier.wire == "gemini":
        return GeminiBatches(endpoint, keep, world)
    return OpenAIBatches(endpoint, bodies, tier, world)
