"""Which wire reaches a provider's batch tier."""

from __future__ import annotations

from pathlib import Path

from thirdshift.engines.batch.anthropic import AnthropicBatches
from thirdshift.engines.batch.openai import OpenAIBatches
from thirdshift.engines.batch.provider import BatchWire
from thirdshift.engines.errors import BadEndpointError
from thirdshift.engines.registry import batch_tier_missing
from thirdshift.engines.wires.openai import Bodies
from thirdshift.router.values import Endpoint


def wire_for(endpoint: Endpoint, bodies: Bodies, keep: Path | None) -> BatchWire:
    """An api_base is taken to speak OpenAI's, but for an emulated one, which speaks every provider's own. Raises
    BadEndpointError where we have none."""
    if endpoint.protocol == "anthropic" and (endpoint.api_base is None or endpoint.emulated):
        return AnthropicBatches(endpoint, keep)
    if batch_tier_missing(endpoint.model, endpoint.api_base) is None:
        return OpenAIBatches(endpoint, bodies)
    raise BadEndpointError(
        f"endpoint {endpoint.name}: no batch tier for {endpoint.provider} yet; use `mode: realtime`, or an "
        "api_base that speaks OpenAI's files and batches"
    )
