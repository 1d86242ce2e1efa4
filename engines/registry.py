"""Which engine serves an endpoint: adapters are named here, and loaded when one is needed."""

from __future__ import annotations

from functools import partial
from importlib import import_module

from thirdshift.engines.errors import MissingExtraError
from thirdshift.router.interfaces import Engine, EngineContext
from thirdshift.router.values import Endpoint, Mode

ADAPTERS: dict[str, tuple[str, str, str]] = {
    "vllm": ("thirdshift.engines.vllm.engine", "VllmEngine", "needs nothing more here"),
    "ray": ("thirdshift.engines.ray.engine", "RayEngine", "ray"),
    "batch": ("thirdshift.engines.batch.engine", "BatchEngine", "aiohttp"),
    "openai wire": ("thirdshift.engines.realtime.engine", "RealtimeEngine", "aiohttp"),
    "litellm": ("thirdshift.engines.realtime.litellm", "LitellmEngine", "litellm"),
}
"""Adapter → module, class, and the package it cannot do without."""

BATCH_TIERS = ("openai", "anthropic", "azure")
"""Providers whose batch tier we speak; with an `api_base` of its own any endpoint is taken to speak OpenAI's."""
UNTESTED_TIERS = ("azure",)
"""Which of those nobody has run yet."""


def batch_tiers() -> str:
    """Those providers, for people."""
    return ", ".join(f"{name} (untested)" if name in UNTESTED_TIERS else name for name in BATCH_TIERS)


def batch_tier_missing(model: str, api_base: str | None) -> str | None:
    """The provider whose batch tier nobody has built, or None."""
    provider = model.partition("/")[0]
    return None if api_base is not None or provider in BATCH_TIERS else provider


def adapter_of(endpoint: Endpoint) -> str:
    """The adapter's name: own workers, a batch tier, OpenAI's wire, and litellm for all else."""
    if endpoint.workers is not None:
        return "vllm" if endpoint.workers.cluster is None else "ray"
    if endpoint.mode is Mode.BATCH:
        return "batch"
    if endpoint.api_base is not None or endpoint.model.startswith("openai/"):
        return "openai wire"
    return "litellm"


def engine_for(endpoint: Endpoint, engine_context: EngineContext) -> Engine:
    """The engine that serves `endpoint`. Raises MissingExtraError where a package is not installed."""
    by_the_hour = endpoint.price.usd_per_hour is not None and endpoint.workers is None
    if endpoint.emulated or (endpoint.server is None and not by_the_hour):
        return _speaking(endpoint, engine_context)
    served: Engine = import_module("thirdshift.engines.server.engine").ServerEngine(
        endpoint, engine_context, partial(_speaking, endpoint)
    )
    return served


def _speaking(endpoint: Endpoint, engine_context: EngineContext) -> Engine:
    module, name, package = ADAPTERS[adapter_of(endpoint)]
    try:
        made: Engine = getattr(import_module(module), name)(endpoint, engine_context)
    except ModuleNotFoundError as error:
        missing = error.name or package
        raise MissingExtraError(
            f"endpoint {endpoint.name} needs the package {missing}, which is not installed; "
            f"`pip install {missing}` (or `make setup`) mends it"
        ) from error
    return made
