"""Turns at an endpoint while Prefect's API is away. That runs wait for each other: test_serving."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from prefect import flow

from thirdshift.flows.orchestration import concurrency
from thirdshift.flows.orchestration.concurrency import EndpointSlots
from thirdshift.flows.orchestration.slot_holders import unheld


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
    assert said == ["busy: its slot cannot be asked for now (connection refused); asking again"]


def test_it_is_asked_for_until_the_deadline_or_until_the_run_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Away(10**9)
    monkeypatch.setattr("prefect.concurrency.sync.concurrency", away.concurrency)
    late = EndpointSlots(["busy"], datetime.now(UTC) + timedelta(seconds=0.1), lambda _: None)
    with late.of("busy"):
        assert away.asked > 1
    stopped = EndpointSlots(["busy"], None, lambda _: stopped.stop())
    with stopped.of("busy"):
        pass


def slots_of(name: str) -> int:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name(name).active_slots


def slot_without_lease(name: str) -> None:
    """A limit of one slot that is taken, as a server has it that was started anew: it knows of no lease."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
        client.increment_concurrency_slots([name], 1, "concurrency")
    assert slots_of(name) == 1


def running(limit: str) -> None:
    """A flow run that goes on and says that it holds the limit's slot."""
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    from thirdshift.flows.orchestration.slot_holders import mark

    with get_client(sync_client=True) as client:
        made = client.create_flow_run(a_night, state=Running())
    mark(made.id, limit, held=True)


@flow(name="night")
def a_night() -> None:
    pass


def test_a_slot_that_no_run_holds_is_taken_back_and_that_is_said(
    prefect_api: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(concurrency, "ASK_SECONDS", 0.2)
    monkeypatch.setattr(concurrency, "SILENT_SECONDS", 0.5)
    slot_without_lease("thirdshift-orphan")
    messages: list[str] = []
    with EndpointSlots(["orphan"], None, messages.append).of("orphan"):
        assert slots_of("thirdshift-orphan") == 1, "its own"
    said = "\n".join(messages)  # a busy server is asked for its slot again, and that is said too
    assert 0 <= said.find("waiting") < said.find("taken back")
    assert "LEASE_STORAGE" in said


def test_a_slot_whose_holder_is_alive_is_waited_for(
    prefect_api: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot_without_lease("thirdshift-held")
    running("thirdshift-held")
    assert unheld("thirdshift-held", timedelta(minutes=2)) == 0
    assert unheld("thirdshift-held", timedelta(0)) == 1, "one that has told nothing for so long is dead"
    monkeypatch.setattr(concurrency, "ASK_SECONDS", 0.2)
    messages: list[str] = []
    with EndpointSlots(["held"], datetime.now(UTC) + timedelta(seconds=2), messages.append).of("held"):
        assert len(messages) == 1, "waited until its deadline"
    assert slots_of("thirdshift-held") == 1
