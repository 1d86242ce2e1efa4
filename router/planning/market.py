"""Endpoints as the planner sees them: one option per endpoint and price, and what each would charge each request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.lots import Sent, Tokens, requests, sent_of, total
from thirdshift.router.planning.options import Throughput, options_for
from thirdshift.router.planning.problem import Option
from thirdshift.router.pricing.prices import schedule_columns
from thirdshift.router.values import Endpoint

GUESSED = 0.7
"""A guess of a worker's speed is off by a factor of two to four either way: models of one kind of device differ so."""
DEVICE_PACE = {
    "cuda": Throughput(None, 8000.0, 2000.0, startup_seconds=120.0, speed_sd=GUESSED),
    "npu": Throughput(None, 4800.0, 1200.0, startup_seconds=180.0, speed_sd=GUESSED),
    "cpu": Throughput(None, 2000.0, 600.0, startup_seconds=40.0, speed_sd=GUESSED),
}
"""One worker before any was measured here: guesses to plan the first night with. The CPU's are of a tiny model on two
cores (FACTS: ready after 32 s); the NPU's are 60 % of the GPU's (FIELD: Ascend 950PR against an H100-class part)."""


BYTES_PER_TOKEN = 5
"""What a request reserves is by its bytes: about four to a token, and what the provider puts around a message."""
CHUNK = 100_000
"""Requests at a time of which only a sum is wanted."""


@dataclass(frozen=True, slots=True)
class Offer:
    """An option with what it takes to price it."""

    option: Option
    endpoint: int
    """Position among the endpoints."""
    factor: Decimal
    """Off-peak factor within the option's windows."""


def offers(
    endpoints: Sequence[Endpoint],
    now: datetime,
    deadline: datetime | None,
    throughputs: Mapping[str, Throughput] | None = None,
    token_factors: Mapping[str, float] | None = None,
) -> tuple[Offer, ...]:
    """Every endpoint's options between `now` and `deadline`: one, or one for each price that will be in force.

    `paces` (measured) and `token_factors` are by endpoint name; a missing one is the prior of its device, or 1.
    """
    options = []
    for position, endpoint in enumerate(endpoints):
        prior = DEVICE_PACE[endpoint.workers.device] if endpoint.workers is not None else None
        priced = options_for(
            endpoint,
            now=now,
            deadline=deadline,
            throughput=(throughputs or {}).get(endpoint.name, prior),
            token_factor=(token_factors or {}).get(endpoint.name, 1.0),
        )
        options += [Offer(priced_option.option, position, priced_option.factor) for priced_option in priced]
    return tuple(options)


def cost_matrix(
    endpoints: Sequence[Endpoint],
    offered: Sequence[Offer],
    input_tokens: Sequence[Tokens],
    output_tokens: NDArray[np.float32],
    cached_tokens: Sequence[NDArray[np.float64]] | None = None,
    written_tokens: Sequence[NDArray[np.float64] | NDArray[np.int32] | None] | None = None,
) -> NDArray[np.float64]:
    """USD [n, options] for input tokens, those of them cached and those written to a cache at a price ([n] for each
    endpoint), and output tokens [n, endpoints]; 0 where hours are paid for."""
    cost = np.zeros((len(output_tokens), len(offered)))
    for column, offer in enumerate(offered):
        endpoint = endpoints[offer.endpoint]
        if endpoint.price.usd_per_hour is not None:
            continue  # hours are in the option's workers
        factor = offer.option.token_factor
        counted = input_tokens[offer.endpoint]
        counted = counted if factor == 1.0 else np.rint(counted * factor).astype(np.int32)
        cached = None if cached_tokens is None else _whole(cached_tokens[offer.endpoint], factor)
        written = None if written_tokens is None else _whole(written_tokens[offer.endpoint], factor)
        output = output_tokens[:, offer.endpoint].astype(np.float64)
        cost[:, column] = schedule_columns(endpoint.price, offer.factor, counted, output, cached, written)
    return cost


def _whole(tokens: NDArray[np.float64] | NDArray[np.int32] | None, factor: float) -> NDArray[np.int32] | None:
    return None if tokens is None else np.rint(tokens * factor).astype(np.int32)


def reserved_usd(
    endpoints: Sequence[Endpoint],
    offered: Sequence[Offer],
    input_tokens: Sequence[Tokens],
    max_tokens: NDArray[np.int32],
    sent: Sent = None,
) -> NDArray[np.float64]:
    """USD [options] that a request reserves in the mean, until its answer tells what it cost. `sent`: how many requests
    each row has."""
    usd = np.zeros(len(offered))
    for begin in range(0, len(max_tokens), CHUNK):
        some = slice(begin, begin + CHUNK)
        longest = np.repeat(max_tokens[some, None].astype(np.float32), len(endpoints), axis=1)
        sizes = [BYTES_PER_TOKEN * tokens[some] for tokens in input_tokens]
        usd += total(cost_matrix(endpoints, offered, sizes, longest), sent_of(sent, some))
    return usd / max(requests(len(max_tokens), sent), 1.0)


def hours_matrix(
    offered: Sequence[Offer],
    input_tokens: Sequence[Tokens],
    output_tokens: NDArray[np.float32],
    sent: Sent = None,
) -> NDArray[np.float64]:
    """USD [n, options] of workers' time: of the seconds a request keeps one busy, and its share of what a worker's start
    costs if all go there; 0 where tokens are paid for. One zero, read-only, where no hours are paid at all. `sent`: how
    many requests each row has."""
    shape = len(output_tokens), len(offered)
    if all(offer.option.workers is None for offer in offered):
        return np.broadcast_to(0.0, shape)
    cost = np.zeros(shape)
    for column, offer in enumerate(offered):
        workers = offer.option.workers
        if workers is None:
            continue
        read = input_tokens[offer.endpoint] * offer.option.token_factor
        busy = workers.seconds(read, output_tokens[:, offer.endpoint])
        work = float(total(busy, sent))
        paid = workers.paid_seconds(work if workers.increment_seconds else 0.0)
        idle = max(0.0, paid - work)
        seconds = np.maximum(busy, 0.0) + idle / max(requests(len(busy), sent), 1.0)
        cost[:, column] = seconds * (workers.usd_per_hour / 3600)
    return cost
