"""The table `results`: what of all replies is served."""

from __future__ import annotations

import pyarrow as pa

from thirdshift.warehouse.errors import StoreError
from thirdshift.warehouse.store.store import Warehouse

SERVED = pa.schema([("row", pa.int64()), ("endpoint", pa.string()), ("error", pa.string())])

ANSWERS_REQUESTS = "purpose not in ('judge', 'overhead')"
"""Replies to the requests themselves; a judge's reply is about one."""

COMPOSE = f"""
insert into results by name
with told as (
    select s.row as served_row, r.* exclude (row) from served s
    join responses r on r.row = s.row
    where r.run_id = $run_id and r.{ANSWERS_REQUESTS} and (r.endpoint = s.endpoint or s.endpoint is null)
    qualify row_number() over (
        partition by s.row
        order by r.reply nulls last, coalesce(r.valid, true) desc, r.settled_at desc, r.entry_id) = 1),
best as (
    select s.row, s.endpoint as wanted, s.error as unsent, t.* exclude (served_row)
    from served s left join told t on t.served_row = s.row),
sent as (
    select request_id, count(*) as attempts from ledger
    where run_id = $run_id and {ANSWERS_REQUESTS} group by request_id),
scored as (
    select request_id, endpoint, arg_max(score, observed_at) as score from observations
    where run_id = $run_id group by all)
select $run_id as run_id, q.request_id, q.task, coalesce(b.endpoint, b.wanted) as endpoint, b.model,
       b.output, b.reasoning, b.finish_reason, b.valid, b.logprobs, o.score,
       case when b.reply = 'answer' then null
            when b.reply = 'failure' then b.failure_kind || ': ' || b.message
            else coalesce(b.unsent, 'unanswered: no attempt at this request has an outcome') end as error,
       case when q.row = q.leader then coalesce(t.attempts, 0) else 0 end as attempts,
       b.settled_at as completed_at, b.reused_from, q.metadata, q.tag
from best b
join requests q on q.run_id = $run_id and q.leader = b.row
left join sent t on t.request_id = q.request_id
left join scored o on o.request_id = q.request_id and o.endpoint = coalesce(b.endpoint, b.wanted)
order by q.row
"""


def compose(warehouse: Warehouse, run_id: str, served: pa.Table) -> int:
    """Make the run's results anew from `served` (row, endpoint | null, optionally error): how many rows.

    Rows are leaders'; their duplicates get a copy with attempts 0. A null endpoint takes the last failure, whoever
    it came from; without any, `error` says why nothing was sent.
    """
    with warehouse.transaction():
        warehouse.execute("delete from results where run_id = $run_id", run_id=run_id)
        warehouse.execute(COMPOSE, {"served": _served(served)}, run_id=run_id)
    return warehouse.count("results", run_id)


def _served(table: pa.Table) -> pa.Table:
    """Return `served` with all its columns. Raises StoreError: a column is missing, or a row is named twice."""
    if "row" not in table.column_names or "endpoint" not in table.column_names:
        raise StoreError(f"served needs the columns row and endpoint, not {', '.join(table.column_names)}")
    if "error" not in table.column_names:
        table = table.append_column("error", pa.nulls(table.num_rows, pa.string()))
    table = table.select(SERVED.names).cast(SERVED)
    if len(table["row"].unique()) != table.num_rows:
        raise StoreError("served names a row more than once")
    return table
