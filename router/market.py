"""Endpoints as the planner sees them: one option per endpoint and price, and what each would charge each request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from router.planning.problem import Option, Workers
from router.prices import schedule_columns, windows
from router.values import Endpoint, Mode

HORIZON = timedelta(hours=24)
"""How far ahead prices are looked at where there is no deadline: every daily window comes up once."""

BATCH_TURNAROUND_SECONDS = 3600.0
"""Before a batch of ours was seen: most come back within the hour (FACTS: latency is bimodal, some stay past 24 h)."""

STARTUP_SECONDS = {"cuda": 120.0, "npu": 180.0, "cpu": 40.0}
PREFILL_PER_SECOND = {"cuda": 8000.0, "npu": 4800.0, "cpu": 2000.0}
DECODE_PER_SECOND = {"cuda": 2000.0, "npu": 1200.0, "cpu": 600.0}
"""Tokens per second of one worker before any was measured here: guesses to plan the first night with. The CPU's are
the tiny model's on two cores (FACTS: 1,000 prompts of 16 tokens in 2.5 s, ready after 32 s); the NPU's are 60 % of the
GPU's (FIELD: Ascend 950PR against an H100-class part)."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens per second of one worker, as measured."""

    prefill: float
    decode: float


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
    rates: Mapping[str, Rates] | None = None,
    token_factors: Mapping[str, float] | None = None,
) -> tuple[Offer, ...]:
    """Every endpoint's options between `now` and `deadline`: one, or one for each price that will be in force.

    `rates` and `token_factors` are by endpoint name; a missing one is the prior above, or 1.
    """
    found = []
    for position, endpoint in enumerate(endpoints):
        common = _Common(endpoint, (rates or {}).get(endpoint.name), (token_factors or {}).get(endpoint.name, 1.0))
        for factor, stretches in _by_factor(endpoint, now, deadline).items():
            found.append(Offer(common.option(factor, stretches), position, factor))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Common:
    endpoint: Endpoint
    rates: Rates | None
    token_factor: float

    def option(self, factor: Decimal, stretches: tuple[tuple[float, float], ...]) -> Option:
        endpoint = self.endpoint
        limits = endpoint.limits
        batch = endpoint.mode is Mode.BATCH
        return Option(
            name=f"{endpoint.name}@{factor.normalize():f}x" if stretches else endpoint.name,
            endpoint=endpoint.name,
            vendor=endpoint.provider,
            windows=stretches,
            requests_per_second=None if limits.rpm is None else limits.rpm / 60,
            tokens_per_second=None if limits.tpm is None else limits.tpm / 60,
            turnaround_seconds=(endpoint.turnaround_seconds or BATCH_TURNAROUND_SECONDS) if batch else 0.0,
            token_factor=self.token_factor,
            workers=self._workers(),
        )

    def _workers(self) -> Workers | None:
        spec = self.endpoint.workers
        if spec is None:
            return None
        rates = self.rates or Rates(PREFILL_PER_SECOND[spec.device], DECODE_PER_SECOND[spec.device])
        return Workers(
            max_workers=spec.workers,
            usd_per_hour=float(self.endpoint.price.usd_per_hour or 0),
            prefill_tokens_per_second=rates.prefill,
            decode_tokens_per_second=rates.decode,
            startup_seconds=STARTUP_SECONDS[spec.device],
            minimum_seconds=spec.minimum_minutes * 60,
        )


def _by_factor(
    endpoint: Endpoint, now: datetime, deadline: datetime | None
) -> dict[Decimal, tuple[tuple[float, float], ...]]:
    """Stretches of time, in seconds from now, by the price factor in force; one factor throughout needs no windows."""
    spans = windows(endpoint.price, now, deadline or now + HORIZON)
    if len({span.factor for span in spans}) <= 1:
        return {spans[0].factor if spans else Decimal(1): ()}
    found: dict[Decimal, list[tuple[float, float]]] = {}
    for span in spans:
        stretch = ((span.start - now).total_seconds(), (span.end - now).total_seconds())
        found.setdefault(span.factor, []).append(stretch)
    return {factor: tuple(stretches) for factor, stretches in found.items()}


def cost_matrix(
    endpoints: Sequence[Endpoint],
    offered: Sequence[Offer],
    input_tokens: NDArray[np.int32],
    output_tokens: NDArray[np.float32],
    cached_tokens: NDArray[np.int32] | None = None,
) -> NDArray[np.float64]:
    """USD [n, options] for input tokens [n] and output tokens [n, endpoints]; 0 where hours are paid for."""
    cost = np.zeros((len(input_tokens), len(offered)))
    for column, offer in enumerate(offered):
        endpoint = endpoints[offer.endpoint]
        if endpoint.price.usd_per_hour is not None:
            continue
        factor = offer.option.token_factor
        told = input_tokens if factor == 1.0 else np.rint(input_tokens * factor).astype(np.int32)
        cached = None if cached_tokens is None else np.rint(cached_tokens * factor).astype(np.int32)
        cost[:, column] = schedule_columns(
            endpoint.price, offer.factor, told, output_tokens[:, offer.endpoint], cached
        )
    return cost
