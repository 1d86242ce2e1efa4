"""Endpoints that have answered nothing they were asked: a model that is not there, a key that opens nothing.

One gets nothing more from this run's plan, nor from the next run of the job; the run after that tries it again. It is left
in where a request has nobody else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.planning.measured.run_queries import FinalReplies
from thirdshift.router.values import Endpoint
from thirdshift.warehouse.store.store import Warehouse

FEWEST = 5
"""Requests that an endpoint must have failed at, and answered none."""

SILENT_BEFORE = f"""
with last as (
    select run_id from runs where job = $job and run_id <> $run_id
      and coalesce(json_extract_string(config, '/emulated'), 'false') = $emulated
    order by started_at desc limit 1)
select r.endpoint from responses r join last using (run_id)
where r.purpose <> 'judge' and (r.endpoint || ' ' || r.model) in (select unnest($endpoints))
  and (r.reply = 'answer' or r.failure_kind not in ('budget', 'deadline', 'cancelled', 'expired'))
group by 1 having count(*) filter (r.reply = 'answer') = 0 and count(distinct r.row) >= {FEWEST} order by 1
"""


def silent_before(
    warehouse: Warehouse, job: str, run_id: str, endpoints: Sequence[Endpoint], *, emulated: bool
) -> list[int]:
    """Return the positions of the endpoints that answered nothing in the job's last run."""
    known = [f"{endpoint.name} {endpoint.model}" for endpoint in endpoints]
    rows = warehouse.query(
        SILENT_BEFORE, None, job=job, run_id=run_id, emulated=str(emulated).lower(), endpoints=known
    )
    names = [endpoint.name for endpoint in endpoints]
    return [names.index(name) for name in rows["endpoint"].to_pylist()]


def silent_so_far(replies: FinalReplies, endpoints: int) -> list[int]:
    """Return the positions of the endpoints that have answered nothing in this run."""
    asked = np.bincount(replies.endpoint, minlength=endpoints)
    answered = np.bincount(replies.endpoint[replies.answered], minlength=endpoints)
    return np.flatnonzero((answered == 0) & (asked >= FEWEST)).tolist()


def leave_out(allowed: NDArray[np.bool_], silent: Sequence[int]) -> list[int]:
    """Forbid these endpoints in `allowed` ([leaders, endpoints], changed in place), each where every request that it may
    answer has another. Returns those that are forbidden now and were not before."""
    gone = []
    for endpoint in silent:
        of_endpoint = allowed[:, endpoint]
        others = np.delete(allowed, endpoint, axis=1)
        if of_endpoint.any() and others[of_endpoint].any(axis=1).all():
            allowed[:, endpoint] = False
            gone.append(endpoint)
    return gone
