"""Choose the endpoints that a new job tries, from the environment's keys, the devices found, the catalogue's prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from thirdshift.engines.devices import Machine
from thirdshift.flows.init.inference import Choice
from thirdshift.flows.init.servers import ServedModel
from thirdshift.flows.jobs.provider_keys import DEFAULT_KEYS
from thirdshift.flows.models.listing import ModelOffer, offers_of
from thirdshift.flows.models.registry import Registry
from thirdshift.router.pricing.catalogue import CatalogueModel

MOST = 4
"""Endpoints of providers: each more is tried on every request of the pilot."""
SHOWN_WITHOUT_KEY = 5
PRIORS_BELOW = 0.05
"""A floor is asked for that the best prior clears by so much."""
USUAL_FLOOR = 0.80
HOUSE_MODEL = "Qwen/Qwen3.6-27B"
HOUSE_MIB = 60 * 1024
"""What its weights take in 16 bits, with room for a cache."""
HOUR_USD = 2.50
PLACEHOLDERS = "small, large"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model under a name that a job can use, at its price."""

    model: str
    """litellm's name, with its provider."""
    name: str
    """For the job's endpoint."""
    input: float
    """USD per million tokens."""
    output: float
    prior: float | None
    variable: str
    """Where its key is looked for."""

    @property
    def dearness(self) -> float:
        """USD per four million tokens, three of input to one of output: most requests read three for each they write."""
        return 3 * self.input + self.output


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The endpoints that a new job names, with the reason for each."""

    chosen: tuple[Candidate, ...] = ()
    others: tuple[Candidate, ...] = ()
    """Candidates without a key on this machine: shown, commented out."""
    device: str | None = None
    """cuda or npu, where local workers can be started; `house` is then one of the endpoints."""
    workers: int = 0
    house_fits: bool = False
    choices: tuple[Choice, ...] = ()
    served: tuple[ServedModel, ...] = ()
    """Models of the server that was named."""
    found: tuple[ServedModel, ...] = ()
    """Models of servers on this machine: shown, commented out."""

    @property
    def placeholders(self) -> bool:
        """Whether there is nothing to send to yet; the template asks."""
        return not (self.chosen or self.device or self.served)

    @property
    def floor(self) -> float:
        """The floor to ask for: a little below the best prior, or the usual one where none is known."""
        priors = [candidate.prior for candidate in self.chosen if candidate.prior is not None]
        if not priors:
            return USUAL_FLOOR
        return min(USUAL_FLOOR, int((max(priors) - PRIORS_BELOW) * 20) / 20)

    @property
    def dearest(self) -> tuple[float, float]:
        """The dearest candidate's price in USD per million tokens, input and output."""
        most = max(self.chosen, key=lambda candidate: candidate.dearness, default=None)
        if most is None:
            return (2.0, 8.0) if self.placeholders else (0.0, 0.0)
        return most.input, most.output


def endpoints_for(environ: Mapping[str, str], machine: Machine, known: Registry) -> Endpoints:
    """Choose endpoints by the keys in `environ`, the devices of `machine` and the prices known, each with its reason."""
    keys = {
        provider: next((n for n in names if environ.get(n)), "") for provider, names in DEFAULT_KEYS.items()
    }
    offers = _offers(known)
    with_key = _candidates(known, offers, {p: variable for p, variable in keys.items() if variable})
    without = _candidates(known, offers, {p: names[0] for p, names in DEFAULT_KEYS.items() if not keys[p]})
    chosen = _picked(with_key)
    choices = [_why(candidate, chosen) for candidate in chosen]
    device = "cuda" if machine.gpus else "npu" if machine.npus else None
    devices = machine.of(device) if device else ()
    fits = bool(devices) and all((gpu.memory_mib or 0) >= HOUSE_MIB for gpu in devices)
    if device:
        choices.append(Choice("endpoint", "house", f"{len(devices)} {device} device(s): {devices[0].name}"))
    if not chosen and device is None:
        why = "no provider's key variable is set and no GPU or NPU was found: two placeholders for servers of yours"
        choices.append(Choice("endpoint", PLACEHOLDERS, why))
    return Endpoints(chosen, _picked(without, SHOWN_WITHOUT_KEY), device, len(devices), fits, tuple(choices))


def with_servers(
    endpoints: Endpoints, served: tuple[ServedModel, ...], found: tuple[ServedModel, ...]
) -> Endpoints:
    """Add the models of a server that was named, each under a name of its own, and those that were found."""
    taken = {candidate.name for candidate in endpoints.chosen}
    named, choices = (
        [],
        [choice for choice in endpoints.choices if choice.value != PLACEHOLDERS or not served],
    )
    for model in served:
        name = next(n for n in (model.name, *(f"{model.name}-{k}" for k in range(2, 99))) if n not in taken)
        taken.add(name)
        named.append(replace(model, name=name))
        window = "" if model.context_window is None else f", context window {model.context_window:,}"
        choices.append(Choice("endpoint", name, f"{model.api_base} lists it{window}"))
    others = tuple(model for model in found if model.api_base not in {named.api_base for named in served})
    choices += [Choice("found", model.model, f"{model.api_base} answers; commented out") for model in others]
    return replace(endpoints, served=tuple(named), found=others, choices=tuple(choices))


def _offers(known: Registry) -> list[tuple[CatalogueModel, list[ModelOffer]]]:
    """Return every model of the catalogue with its offers, cheapest first."""
    names = known.catalogue.offers(known.map.prices)
    return [(model, offers_of(known, names.get(model.name, ()))) for model in known.catalogue.models]


def _candidates(
    known: Registry, offers: Sequence[tuple[CatalogueModel, Sequence[ModelOffer]]], keys: Mapping[str, str]
) -> list[Candidate]:
    """Return the models that these providers offer, each at its cheapest among them, cheapest first."""
    candidates = []
    for model, model_offers in offers:
        offer = next((offer for offer in model_offers if offer.provider in keys and offer.comparable), None)
        if offer is not None:
            candidates.append(_candidate(known, model, offer, keys[offer.provider]))
    return sorted(candidates, key=lambda candidate: (candidate.dearness, candidate.model))


def _candidate(known: Registry, model: CatalogueModel, offer: ModelOffer, variable: str) -> Candidate:
    price = offer.comparable
    if price is None:
        raise ValueError(f"{offer.name} has no price to compare")
    name = offer.name if "/" in offer.name else f"{offer.provider}/{offer.name}"
    short = "".join(c if c.isalnum() or c in ".-" else "-" for c in model.name.lower()).strip("-.")
    prior = known.catalogue.priors.get(model.name)
    return Candidate(name, short, float(price.base.input), float(price.base.output), prior, variable)


def _picked(candidates: Sequence[Candidate], most: int = MOST) -> tuple[Candidate, ...]:
    """Pick the cheapest, and of those with a better prior than all cheaper ones some, evenly from cheap to strong."""
    if len(candidates) <= most:
        return tuple(candidates)
    better: list[Candidate] = []
    best = 0.0
    for candidate in candidates:
        if candidate.prior is not None and candidate.prior > best:
            better.append(candidate)
            best = candidate.prior
    if not better:
        better = [candidates[-1]]
    places = np.linspace(len(better) - 1, 0, min(most - 1, len(better))).round().astype(int)
    picked = {candidates[0], *(better[k] for k in places)}
    return tuple(sorted(picked, key=lambda candidate: (candidate.dearness, candidate.model)))


def _why(candidate: Candidate, chosen: Sequence[Candidate]) -> Choice:
    place = (
        "the cheapest"
        if candidate is chosen[0]
        else "the dearest"
        if candidate is chosen[-1]
        else "between them"
    )
    prior = f", prior {candidate.prior:.2f}" if candidate.prior is not None else ""
    prices = f"${candidate.input:g} in, ${candidate.output:g} out per million tokens"
    why = f"{candidate.variable} is set; {place}: {prices}{prior}"
    return Choice("endpoint", candidate.name, why)
