"""Which engine serves an endpoint: adapters are named here, and loaded when one is needed."""

from __future__ import annotations

from functools import lru_cache, partial
from importlib import import_module
from importlib.resources import files

from thirdshift.engines.errors import BadEndpointError, MissingExtraError
from thirdshift.router.interfaces import Engine, EngineContext
from thirdshift.router.tiers import GENERIC, BatchTier, BatchTiers, load
from thirdshift.router.values import Endpoint, Mode

ADAPTERS: dict[str, tuple[str, str, str]] = {
    "vllm": ("thirdshift.engines.vllm.engine", "VllmEngine", "needs nothing more here"),
    "ray": ("thirdshift.engines.ray.engine", "RayEngine", "ray"),
    "batch": ("thirdshift.engines.batch.engine", "BatchEngine", "aiohttp"),
    "openai wire": ("thirdshift.engines.realtime.engine", "RealtimeEngine", "aiohttp"),
    "litellm": ("thirdshift.engines.realtime.litellm", "LitellmEngine", "litellm"),
}
"""Adapter → module, class, and the package it cannot do without."""


@lru_cache(maxsize=1)
def tier_rows() -> BatchTiers:
    """Every batch tier that is known, built or not."""
    return load(files("thirdshift.router.pricing").joinpath("tiers.toml").read_text(encoding="utf-8"))


def tier_of(endpoint: Endpoint) -> BatchTier:
    """The row that a batch endpoint is served by. One that stands in for another in a rehearsal has its provider's limits
    and expiry, on OpenAI's wire or Anthropic's. Raises BadEndpointError where there is none, or it is not built."""
    tier, rows = endpoint.tier, tier_rows()
    if tier is None and endpoint.emulated:
        tier = _emulated(rows, rows.of(endpoint.model, None))
    elif tier is None:
        tier = rows.of(endpoint.model, endpoint.api_base)
    fault = tier_fault(tier, endpoint.protocol, endpoint.api_base)
    if tier is None or fault is not None:
        raise BadEndpointError(f"endpoint {endpoint.name}: {fault}")
    return tier


def _emulated(rows: BatchTiers, own: BatchTier | None) -> BatchTier | None:
    """How a row is emulated where nobody asks for its own words."""
    plain = rows.named(GENERIC)
    if own is None or plain is None or own.wire == "anthropic":
        return own or plain
    kept = {"limits": rows.limits_to_keep(own), "expiry": own.expiry, "cancel": own.cancel}
    return plain.model_copy(update=kept)


def tier_fault(tier: BatchTier | None, provider: str, api_base: str | None) -> str | None:
    """Why a row cannot be used at an address, with the remedy; None where it can."""
    if tier is None:
        return f"no batch tier of {provider} is known; {_REMEDY}"
    if tier.missing is not None:
        return f"batch does not work yet for {tier.title}: {tier.missing}; {_REMEDY}"
    if tier.base is None and api_base is None and tier.name != "azure":
        return f"where {tier.title} is reached is not known here; give its api_base"
    return None


_REMEDY = (
    "use `mode: realtime`, or an api_base that speaks OpenAI's files and batches (`thirdshift models tiers` lists who has "
    "a tier)"
)


def batch_tiers() -> str:
    """The providers whose tier is built, for people."""
    return ", ".join(tier.name for tier in tier_rows().tiers if tier.missing is None and tier.name != GENERIC)


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
