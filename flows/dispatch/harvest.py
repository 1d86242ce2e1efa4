"""`on_deadline: realtime`: batches that will not be done in time are cut short, and their rest is sent in real time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import inf
from typing import Protocol, runtime_checkable

from thirdshift.flows.planning.tiers import realtime_counterparts
from thirdshift.router.expiry import keeps_on_cancel, window_seconds
from thirdshift.router.harvest import harvest_at, requests_per_second, turnaround_seconds
from thirdshift.router.interfaces import Engine, Ticket
from thirdshift.router.tiers import BatchHistory
from thirdshift.router.values import Endpoint, Mode
from thirdshift.warehouse.store.store import Warehouse
from thirdshift.world import REAL, World

LOOK_SECONDS = 1.0
"""How often it is asked whether the moment has come."""

CALLS = """
-- nine of ten calls took no longer
select endpoint, quantile_cont(epoch(settled_at) - epoch(started_at), 0.9) as seconds
from ledger where mode <> 'batch' and status = 'settled' and settled_at >= started_at group by endpoint
"""
BATCHES = """
-- undone: cut short, expired or lost (one in twenty of its requests or more not run, or booked without an answer): it
-- would have taken longer than the time that it was given. What was refused at once is no batch
select endpoint, count(*) filter (status <> 'settled') * 20 >= count(*) as undone,
       epoch(max(settled_at)) - epoch(min(started_at)) as seconds
from ledger where mode = 'batch' and status in ('settled', 'void', 'unsettled') group by run_id, shard_id, endpoint
having count(*) filter (status <> 'void') > 0 or seconds >= 3600
"""


@runtime_checkable
class CanHarvest(Protocol):
    """An engine whose shards can be cut short."""

    def harvest(self, ticket: Ticket) -> None: ...


@dataclass(frozen=True, slots=True)
class Watched:
    engine: Engine
    ticket: Ticket
    endpoint: str
    began: datetime


@dataclass(frozen=True, slots=True)
class Successor:
    """Who answers what the batches of an endpoint leave."""

    endpoint: str
    requests_per_second: float
    keeps: bool = True
    """A batch that is cancelled leaves what is done."""


class Harvest:
    """Looks at the batches under way, and cuts those of an endpoint short when their moment has come."""

    def __init__(self, deadline: datetime, rest: Mapping[str, Successor], world: World = REAL) -> None:
        """`rest`: batch endpoint → who answers what it leaves."""
        self.closed: set[str] = set()
        """Endpoints that are sent no more batches."""
        self._deadline, self._rest, self._world = deadline, rest, world
        self._watched: dict[str, Watched] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._stop_looking: Callable[[], None] | None = None

    def watch(self, engine: Engine, ticket: Ticket, endpoint: str, began: datetime) -> None:
        if endpoint not in self._rest or not isinstance(engine, CanHarvest):
            return
        with self._lock:
            self._watched[ticket.key] = Watched(engine, ticket, endpoint, began)
            if endpoint in self.closed:
                engine.harvest(ticket)
            if self._stop_looking is None and not self._closed:
                self._stop_looking = self._world.repeat("harvest", LOOK_SECONDS, self._look_now)

    def close(self) -> None:
        self._closed = True
        if self._stop_looking is not None:
            self._stop_looking()

    def _look_now(self) -> None:
        with self._lock:
            self._look(self._world.now())

    def _look(self, now: datetime) -> None:
        left: dict[str, int] = {}
        for key, watched in list(self._watched.items()):
            progress = watched.engine.progress(watched.ticket)
            if progress.finished:
                del self._watched[key]
            else:
                successor, rest = self._rest[watched.endpoint], progress.total - progress.done
                # what is done of a batch that loses it when cancelled is to be done again
                rest = rest if successor.keeps else max(rest, progress.in_flight)
                left[successor.endpoint] = left.get(successor.endpoint, 0) + rest
        for watched in self._watched.values():
            successor = self._rest[watched.endpoint]
            waiting = left[successor.endpoint]
            moment = harvest_at(watched.began, self._deadline, waiting, successor.requests_per_second)
            if now >= moment and watched.endpoint not in self.closed:
                self._cut_short(watched.endpoint)

    def _cut_short(self, endpoint: str) -> None:
        self.closed.add(endpoint)
        for watched in self._watched.values():
            if watched.endpoint == endpoint and isinstance(watched.engine, CanHarvest):
                watched.engine.harvest(watched.ticket)


def harvest_of(
    endpoints: Sequence[Endpoint], deadline: datetime | None, warehouse: Warehouse, world: World = REAL
) -> Harvest | None:
    """Make the harvest of a run; None where no deadline ends it, or nothing could answer the rest."""
    others = [
        e
        for e, endpoint in enumerate(endpoints)
        if endpoint.mode is Mode.REALTIME and endpoint.workers is None
    ]
    if deadline is None or not others:
        return None
    seconds_by_endpoint = {row["endpoint"]: row["seconds"] for row in warehouse.query(CALLS).to_pylist()}
    rates = [
        requests_per_second(endpoint.limits, seconds_by_endpoint.get(endpoint.name)) for endpoint in endpoints
    ]
    fastest = max(others, key=lambda e: rates[e])
    rest = {}
    for tier, realtime_counterpart in zip(endpoints, realtime_counterparts(endpoints).tolist(), strict=True):
        taker = fastest if realtime_counterpart < 0 else realtime_counterpart
        rest[tier.name] = Successor(endpoints[taker].name, rates[taker], keeps_on_cancel(tier.tier))
    return Harvest(deadline, rest, world)


def with_turnarounds(
    endpoints: Sequence[Endpoint], warehouse: Warehouse | None, *, cut_short: bool
) -> tuple[Endpoint, ...]:
    """Batch tiers with what their earlier batches tell, of turnarounds where none is stated. `cut_short`: late ones will
    be."""
    history: dict[str, list[float]] = {}
    for row in warehouse.query(BATCHES).to_pylist() if warehouse is not None else ():
        history.setdefault(row["endpoint"], []).append(inf if row["undone"] else row["seconds"])
    return tuple(
        with_history(endpoint, history.get(endpoint.name, ()), cut_short=cut_short)
        if endpoint.mode is Mode.BATCH
        else endpoint
        for endpoint in endpoints
    )


def with_history(endpoint: Endpoint, took: Sequence[float], *, cut_short: bool) -> Endpoint:
    """A batch endpoint with what its earlier batches took; endless: they left their work undone."""
    stated = endpoint.turnaround_seconds is not None
    known = replace(endpoint, batches=BatchHistory(tuple(took), stated))
    if stated:
        return known
    window = window_seconds(endpoint.tier)
    ended = [window if one == inf else one for one in took]
    seconds = turnaround_seconds(ended, cut_short=cut_short, window=window)
    return replace(known, turnaround_seconds=seconds)
