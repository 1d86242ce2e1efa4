"""The tables `assignments`, `shards` and `workers`: what was planned, what was sent, and what local workers cost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import pyarrow as pa

from thirdshift.warehouse.store.store import Warehouse


def save_assignments(warehouse: Warehouse, assignments: pa.Table) -> None:
    """Put in assignments instead of those of the same requests."""
    warehouse.replace("assignments", assignments, ["run_id", "request_id"])


SENT = """
update assignments set shard_id = sent.shard_id
from (
    select a.request_id, coalesce(
        min(l.shard_id) filter (l.endpoint = a.endpoint and l.purpose = 'main'),
        min(l.shard_id) filter (l.endpoint = a.endpoint),
        min(l.shard_id) filter (l.purpose = 'main')
    ) as shard_id
    from ledger l
    join requests leader on leader.run_id = l.run_id and leader.request_id = l.request_id
    join requests q on q.run_id = l.run_id and q.leader = leader.row
    join assignments a on a.run_id = q.run_id and a.request_id = q.request_id
    where l.run_id = $run_id and l.purpose in ('pilot', 'main')
    group by all
) sent
where assignments.run_id = $run_id and assignments.request_id = sent.request_id
"""
"""A duplicate goes with the first of its kind. What the pilot had asked of the planned endpoint is not sent again; nor is
what had gone elsewhere before this plan was made, by an earlier process or to tell lengths."""


def name_shards(warehouse: Warehouse, run_id: str) -> None:
    """Enter for each assignment the shard with which its request went to the planned endpoint, or else first went out."""
    warehouse.execute(SENT, run_id=run_id)


def save_shards(warehouse: Warehouse, shards: pa.Table) -> None:
    """Put in shards instead of those of the same ids."""
    warehouse.replace("shards", shards, ["run_id", "shard_id"])


def save_workers(warehouse: Warehouse, workers: pa.Table) -> None:
    """Put in workers instead of those of the same ids."""
    warehouse.replace("workers", workers, ["run_id", "worker_id"])


@dataclass(frozen=True, slots=True)
class TimePaid:
    """Time of a worker that is paid for, whoever uses it."""

    endpoint: str
    since: datetime
    until: datetime | None
    """None: as long as `usd` pays for at the endpoint's price, from `since` on."""
    usd: Decimal


AHEAD = """
select endpoint, started_at as since, paid_until as until, cost_usd as usd
from workers where run_id = $run_id and paid_until > $now
union all
select endpoint, started_at, null, reserved_usd from ledger
where run_id = $run_id and purpose = 'overhead' and status in ('unsettled', 'reserved') and reserved_usd > 0
"""
"""A process that was killed leaves its leases unsettled, at their whole price; others say until when they have paid."""


def paid_ahead(warehouse: Warehouse, run_id: str, now: datetime) -> list[TimePaid]:
    """Return what earlier processes of a run have paid for of their workers' time that may not be over."""
    return [TimePaid(**row) for row in warehouse.query(AHEAD, run_id=run_id, now=now).to_pylist()]
