"""What a plan after the pilot believes that a request costs on a worker, whose hours the pilot spread over few requests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from tests.support.batching import READ, WRITTEN, BatchingEngine
from tests.support.workers import worker_endpoint
from thirdshift.engines.metered.throughput import Answered, AnswersWatch, PaceWatch, Rates, Speedometer
from thirdshift.flows.planning.measured.throughput import throughput_of_run
from thirdshift.router.planning.market import hours_matrix, offers
from thirdshift.router.planning.options import Throughput

NOW = datetime(2026, 11, 29, tzinfo=UTC)
STARTUP_SECONDS = 90.0
USD_PER_HOUR = Decimal(36)
NIGHT = 20_000
OFF = 0.25


@dataclass
class Worker:
    """A worker that is up, as the plan asks of it."""

    rates_now: Rates

    def rates(self) -> Rates:
        return self.rates_now

    def worker_lifetimes(self) -> list[Any]:
        return [type("Lifetime", (), {"stopped_at": None})]


def by_counters(engine: BatchingEngine, requests: int) -> Rates:
    """What vLLM's counters tell of an engine that answers so many."""
    speed = Speedometer()
    watch = PaceWatch(speed, engine.most)

    def tell(now: BatchingEngine) -> None:
        watch.told(
            {
                "worked": now.now, "steps": now.steps, "running": now.running,
                "waiting": now.waiting, "output_tokens": now.written, "input_tokens": now.read,
                "cached_tokens": 0,
            }
        )  # fmt: skip

    engine.answer(requests, tell)
    return speed.rates("0.32.0", "cpu", "", STARTUP_SECONDS)


def by_answers(engine: BatchingEngine, requests: int) -> Rates:
    """What the answers of a server tell that has no counters."""
    watch = AnswersWatch(engine.most)
    engine.answer(
        requests, lambda now: watch.told(now.now, Answered(now.answers, *now.ended), now.running, now.waiting)
    )
    return watch.speed.rates("", "server", "", STARTUP_SECONDS)


def planned_usd(rates: Rates, before: Throughput) -> float:
    """What the plan after the pilot takes a request to cost, if the night goes to this worker."""
    house = worker_endpoint(usd_per_hour=USD_PER_HOUR)
    believed = throughput_of_run({"house": before}, {"house": Worker(rates)})
    offered = offers([house], NOW, None, believed)
    written = np.full((NIGHT, 1), WRITTEN, np.float32)
    return float(hours_matrix(offered, [np.full(NIGHT, READ, np.int32)], written).mean())


def usd(seconds: float) -> float:
    return seconds * float(USD_PER_HOUR) / 3600


@pytest.mark.parametrize("measured", [by_counters, by_answers])
@pytest.mark.parametrize(("most", "pilot"), [(256, 1500), (64, 400), (16, 200)])
def test_after_a_pilot_that_filled_a_worker_the_plan_believes_what_the_night_will_cost(
    measured: Any, most: int, pilot: int
) -> None:
    engine = BatchingEngine(most)
    wrong = Throughput(None, 1000.0, 50.0)
    rates = measured(engine, pilot)
    true = usd(engine.seconds_per_request)
    charged = usd(STARTUP_SECONDS + engine.now) / pilot
    assert charged > 1.5 * true, "what the pilot's own requests were charged is no guide"
    assert rates.full
    assert planned_usd(rates, wrong) == pytest.approx(true, rel=OFF)


@pytest.mark.parametrize("measured", [by_counters, by_answers])
@pytest.mark.parametrize("pilot", [20, 100, 180])
def test_a_pilot_that_never_filled_a_worker_leaves_the_plan_what_it_knew(measured: Any, pilot: int) -> None:
    engine = BatchingEngine(256)
    known = Throughput(None, 1e9, WRITTEN / engine.seconds_per_request)
    rates = measured(engine, pilot)
    thin = READ / rates.prefill_tokens_per_second + WRITTEN / rates.decode_tokens_per_second
    assert thin > (1 + OFF) * engine.seconds_per_request, "the pilot itself was slower, request by request"
    assert not rates.full
    assert planned_usd(rates, known) == pytest.approx(usd(engine.seconds_per_request), rel=0.02)


def test_a_servers_stretches_count_from_when_what_runs_is_as_mixed_as_what_ends() -> None:
    watch = AnswersWatch(10)
    for second in range(
        1, 100
    ):  # ten at a time, one answer a second; the first ten come at once, and tell nothing
        answers = 10 + second
        watch.told(float(second), Answered(answers, 100 * answers, 10 * answers), 10, 50)
    rates = watch.speed.rates("", "server")
    assert rates.full
    assert (rates.seconds, rates.prefill_tokens, rates.decode_tokens) == (50.0, 5000, 500)
    watch.told(100.0, Answered(109, 10900, 1090), 3, 0)
    assert watch.speed.rates("", "server").seconds == 88.0, "the rest, up to where it was full"


def test_time_in_which_a_server_is_asked_nothing_is_not_counted() -> None:
    watch = AnswersWatch(10)
    watch.told(0.0, Answered(), 0, 0)
    watch.told(10.0, Answered(5, 50, 5), 3, 0)
    watch.told(500.0, Answered(5, 50, 5), 0, 0)
    watch.told(510.0, Answered(9, 90, 9), 3, 0)
    assert (watch.speed.seconds, watch.speed.read, watch.speed.full) == (20.0, 90, False)
