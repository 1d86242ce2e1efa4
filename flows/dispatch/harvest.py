"""`on_deadline: realtime`: batches that will not be done in time are cut short, and their rest is sent in real time."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

from thirdshift.flows.planning.tiers import realtime_counterparts
from thirdshift.router.harvest import harvest_at, requests_per_second, turnaround_seconds
from thirdshift.router.interfaces import Engine, Ticket
from thirdshift.router.values import Endpoint, Mode
from thirdshift.warehouse.store.store import Warehouse

LOOK_SECONDS = 1.0
"""How often it is asked whether the moment has come."""

CALLS = """
-- nine of ten calls took no longer
select endpoint, quantile_cont(epoch(settled_at) - epoch(started_at), 0.9) as seconds
from ledger where mode <> 'batch' and status = 'settled' and settled_at >= started_at group by endpoint
"""
BATCHES = """
-- one that was cut short or expired (one in twenty of its requests or more not run) would have taken a day, not the
-- time that it was given
select endpoint, case when count(*) filter (status = 'void') * 20 >= count(*) then 86400
                      else epoch(max(settled_at)) - epoch(min(started_at)) end as seconds
from ledger where mode = 'batch' and status in ('settled', 'void') group by run_id, shard_id, endpoint
having count(*) filter (status = 'settled') > 0
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


class Harvest:
    """Looks at the batches under way, and cuts those of an endpoint short when their moment has come."""

    def __init__(self, deadline: datetime, rest: Mapping[str, tuple[str, float]]) -> None:
        """`rest`: batch endpoint → the endpoint that answers what it leaves, and that one's requests per second."""
        self.closed: set[str] = set()
        """Endpoints that are sent no more batches."""
        self._deadline, self._rest = deadline, rest
        self._watched: dict[str, Watched] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, engine: Engine, ticket: Ticket, endpoint: str, began: datetime) -> None:
        if endpoint not in self._rest or not isinstance(engine, CanHarvest):
            return
        with self._lock:
            self._watched[ticket.key] = Watched(engine, ticket, endpoint, began)
            if endpoint in self.closed:
                engine.harvest(ticket)
            if (self._thread is None or not self._thread.is_alive()) and not self._over.is_set():
                self._thread = threading.Thread(target=self._look_often, name="harvest", daemon=True)
                self._thread.start()

    def close(self) -> None:
        self._over.set()

    def _look_often(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            with self._lock:
                self._look(datetime.now(UTC))

    def _look(self, now: datetime) -> None:
        left: dict[str, int] = {}
        for key, watched in list(self._watched.items()):
            progress = watched.engine.progress(watched.ticket)
            if progress.finished:
                del self._watched[key]
            else:
                taker = self._rest[watched.endpoint][0]
                left[taker] = left.get(taker, 0) + progress.total - progress.done
        for watched in self._watched.values():
            taker, per_second = self._rest[watched.endpoint]
            moment = harvest_at(watched.began, self._deadline, left[taker], per_second)
            if now >= moment and watched.endpoint not in self.closed:
                self._cut_short(watched.endpoint)

    def _cut_short(self, endpoint: str) -> None:
        self.closed.add(endpoint)
        for watched in self._watched.values():
            if watched.endpoint == endpoint and isinstance(watched.engine, CanHarvest):
                watched.engine.harvest(watched.ticket)


def harvest_of(
    endpoints: Sequence[Endpoint], deadline: datetime | None, warehouse: Warehouse
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
        rest[tier.name] = (endpoints[taker].name, rates[taker])
    return Harvest(deadline, rest)


def with_turnarounds(
    endpoints: Sequence[Endpoint], warehouse: Warehouse | None, *, cut_short: bool
) -> tuple[Endpoint, ...]:
    """Batch tiers that state no turnaround, with what their earlier batches tell. `cut_short`: late ones will be."""
    seconds_by_endpoint: dict[str, list[float]] = {}
    for row in warehouse.query(BATCHES).to_pylist() if warehouse is not None else ():
        seconds_by_endpoint.setdefault(row["endpoint"], []).append(row["seconds"])
    return tuple(
        replace(
            endpoint,
            turnaround_seconds=turnaround_seconds(
                seconds_by_endpoint.get(endpoint.name, ()), cut_short=cut_short
            ),
        )
        if endpoint.mode is Mode.BATCH and endpoint.turnaround_seconds is None
        else endpoint
        for endpoint in endpoints
    )
