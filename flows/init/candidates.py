"""Which endpoints a new job should try: from the keys in the environment, the devices found, the catalogue's prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from thirdshift.engines.devices import Machine
from thirdshift.flows.init.inference import Choice
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
        """Most requests read three tokens for each they write."""
        return 3 * self.input + self.output


@dataclass(frozen=True, slots=True)
class Endpoints:
    chosen: tuple[Candidate, ...] = ()
    others: tuple[Candidate, ...] = ()
    """Without a key here: shown, commented out."""
    device: str | None = None
    """cuda or npu, where local workers can be started; `house` is then one of the endpoints."""
    workers: int = 0
    house_fits: bool = False
    choices: tuple[Choice, ...] = ()

    @property
    def placeholders(self) -> bool:
        """Whether there is nothing to send to yet; the template asks."""
        return not self.chosen and self.device is None

    @property
    def floor(self) -> float:
        """What the best of them should reach, as far as anything is known of them."""
        priors = [each.prior for each in self.chosen if each.prior is not None]
        if not priors:
            return USUAL_FLOOR
        return min(USUAL_FLOOR, int((max(priors) - PRIORS_BELOW) * 20) / 20)

    @property
    def dearest(self) -> tuple[float, float]:
        """USD per million tokens, in and out."""
        most = max(self.chosen, key=lambda each: each.dearness, default=None)
        return (2.0, 8.0) if most is None else (most.input, most.output)


def endpoints_for(environ: Mapping[str, str], machine: Machine, known: Registry) -> Endpoints:
    keys = {
        provider: next((n for n in names if environ.get(n)), "") for provider, names in DEFAULT_KEYS.items()
    }
    offers = _offers(known)
    with_key = _candidates(known, offers, {p: variable for p, variable in keys.items() if variable})
    without = _candidates(known, offers, {p: names[0] for p, names in DEFAULT_KEYS.items() if not keys[p]})
    chosen = _picked(with_key)
    choices = [_why(each, chosen) for each in chosen]
    device = "cuda" if machine.gpus else "npu" if machine.npus else None
    found = machine.of(device) if device else ()
    fits = bool(found) and all((each.memory_mib or 0) >= HOUSE_MIB for each in found)
    if device:
        choices.append(Choice("endpoint", "house", f"{len(found)} {device} device(s): {found[0].name}"))
    if not chosen and device is None:
        why = "no provider's key variable is set and no GPU or NPU was found: two placeholders for servers of yours"
        choices.append(Choice("endpoint", "small, large", why))
    return Endpoints(chosen, _picked(without, SHOWN_WITHOUT_KEY), device, len(found), fits, tuple(choices))


def _offers(known: Registry) -> list[tuple[CatalogueModel, list[ModelOffer]]]:
    """Every model of the catalogue with its offers, cheapest first."""
    names = known.catalogue.offers(known.map.prices)
    return [(model, offers_of(known, names.get(model.name, ()))) for model in known.catalogue.models]


def _candidates(
    known: Registry, offers: Sequence[tuple[CatalogueModel, Sequence[ModelOffer]]], keys: Mapping[str, str]
) -> list[Candidate]:
    """Models that these providers offer, each at its cheapest among them, cheapest first."""
    found = []
    for model, all_of_it in offers:
        offer = next((each for each in all_of_it if each.provider in keys and each.comparable), None)
        if offer is not None:
            found.append(_candidate(known, model, offer, keys[offer.provider]))
    return sorted(found, key=lambda each: (each.dearness, each.model))


def _candidate(known: Registry, model: CatalogueModel, offer: ModelOffer, variable: str) -> Candidate:
    price = offer.comparable
    if price is None:
        raise ValueError(f"{offer.name} has no price to compare")
    name = offer.name if "/" in offer.name else f"{offer.provider}/{offer.name}"
    short = "".join(c if c.isalnum() or c in ".-" else "-" for c in model.name.lower()).strip("-.")
    prior = known.catalogue.priors.get(model.name)
    return Candidate(name, short, float(price.base.input), float(price.base.output), prior, variable)


def _picked(candidates: Sequence[Candidate], most: int = MOST) -> tuple[Candidate, ...]:
    """The cheapest, and of those that are believed better than all cheaper ones, evenly from cheap to strong."""
    if len(candidates) <= most:
        return tuple(candidates)
    better: list[Candidate] = []
    for each in candidates:
        if each.prior is not None and each.prior > max((known.prior or 0.0 for known in better), default=0.0):
            better.append(each)
    if not better:
        better = [candidates[-1]]
    places = np.linspace(len(better) - 1, 0, min(most - 1, len(better))).round().astype(int)
    picked = {candidates[0], *(better[k] for k in places)}
    return tuple(sorted(picked, key=lambda each: (each.dearness, each.model)))


def _why(each: Candidate, chosen: Sequence[Candidate]) -> Choice:
    place = "the cheapest" if each is chosen[0] else "the dearest" if each is chosen[-1] else "between them"
    prior = f", prior {each.prior:.2f}" if each.prior is not None else ""
    why = (
        f"{each.variable} is set; {place}: ${each.input:g} in, ${each.output:g} out per million tokens{prior}"
    )
    return Choice("endpoint", each.name, why)
