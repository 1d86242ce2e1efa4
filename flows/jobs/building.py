"""Build the values that the other packages take from the parts of a job."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from thirdshift.engines.registry import tier_rows
from thirdshift.flows.errors import JobError, Mistake
from thirdshift.flows.jobs.job import Job
from thirdshift.flows.jobs.parsing import place
from thirdshift.flows.jobs.quality_checks import imported
from thirdshift.flows.jobs.schema import (
    ClusterPart,
    EndpointPart,
    OffPeakPart,
    PolicyPart,
    RulePart,
    SqlInput,
)
from thirdshift.flows.models.registry import load_registry
from thirdshift.router.certification.scorers import Scorer
from thirdshift.router.embeddings import NO_EMBEDDINGS, asks_for_embeddings, is_embedding_model
from thirdshift.router.policy import Policy, Rule
from thirdshift.router.pricing.pricebook import Override, PriceMissing, facts_of, hourly, off_peak_rule
from thirdshift.router.pricing.service import STANDARD, Service, service_of
from thirdshift.router.pricing.tier_prices import tier_price
from thirdshift.router.tiers import BatchTier
from thirdshift.router.values import (
    ClusterSpec,
    Endpoint,
    Facts,
    Limits,
    Mode,
    OffPeak,
    Price,
    PriceSchedule,
    ServerSpec,
    WorkerSpec,
    usd,
)
from thirdshift.warehouse.intake.intake import InputSpec, RequestSpec, SqlSource


class PriceLookup(Protocol):
    """A look-up of prices by model and mode."""

    def __call__(
        self, model: str, mode: Mode, override: Override, /, *, endpoint: str, service: Service = STANDARD
    ) -> PriceSchedule:
        """Return the known price, adjusted by what `override` states. Raises PriceMissing."""


def _no_tiers(_: Service) -> Mapping[str, PriceSchedule]:
    """Return no prices by tier: nothing is known of them."""
    return {}


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What is known of a model, whatever the job says."""

    facts: Facts = field(default_factory=Facts)
    context_window: int | None = None
    quality_prior: float | None = None
    embedding: bool = False
    """It makes embeddings, and no text."""
    tiers: Callable[[Service], Mapping[str, PriceSchedule]] = _no_tiers
    """From how the endpoint is called to the price by the tier that a reply may say it was served at."""
    surcharges: Mapping[str, Decimal] = field(default_factory=dict)
    """Places and speeds that a reply may state, with their factors on the price."""


FactsLookup = Callable[[str], KnownModel]
T = TypeVar("T")


def books() -> tuple[PriceLookup, FactsLookup]:
    """Return look-ups in this machine's price book and catalogue. Raises UserError if an imported price map is broken."""
    known = load_registry()

    def price(
        model: str, mode: Mode, override: Override, /, *, endpoint: str, service: Service = STANDARD
    ) -> PriceSchedule:
        return known.price(model, mode, override, endpoint=endpoint, service=service)

    def facts(model: str) -> KnownModel:
        known_facts, listed = known.catalogue.facts_for(model)
        map_facts = facts_of(model, known.map.prices)
        window = (map_facts.context_window if map_facts else None) or (
            listed.context_window if listed else None
        )
        return KnownModel(
            known_facts,
            window,
            known.catalogue.quality_prior(model),
            is_embedding_model(model, known.map.prices),
            partial(known.tiers, model),
            known.surcharges(model),
        )

    return price, facts


def endpoint_values(job: Job, prices: PriceLookup, known: FactsLookup) -> tuple[Endpoint, ...]:
    """Return all endpoints that answer requests, in the order of the job. Raises JobError naming each that has no price."""
    endpoints: list[Endpoint] = []
    mistakes = _embedding_mistakes(job, known)
    if mistakes:
        raise JobError(job.path, mistakes)
    for number, part in enumerate(job.endpoints):
        if part.only is not None:
            continue
        try:
            endpoints.append(endpoint_value(part, prices, known(part.model), job.base))
        except PriceMissing as error:
            mistakes.append(Mistake(0, place(("endpoints", number, "price")), str(error)))
    if mistakes:
        raise JobError(job.path, mistakes)
    return tuple(endpoints)


def _embedding_mistakes(job: Job, known: FactsLookup) -> list[Mistake]:
    """Find endpoints, judges among them, that are asked for embeddings."""
    mistakes = []
    for number, part in enumerate(job.endpoints):
        if asks_for_embeddings(part.api_base):
            mistakes.append(Mistake(0, place(("endpoints", number, "api_base")), NO_EMBEDDINGS))
        elif known(part.model).embedding:
            mistakes.append(Mistake(0, place(("endpoints", number, "model")), NO_EMBEDDINGS))
    return mistakes


def judge_value(job: Job, prices: PriceLookup, known: FactsLookup) -> Endpoint | None:
    """Return the endpoint that judges, None without a judge; it may answer requests too. Raises JobError: no price."""
    judge = job.quality.judge
    if judge is None or job.quality.scorer != "judge":
        return None
    number, part = next(
        (n, endpoint) for n, endpoint in enumerate(job.endpoints) if endpoint.name == judge.endpoint
    )
    try:
        return endpoint_value(part, prices, known(part.model), job.base)
    except PriceMissing as error:
        raise JobError(job.path, [Mistake(0, place(("endpoints", number, "price")), str(error))]) from None


def endpoint_value(part: EndpointPart, prices: PriceLookup, known: KnownModel, base: Path) -> Endpoint:
    """Build one endpoint, with what is known of its model where the job says nothing. Raises PriceMissing.

    `base`: the folder that a model's path and the interpreter's are from.
    """
    _, service = service_of(Mode(part.mode), part.params, part.api_base)
    of_book = part.price is None and part.engine != "vllm" and part.usd_per_hour is None
    return Endpoint(
        name=part.name,
        model=_model(part, base),
        price=_price(part, prices),
        mode=Mode(part.mode),
        params=part.params,
        api_base=part.api_base,
        api_key_env=part.api_key_env,
        limits=Limits(**part.limits.model_dump(include={"rpm", "tpm", "concurrency", "enqueued_tokens"})),
        facts=_facts(part, known.facts),
        context_window=_stated_or(part.context_window or _stated_length(part), known.context_window),
        quality_prior=_stated_or(part.quality_prior, known.quality_prior),
        turnaround_seconds=part.turnaround,
        reasoning_tokens_max=part.reasoning_tokens_max,
        delete_remote=part.delete_remote,
        tier=tier_value(part),
        vendor=part.provider or (None if part.api_base is None else urlsplit(part.api_base).hostname),
        workers=_workers(part, base),
        server=_server(part, base),
        tier_prices=known.tiers(service) if of_book else {},
        surcharges=known.surcharges if of_book else {},
    )


def tier_value(part: EndpointPart) -> BatchTier | None:
    """Return the row of the provider's batch tier as this endpoint uses it; None where it uses none, or none is known."""
    tier = tier_rows().of(part.model, part.api_base) if Mode(part.mode) is Mode.BATCH else None
    if tier is None:
        return None
    asked = tier if part.window is None else tier.with_window(part.window)
    stated = asked.with_limits(
        requests=part.limits.batch_requests,
        bytes=part.limits.batch_bytes,
        line_bytes=part.limits.line_bytes,
        batches=part.limits.batches,
        enqueued_tokens=part.limits.enqueued_tokens,
    )
    return stated.model_copy(update={"limits": tier_rows().limits_to_keep(stated)})


def _stated_or(stated: T | None, known: T | None) -> T | None:
    return known if stated is None else stated


def _stated_length(part: EndpointPart) -> int | None:
    """Return the context length in tokens that a worker is started with; None where the job leaves it to vLLM."""
    length = part.vllm.get("max_model_len")
    return length if isinstance(length, int) else None


def _model(part: EndpointPart, base: Path) -> str:
    """Return the model's name; an absolute path where a worker's model is a folder beside the job."""
    path = base / part.model
    return str(path.resolve()) if part.engine == "vllm" and os.path.exists(path) else part.model


def _price(part: EndpointPart, prices: PriceLookup) -> PriceSchedule:
    if part.engine == "vllm" or (part.usd_per_hour is not None and part.price is None):
        rules = () if part.off_peak is None else (_off_peak(part.off_peak),)
        return hourly(part.usd_per_hour or usd(0), off_peak=rules)
    override = Override()
    if part.price is not None:
        override = Override(Price(part.price.input, part.price.output, part.price.cached_input))
    if part.off_peak is not None:
        override = replace(override, off_peak=(_off_peak(part.off_peak),))
    mode, service = service_of(Mode(part.mode), part.params, part.api_base)
    if part.price is not None:
        mode, service = Mode(part.mode), STANDARD  # the job's own price is for what it asks
    ask = partial(prices, part.model, endpoint=part.name)
    if service != STANDARD:
        ask = partial(ask, service=service)
    tier = tier_value(part)
    return ask(mode, override) if tier is None or part.price is not None else tier_price(tier, ask, override)


def _off_peak(part: OffPeakPart) -> OffPeak:
    return off_peak_rule(part.factor, part.tz, part.hours, part.days)


def _facts(part: EndpointPart, known: Facts) -> Facts:
    """Return the facts that policies ask for. Own workers and a server that the job starts are self-hosted; an address
    alone is no proof of it.
    """
    return Facts(
        licence=_stated_or(part.licence, known.licence),
        lab=_stated_or(part.lab, known.lab),
        origin=_stated_or(part.origin, known.origin),
        region=part.region,
        zero_retention=True if part.retention == "zero" else None,
        self_hosted=part.engine == "vllm" or part.up is not None or bool(part.self_hosted),
    )


def _server(part: EndpointPart, base: Path) -> ServerSpec | None:
    stated = part.up or part.health or part.down
    return ServerSpec(part.up, part.health, part.down, str(base)) if stated else None


def _workers(part: EndpointPart, base: Path) -> WorkerSpec | None:
    if part.engine != "vllm" or part.device is None:
        return None
    named = part.python and (part.python if part.on and "/" not in part.python else str(base / part.python))
    count = str(part.workers).rpartition("-")[2]
    return WorkerSpec(
        device=part.device,
        workers=1 if count == "max" else int(count),
        python=named or str(vllm_python()),
        options=part.vllm,
        minimum_minutes=part.minimum_minutes,
        billing_increment_minutes=part.billing_increment_minutes,
        node_price=part.price_per == "node",
        spot_price=part.spot_price,
        usd_per_kwh=part.usd_per_kwh,
        accounting_usd_per_hour=part.accounting_usd_per_hour,
        cluster=None if part.on is None else _cluster(part, named),
    )


def _cluster(part: EndpointPart, python: str | None) -> ClusterSpec:
    """Return the cluster that workers run on. `python`: the interpreter on its nodes, where the job names one."""
    stated = part.cluster or ClusterPart()
    address = stated.address or os.environ.get("RAY_ADDRESS", "")
    return ClusterSpec(address, stated.runtime_env, python, whole=part.workers == "max")


def vllm_python() -> Path:
    """Return the interpreter that `make setup-vllm` makes: `.venv-vllm` beside the environment that runs us."""
    return Path(sys.prefix).parent / ".venv-vllm" / "bin" / "python"


# --- the rest of the job ------------------------------------------------------------------------------------


def input_spec(job: Job) -> InputSpec:
    asked = job.input
    source = SqlSource(asked.sql, asked.attach, job.bound) if isinstance(asked, SqlInput) else asked
    request = job.request
    rendered = RequestSpec(
        id=request.id,
        system=request.system,
        prompt=request.prompt,
        task=request.task,
        reference=request.reference,
        metadata=request.metadata,
        policy=request.policy,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        response_schema=request.response_schema,
        compose=request.normalise == "nfc",
    )
    return InputSpec(source, job.base, rendered, job.dedupe)


def scorer_of(job: Job) -> Scorer | None:
    """Return the job's scorer; None where it names none, and quality is predicted only. Raises ScorerError."""
    quality = job.quality
    if quality.scorer is None:
        return None
    function = imported(quality.scorer, job.base) if ":" in quality.scorer else None
    return Scorer(quality.scorer, quality.pattern, quality.fields, function)


def policy_value(part: PolicyPart) -> Policy:
    """Return a `policy:` section as the router's value."""
    return Policy(
        licences=_rule(part.licences),
        labs=_rule(part.labs),
        origins=_rule(part.origins),
        regions=_rule(part.regions),
        self_hosted_only=part.self_hosted_only,
        zero_retention=part.zero_retention,
        max_vendor_share=part.max_vendor_share,
    )


def policies_of(job: Job) -> dict[str, Policy]:
    """Return the job's `policies:` by name, in its order."""
    return {name: policy_value(part) for name, part in job.policies.items()}


def _rule(part: RulePart | None) -> Rule:
    return Rule() if part is None else Rule.of(part.allow, part.deny or ())
