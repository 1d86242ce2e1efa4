"""Rehearsals: endpoints reached at emulated providers with the real prices and limits."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from thirdshift.engines.emulator import Emulator, KnownRow, recorded_for, recorded_models, stand_in, stood_in
from thirdshift.flows.errors import UserError, why_unread
from thirdshift.router.values import Endpoint
from thirdshift.warehouse.intake.frozen import batches

UNKNOWN_QUALITY = 0.7
"""How often the cheapest emulated model is right where nothing is known of the real ones: a guess, between useless and
perfect."""
WRONG_PER_TENFOLD = 0.5
"""A model at ten times the price is invented to be wrong so much as often: dearer ones are better as a rule."""

LEAST_DOUBT = 0.005
"""No belief about one model says that another is always right, or never."""


def invented_quality(endpoints: Sequence[Endpoint]) -> dict[str, float]:
    """Say how often each stand-in is right: as believed of its model; else the more often the dearer it is, and the more
    often the more is believed of the others at their prices."""
    price = {end.name: float(end.price.base.input) + float(end.price.base.output) for end in endpoints}
    least = min((usd for usd in price.values() if usd > 0), default=1.0)
    by_price = {
        name: 1.0 - (1.0 - UNKNOWN_QUALITY) * WRONG_PER_TENFOLD ** math.log10(max(usd, least) / least)
        for name, usd in price.items()
    }
    believed = {end.name: end.quality_prior for end in endpoints if end.quality_prior is not None}
    beyond = [_log_odds(prior) - _log_odds(by_price[name]) for name, prior in believed.items()]
    shift = sum(beyond) / len(beyond) if beyond else 0.0
    guessed = {name: 1.0 / (1.0 + math.exp(-_log_odds(share) - shift)) for name, share in by_price.items()}
    return guessed | believed


def _log_odds(share: float) -> float:
    share = min(max(share, LEAST_DOUBT), 1.0 - LEAST_DOUBT)
    return math.log(share / (1.0 - share))


def invention_sentence(endpoints: Sequence[Endpoint]) -> str:
    """Say that the skills of a rehearsal are made up, and what they are."""
    skills = ", ".join(f"{name} {share:.2f}" for name, share in invented_quality(endpoints).items())
    return (
        f"a rehearsal: how often each emulated model is right is invented, by what is believed of it or by its price "
        f"({skills}); --outcomes FILE has them answer as recorded"
    )


@contextmanager
def emulated(
    endpoints: Sequence[Endpoint], frozen: Path, outcomes: Path | None, *, judge: str | None = None
) -> Iterator[Mapping[str, Endpoint]]:
    """The endpoints by name, reached at an emulated provider that knows the references of the frozen input. `judge`: who
    only judges, of whom nothing is recorded."""
    answering = [endpoint for endpoint in endpoints if endpoint.name != judge]
    recorded = {} if outcomes is None else _recorded(answering, outcomes)
    quality = invented_quality(endpoints)
    cast = [
        stand_in(
            endpoint,
            quality=quality[endpoint.name],
            recorded_as=recorded.get(endpoint.name),
        )
        for endpoint in endpoints
    ]
    with Emulator(cast, items=_known(frozen), outcomes=outcomes) as emulator:
        yield {endpoint.name: stood_in(endpoint, emulator.root) for endpoint in endpoints}


def _recorded(endpoints: Sequence[Endpoint], outcomes: Path) -> dict[str, str]:
    """Endpoint's name to its model's in the outcomes file. Raises UserError where one has no outcomes."""
    try:
        models = recorded_models(outcomes)
    except (OSError, ValueError) as error:
        raise UserError(f"--outcomes {outcomes}: {why_unread(error)}") from error
    models_by_endpoint = {}
    for endpoint in endpoints:
        named = recorded_for(endpoint, models)
        if named is None:
            raise UserError(
                f"--outcomes {outcomes} has no one model for endpoint {endpoint.name} ({endpoint.model}); "
                f"name the endpoint or its model as one of {', '.join(models)}"
            )
        models_by_endpoint[endpoint.name] = named
    return models_by_endpoint


def _known(frozen: Path) -> Iterator[KnownRow]:
    """What the emulated provider knows: the right answer to each request that has one, and of what form others are."""
    for batch in batches(frozen, ["request_id", "messages", "reference", "response_schema"]):
        for row in batch.to_pylist():
            schema = row["response_schema"]
            yield KnownRow(
                messages=json.loads(row["messages"]),
                reference=row["reference"],
                request_id=row["request_id"],
                schema=None if schema is None else json.loads(schema),
            )
