"""The models of a rehearsal: an emulated model for each endpoint of a job, and the endpoint as it is then reached.

    models = [stand_in(endpoint, quality=endpoint.quality_prior) for endpoint in endpoints]
    with Emulator(models, items=known) as emulator:
        reached = [stood_in(end, emulator.root) for end in endpoints]

An endpoint keeps its name, model, price, mode, parameters and limits; only its address changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pyarrow.compute as pc
import pyarrow.parquet as pq

from thirdshift.engines.emulator.models import EmulatedModel, OutputTokens, ability_for
from thirdshift.router.values import Endpoint

UNKNOWN_QUALITY = 0.5
"""Quality of an endpoint of which nothing is known: the contract's prior."""


def stand_in(
    endpoint: Endpoint,
    *,
    quality: float | None = None,
    recorded_as: str | None = None,
    output: OutputTokens | None = None,
    latency_seconds: float = 0.0,
) -> EmulatedModel:
    """Make the model that stands in for `endpoint`, right in a share `quality` of requests where nothing is recorded."""
    share = UNKNOWN_QUALITY if quality is None else min(max(quality, 0.001), 0.999)
    return EmulatedModel(
        name=endpoint.name,
        price=endpoint.price,
        batch_price=endpoint.price,  # an endpoint's price is for its own mode, never halved again
        ability=ability_for(share),
        output=output or OutputTokens(median=60.0, spread=0.8, fits=True),
        latency_seconds=latency_seconds,
        limits=endpoint.limits,
        context_window=endpoint.context_window,
        recorded_as=recorded_as,
    )


def stood_in(endpoint: Endpoint, root: str) -> Endpoint:
    """Return `endpoint` as its stand-in at the emulator's `root` answers it: no key, no worker, no server, no
    batch tier of its own: `tier_of` says how the emulator speaks of it."""
    base = f"{root}/at/{quote(endpoint.name, safe='')}/v1"
    return replace(
        endpoint, api_base=base, api_key_env=None, workers=None, server=None, emulated=True, tier=None
    )


def recorded_models(path: Path) -> list[str]:
    """List the models of an outcomes file. Raises OSError or ValueError where it is none."""
    return sorted(pc.unique(pq.read_table(path, columns=["model"]).column("model")).to_pylist())


def recorded_for(endpoint: Endpoint, names: Iterable[str]) -> str | None:
    """Find the recorded model for `endpoint`: of its name, else its model, else its model without the provider.

    Names are compared by their letters and digits alone, case ignored; None where none or several fit.
    """
    by_letters: dict[str, set[str]] = {}
    for name in names:
        for spelling in (name, name.rpartition("/")[2]):
            by_letters.setdefault(_letters(spelling), set()).add(name)
    for wanted in (endpoint.name, endpoint.model, endpoint.wire_model):
        fitting = by_letters.get(_letters(wanted), set())
        if len(fitting) == 1:
            return next(iter(fitting))
    return None


def _letters(name: str) -> str:
    return "".join(mark for mark in name.lower() if mark.isalnum())
