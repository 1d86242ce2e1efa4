"""List models, with what is known of each, from which source, and what it costs at which provider.

What is unknown is shown as unknown (null in JSON). A list's price is that of the cheapest offer in real time, by
input + output; offers at no price (a server of one's own, a subscription) are shown but are no price to compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches

from thirdshift.flows.errors import UserError
from thirdshift.flows.models.registry import Registry, plain
from thirdshift.flows.models.updates import price_json, schedule_json
from thirdshift.router.pricing.catalogue import CatalogueModel, Fact
from thirdshift.router.pricing.pricebook import SIBLINGS, MapFacts, PriceMissing, facts_of, resolve
from thirdshift.router.values import JSON, Mode, PriceSchedule


@dataclass(frozen=True, slots=True)
class ModelFilter:
    """What a list of models is narrowed to; None: any."""

    licence: str | None = None
    lab: str | None = None
    origin: str | None = None
    weights: str | None = None
    max_input: float | None = None
    """USD per million tokens, of one and the same offer as `max_output`."""
    max_output: float | None = None

    @property
    def asks_price(self) -> bool:
        """Whether the filter has a limit on price, which an unknown price does not meet."""
        return self.max_input is not None or self.max_output is not None


@dataclass(frozen=True, slots=True)
class ModelOffer:
    """A model under one of litellm's names: what the price map says of it there."""

    name: str
    provider: str
    facts: MapFacts
    prices: Mapping[Mode, PriceSchedule]
    """Modes that have a price; none: the map has the model without one."""

    @property
    def realtime(self) -> PriceSchedule | None:
        """The price in real time; None where it is unknown."""
        return self.prices.get(Mode.REALTIME)

    @property
    def comparable(self) -> PriceSchedule | None:
        """The price in real time; None where it is unknown or zero."""
        price = self.realtime
        return price if price is not None and price.base.input + price.base.output > 0 else None


@dataclass(frozen=True, slots=True)
class Listed:
    """A model and its cheapest offer among those that fit; None: no price is known."""

    model: CatalogueModel
    cheapest: ModelOffer | None
    sellers: tuple[str, ...]
    """Providers that the price map has it of, the cheapest first; empty: nobody is known to sell it."""


# --- what there is ------------------------------------------------------------------------------------------


def listing(known: Registry, criteria: ModelFilter) -> list[Listed]:
    """Return the models that fit, by name; an empty list where none does."""
    chosen = known.catalogue.select(
        licence=criteria.licence, lab=criteria.lab, origin=criteria.origin, weights=criteria.weights
    )
    names = known.catalogue.offers(known.map.prices)
    rows = []
    for model in chosen:
        offers = offers_of(known, names.get(model.name, ()))
        rows.append(Listed(model, cheapest(offers, criteria), sellers_of(offers)))
    return [row for row in rows if row.cheapest is not None or not criteria.asks_price]


def sellers_of(offers: Sequence[ModelOffer]) -> tuple[str, ...]:
    """Return who sells a model, in the order of its offers; not who has it at no price, as a server of one's own does."""
    return tuple(dict.fromkeys(o.provider for o in offers if o.comparable is not None or o.realtime is None))


def cheapest(offers: Sequence[ModelOffer], criteria: ModelFilter) -> ModelOffer | None:
    """Return the first of `offers`, as `offers_of` orders them, whose price fits; None where there is none."""

    def fits(price: PriceSchedule) -> bool:
        dear = criteria.max_input is not None and float(price.base.input) > criteria.max_input
        return not dear and not (
            criteria.max_output is not None and float(price.base.output) > criteria.max_output
        )

    return next((o for o in offers if (p := o.comparable) is not None and fits(p)), None)


def find_model(known: Registry, name: str) -> CatalogueModel | None:
    """Return the catalogue's model of that name; None where only the price map has it.

    Raises UserError, naming what is near, where neither has it.
    """
    model = known.catalogue.find(name)
    if model is not None:
        return model
    same = [m for m in known.catalogue.models if m.name.casefold() == name.strip().casefold()]
    if same:
        return same[0]
    if resolve(name, known.map.prices) is not None:
        return None
    near = near_names(known, name)
    hint = f"; did you mean {', '.join(near)}?" if near else "; `thirdshift models` lists what there is"
    raise UserError(plain(f"no model called {name} in the catalogue or the price map{hint}"))


def near_names(known: Registry, name: str, at_most: int = 4) -> list[str]:
    """Return names like this one: the catalogue's first, then litellm's, most alike first; case is ignored."""
    ours = {m.name.casefold(): m.name for m in known.catalogue.models}
    near = get_close_matches(name.casefold(), ours, n=at_most, cutoff=0.6)
    theirs = {key.casefold(): key for key in known.map.prices}
    more = get_close_matches(name.casefold(), theirs, n=at_most, cutoff=0.75)
    return list(dict.fromkeys([*(ours[n] for n in near), *(theirs[n] for n in more)]))[:at_most]


def names_of(known: Registry, model: CatalogueModel) -> tuple[str, ...]:
    """Return the names that litellm has for a model."""
    return known.catalogue.offers(known.map.prices).get(model.name, ())


def offers_of(known: Registry, names: Sequence[str]) -> list[ModelOffer]:
    """Return each name with its facts and prices: cheapest in real time by input + output first (of equals
    the shortest name, which tends to be the maker's own), those without a price last.
    """
    offers = [offer for name in names if (offer := _offer(known, name)) is not None]

    def dearness(offer: ModelOffer) -> tuple[bool, Decimal, int, str]:
        price = offer.realtime
        total = price.base.input + price.base.output if price else Decimal(0)
        return price is None, total, len(offer.name), offer.name

    return sorted(offers, key=dearness)


def _offer(known: Registry, name: str) -> ModelOffer | None:
    facts = facts_of(name, known.map.prices)
    if facts is None:
        return None
    prices = {mode: price for mode in Mode if (price := _price(known, name, mode)) is not None}
    return ModelOffer(name, _provider(known, name, facts.key), facts, prices)


def _provider(known: Registry, name: str, key: str) -> str:
    """Return the provider as it stands before a slash in a job: `vertex_ai` for the map's vertex_ai-language-models."""
    listed = str(known.map.prices[key].get("litellm_provider", ""))
    families = {sibling: family for family, siblings in SIBLINGS.items() for sibling in siblings}
    prefix, slash, _ = name.partition("/")
    return families.get(listed) or (prefix if slash else listed)


def _price(known: Registry, name: str, mode: Mode) -> PriceSchedule | None:
    try:
        return known.price(name, mode)
    except PriceMissing:
        return None


def window_of(model: CatalogueModel | None, offer: ModelOffer | None) -> int | None:
    """Return the catalogue's context window in tokens, else that of the offer shown; None: unknown."""
    stated = model.context_window if model else None
    return stated or (offer.facts.context_window if offer else None)


# --- as JSON ------------------------------------------------------------------------------------------------


def listed_json(known: Registry, row: Listed) -> dict[str, JSON]:
    """Return one model of the list as JSON; null: unknown; prices in USD per million tokens."""
    model, offer = row.model, row.cheapest
    price = offer.realtime if offer else None
    money = price_json(price.base) if price else dict.fromkeys(_PRICE_KEYS)
    return {
        "name": model.name,
        **_facts_json(known, model),
        "context_window": window_of(model, offer),
        **money,
        "offer": offer.name if offer else None,
        "provider": offer.provider if offer else None,
        "sellers": list(row.sellers),
        "price_source": price.source if price else None,
    }


_PRICE_KEYS = ("input_usd_per_mtok", "output_usd_per_mtok", "cached_usd_per_mtok")


def _facts_json(known: Registry, model: CatalogueModel | None) -> dict[str, JSON]:
    prior = known.catalogue.priors.get(model.name) if model else None
    return {
        "lab": model.lab if model else None,
        "origin": known.catalogue.origin(model) if model else None,
        "licence": model.licence if model else None,
        "weights": model.weights if model else None,
        "quality_prior": None if prior is None else round(prior, 4),
    }


def shown_json(
    known: Registry, name: str, model: CatalogueModel | None, offers: Sequence[ModelOffer]
) -> dict[str, JSON]:
    """Return all that is known of a model as JSON; `in_catalogue` false: only the price map has it."""
    return {
        "name": model.name if model else name,
        "in_catalogue": model is not None,
        **_facts_json(known, model),
        "context_window": window_of(model, offers[0] if offers else None),
        "modalities": list(model.modalities if model else ()),
        "facts": [fact_json(known, fact) for fact in model.facts] if model else [],
        "sellers": list(sellers_of(offers)),
        "names": sorted(offer.name for offer in offers),
        "offers": [_offer_json(offer) for offer in offers],
        "catalogue_as_of": known.catalogue.as_of,
        "price_map": known.map.source,
    }


def fact_json(known: Registry, fact: Fact) -> dict[str, JSON]:
    """Return a fact as JSON, with the title and the date of its source."""
    source = known.catalogue.sources[fact.source]
    return {
        **fact.model_dump(exclude={"source"}),
        "source": source.title,
        "source_date": source.date,
    }


def _offer_json(offer: ModelOffer) -> dict[str, JSON]:
    return {
        "name": offer.name,
        "provider": offer.provider,
        "context_window": offer.facts.context_window,
        "max_output_tokens": offer.facts.max_output_tokens,
        "modalities": list(offer.facts.modalities),
        "prices": [
            {
                "mode": mode.value,
                **schedule_json(price),
                "source": price.source,
                "as_of": price.as_of.isoformat() if price.as_of else None,
            }
            for mode, price in offer.prices.items()
        ],
    }
