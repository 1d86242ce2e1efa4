"""Results and scores as questions in SQL: what of all replies is served, and what still has no score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from thirdshift.warehouse.errors import StoreError
from thirdshift.warehouse.intake.sources import name, quoted

SERVED = pa.schema([("row", pa.int64()), ("endpoint", pa.string()), ("error", pa.string())])

ANSWERS_REQUESTS = "purpose not in ('judge', 'overhead')"
"""Replies to the requests themselves; a judge's reply is about one."""

ANSWERED = f"""
select r.row, r.endpoint, r.purpose, r.reply, r.failure_kind, r.valid, r.input_tokens, r.output_tokens,
       coalesce(l.cost_usd, 0)::decimal(18,9) as cost_usd
from responses r left join ledger l on l.run_id = r.run_id and l.entry_id = r.entry_id
where r.run_id = $run_id and r.{ANSWERS_REQUESTS}
order by r.row, r.endpoint, r.settled_at
"""

UNSCORED = """
with newest as (
    select * from responses where run_id = $run_id and {answers_requests}
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
"""`reply` sorts 'answer' before 'failure'. An observation older than the reply was of an earlier one."""

COMPOSE = f"""
insert into results by name
with best as (
    select s.row, s.endpoint as wanted, s.error as unsent, r.* exclude (row)
    from served s
    left join responses r on r.run_id = $run_id and r.row = s.row and r.{ANSWERS_REQUESTS}
        and (r.endpoint = s.endpoint or s.endpoint is null)
    qualify row_number() over (
        partition by s.row
        order by r.reply nulls last, coalesce(r.valid, true) desc, r.settled_at desc, r.entry_id) = 1),
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

PUBLISHED = """
update runs set published_at = greatest(published_at, (
    select max(o.published_at) + interval 1 microsecond from runs o
    where o.job is not distinct from runs.job and o.run_id <> runs.run_id))
where run_id = $run_id and published_at is not null
"""
"""Whoever reads `answers` by its watermark would miss a run that a clock set back has published before the last one."""

HISTORY = """
with used as (
    select run_id, request_id, endpoint, max(input_tokens) as input_tokens, max(output_tokens) as output_tokens,
           sum(cost_usd) as cost_usd
    from ledger where status = 'settled' and purpose <> 'judge' group by all)
select r.job, o.*, u.input_tokens, u.output_tokens, u.cost_usd
from observations o join runs r using (run_id) left join used u using (run_id, request_id, endpoint)
where ($job is null or r.job = $job) and ($since is null or o.observed_at >= $since)
order by o.observed_at, o.run_id, o.request_id, o.endpoint
"""


def served(table: pa.Table) -> pa.Table:
    """`served` with all its columns, each row once."""
    if "row" not in table.column_names or "endpoint" not in table.column_names:
        raise StoreError(f"served needs the columns row and endpoint, not {', '.join(table.column_names)}")
    if "error" not in table.column_names:
        table = table.append_column("error", pa.nulls(table.num_rows, pa.string()))
    table = table.select(SERVED.names).cast(SERVED)
    if len(table["row"].unique()) != table.num_rows:
        raise StoreError("served names a row more than once")
    return table


def unscored(frozen: str, columns: Sequence[str]) -> str:
    """The question whose rows `Warehouse.unscored` describes; `frozen` is the frozen input as a relation."""
    chosen = "".join(f", f.{name(column)}" for column in columns)
    return UNSCORED.format(frozen=frozen, columns=chosen, answers_requests=ANSWERS_REQUESTS)


def tag_expressions(tags: Mapping[str, str], charge_by: Sequence[str]) -> tuple[str, str]:
    """The tag of a run, and that of a request, as expressions: `team=support, customer=acme`; null without any."""
    pairs = [f"{key}={value}" for key, value in tags.items()]
    fixed = quoted(", ".join(pairs)) if pairs else "null"
    if not charge_by:
        return fixed, fixed
    own = [
        f"{quoted(key + '=')} || coalesce(json_extract_string(metadata, {quoted(pointer(key))}), 'none')"
        for key in charge_by
    ]
    return fixed, "concat_ws(', ', " + ", ".join([fixed, *own]) + ")"


def pointer(key: str) -> str:
    """A JSON pointer to one key, whatever it is made of."""
    return "/" + key.replace("~", "~0").replace("/", "~1")
