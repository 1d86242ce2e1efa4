"""What earlier nights of the same job tell of this one: how long answers are, and how tokens are counted there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from router.outputs import Observed
from router.values import Endpoint
from warehouse.store import Warehouse

MOST = 20_000
"""The newest answers; older ones say little more, and models change."""

TAUGHT = f"""
select q.task, l.endpoint, l.input_tokens, l.output_tokens, a.input_tokens as estimated
from ledger l
join runs r using (run_id)
join requests q using (run_id, request_id)
left join assignments a on a.run_id = l.run_id and a.request_id = l.request_id and a.endpoint = l.endpoint
where r.job = $job and l.run_id <> $run_id and l.status = 'settled' and l.output_tokens is not null
  and l.purpose in ('pilot', 'main', 'audit', 'repair')
  and (l.endpoint || ' ' || l.model) in (select unnest($endpoints))
order by l.settled_at desc
limit {MOST}
"""
"""An endpoint whose name now means another model has no past."""


@dataclass(frozen=True, slots=True)
class Past:
    """Answers of earlier nights: columns of one length."""

    lengths: Observed
    endpoint: NDArray[np.int32]
    input_tokens: NDArray[np.float64]
    """As the provider counted them."""
    estimated: NDArray[np.float64]
    """As we had; NaN where the plan had the request elsewhere."""

    def counted(self, endpoint: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(estimated, actual) input tokens on one endpoint."""
        mine = (self.endpoint == endpoint) & np.isfinite(self.estimated)
        return self.estimated[mine], self.input_tokens[mine]


def past_nights(
    path: Path, job: str, run_id: str, endpoints: Sequence[Endpoint], tasks: Sequence[str]
) -> Past | None:
    """None where there are none. Tasks that tonight's batch has not are left out."""
    if not path.exists():
        return None
    with Warehouse.open(path) as warehouse:
        found = warehouse.query(
            TAUGHT, job=job, run_id=run_id, endpoints=[f"{each.name} {each.model}" for each in endpoints]
        )
    task = np.asarray(pc.fill_null(pc.index_in(found["task"], value_set=pa.array(tasks, pa.string())), -1))
    names = pa.array([each.name for each in endpoints], pa.string())
    endpoint = np.asarray(pc.fill_null(pc.index_in(found["endpoint"], value_set=names), -1))
    known = (task >= 0) & (endpoint >= 0)
    if not known.any():
        return None
    task, endpoint = task[known].astype(np.int32), endpoint[known].astype(np.int32)
    columns = {
        name: np.asarray(found[name].cast(pa.float64()), np.float64)[known]
        for name in ("input_tokens", "output_tokens", "estimated")
    }
    uncut = np.full(len(task), np.iinfo(np.int32).max)  # the ceilings of those nights are not kept
    lengths = Observed(task, endpoint, columns["output_tokens"].astype(np.int64), uncut)
    return Past(lengths, endpoint, columns["input_tokens"], columns["estimated"])
