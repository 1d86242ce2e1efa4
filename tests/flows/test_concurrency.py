"""Turns at an endpoint while Prefect's API is away. That runs wait for each other: test_serving."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from thirdshift.flows.orchestration import concurrency
from thirdshift.flows.orchestration.concurrency import EndpointSlots


class Away:
    """Prefect's limit, whose API does not answer the first `refusals` questions, nor when a slot is given back."""

    def __init__(self, refusals: int) -> None:
        self.refusals, self.asked, self.released = refusals, 0, 0

    @contextmanager
    def concurrency(self, name: str, **terms: float) -> Iterator[None]:
        self.asked += 1
        if self.asked <= self.refusals:
            raise httpx.ConnectError("connection refused")
        yield
        self.released += 1
        raise httpx.ReadTimeout("no answer")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "AGAIN_SECONDS", 0.01)


def test_a_turn_is_asked_for_again_until_prefect_answers_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    away, said = Away(3), list[str]()
    monkeypatch.setattr("prefect.concurrency.sync.concurrency", away.concurrency)
    ours = EndpointSlots(["busy"], None, said.append)
    for asked in (4, 5):
        with ours.of("busy"), ours.of("busy"):
            assert (away.asked, away.released) == (asked, asked - 4)
    assert away.released == 2, "a slot that could not be given back fails no shard"
    assert said == ["busy: its turn cannot be asked for now (connection refused); asking again"]


def test_it_is_asked_for_until_the_deadline_or_until_the_run_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Away(10**9)
    monkeypatch.setattr("prefect.concurrency.sync.concurrency", away.concurrency)
    late = EndpointSlots(["busy"], datetime.now(UTC) + timedelta(seconds=0.1), lambda _: None)
    with late.of("busy"):
        assert away.asked > 1
    stopped = EndpointSlots(["busy"], None, lambda _: stopped.stop())
    with stopped.of("busy"):
        pass
