"""The table `ledger`: what a run, and a job within its budget window, have cost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from thirdshift.warehouse.errors import StoreError
from thirdshift.warehouse.store.store import Warehouse

BOTH = """
select coalesce(sum(l.cost_usd) filter (where l.status not in ('unsettled', 'reserved')), 0) as settled_usd,
       coalesce(sum(l.cost_usd) filter (where l.status in ('unsettled', 'reserved')), 0) as unsettled_usd
"""
SPENDING = f"{BOTH} from ledger l where l.run_id = $run_id"

SPENT_SINCE = f"""
{BOTH} from ledger l join runs r using (run_id)
where r.job = $job and l.started_at >= $since and l.run_id is distinct from $but_run
  and coalesce(json_extract_string(r.config, '/emulated'), 'false') = $emulated::varchar
"""


@dataclass(frozen=True, slots=True)
class Spending:
    """What runs have cost: for certain, and what more it can be."""

    settled_usd: Decimal
    unsettled_usd: Decimal
    """At most, of attempts whose outcome was never learnt, or of batches that no process waits for."""

    @property
    def most_usd(self) -> Decimal:
        """What it is at most: what a cap must have room for."""
        return self.settled_usd + self.unsettled_usd


def spending(warehouse: Warehouse, run_id: str) -> Spending:
    """What a run has cost, US dollars: settled, and at most unsettled besides."""
    (row,) = warehouse.query(SPENDING, run_id=run_id).to_pylist()
    return Spending(row["settled_usd"], row["unsettled_usd"])


def spent_in_window(
    warehouse: Warehouse,
    job: str,
    window: str,
    now: datetime,
    *,
    but_run: str | None = None,
    emulated: bool = False,
) -> Spending:
    """What all runs of `job` have cost since this `day` or `month` began, in the time zone of `now`.

    `but_run` leaves one run out (the caller's own, whose budget counts it); rehearsals count rehearsals only
    (`emulated`). What other live processes have not ingested yet is not in it. Raises StoreError: another `window`.
    """
    start = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if window == "month":
        start = start.replace(day=1)
    elif window != "day":
        raise StoreError(f'a budget window is "day" or "month", not "{window}"')
    since = start.astimezone(UTC)
    (row,) = warehouse.query(
        SPENT_SINCE, job=job, since=since, but_run=but_run, emulated=emulated
    ).to_pylist()
    return Spending(row["settled_usd"], row["unsettled_usd"])
