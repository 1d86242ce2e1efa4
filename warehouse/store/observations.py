"""The tables `observations` and `certificates`: scores of answers, and what they certify."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from thirdshift.warehouse.intake.sources import name
from thirdshift.warehouse.journal.run_folder import run_folder
from thirdshift.warehouse.store.results import ANSWERS_REQUESTS
from thirdshift.warehouse.store.store import Warehouse, frozen_parquet

UNSCORED = """
with fresh as (
    select distinct r.row, r.endpoint
    from responses r join requests q on q.run_id = r.run_id and q.leader = r.row
    where r.run_id = $run_id and {answers_requests} and not exists (
        select 1 from observations o
        where o.run_id = q.run_id and o.request_id = q.request_id and o.endpoint = r.endpoint
          and o.observed_at >= r.settled_at)),
newest as (
    select * from responses semi join fresh using (row, endpoint) where run_id = $run_id and {answers_requests}
    qualify row_number() over (
        partition by row, endpoint order by reply, coalesce(valid, true) desc, settled_at desc, entry_id) = 1)
select q.row, q.request_id, q.task, r.endpoint, r.model, r.purpose, r.reply, r.output, r.finish_reason, r.valid,
       r.failure_kind, r.settled_at{columns}
from newest r
join requests q on q.run_id = r.run_id and q.leader = r.row
join {frozen} f on f.row = q.row
where not exists (
    select 1 from observations o
    where o.run_id = q.run_id and o.request_id = q.request_id and o.endpoint = r.endpoint
      and o.observed_at >= r.settled_at)
order by q.row, r.endpoint
"""
"""`reply` sorts 'answer' before 'failure'. An observation older than the reply was of an earlier one. What is `fresh` is
found by keys alone, so that the texts of a long night are not sorted again with every shard."""


def append(warehouse: Warehouse, scores: pa.Table) -> None:
    """Append scored answers, by the contract's column names."""
    warehouse.append("observations", scores)


def unscored(
    warehouse: Warehouse, run_id: str, columns: Sequence[str] = ("reference", "response_schema")
) -> Iterator[pa.RecordBatch]:
    """Replies not scored yet, by row and endpoint, for every request (duplicates each with their own reference).

    Columns: row, request_id, task, endpoint, model, purpose, reply, output, finish_reason, valid, failure_kind,
    settled_at, and `columns` of the frozen input. A failure is among them until it is observed too.
    """
    frozen = frozen_parquet(run_folder(warehouse.path, run_id))
    chosen = "".join(f", f.{name(column)}" for column in columns)
    sql = UNSCORED.format(frozen=frozen, columns=chosen, answers_requests=ANSWERS_REQUESTS)
    yield from warehouse.stream(sql, run_id=run_id)


def save_certificates(warehouse: Warehouse, certificates: pa.Table) -> None:
    """Put in certificates instead of those that the same runs have by the same opinion; another's stay beside them."""
    warehouse.replace("certificates", certificates, ["run_id", "basis"])
