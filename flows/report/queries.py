"""The report's queries: SQL text with `$run_id` bound; every answer is a handful of rows."""

from __future__ import annotations

from thirdshift.warehouse.exchange.publish import CERTIFICATE_ID

SHOWN = 8
"""How many of the slowest and of the dearest requests are shown."""
MOMENTS = 120
"""Points of the curve of spend: more cannot be distinguished on the page."""

RUN = "select * from runs where run_id = $run_id"

RUNS = "select run_id from runs where $run_id is not null order by started_at desc limit 5"

COUNTS = """
select
    (select count(*) from requests where run_id = $run_id) as requests,
    (select count(*) from requests where run_id = $run_id and row <> leader) as duplicates,
    (select count(distinct task) from requests where run_id = $run_id) as tasks,
    (select count(*) from rejects where run_id = $run_id) as rejects,
    (select count(*) from results where run_id = $run_id) as results,
    (select count(*) from results
     where run_id = $run_id and (error is not null or not coalesce(valid, true))) as errors,
    (select count(*) from results where run_id = $run_id and reused_from is not null) as reused,
    (select count(distinct request_id) from responses
     where run_id = $run_id and reply = 'answer' and purpose <> 'judge') as replied,
    (select avg(score) from results where run_id = $run_id) as mean_score,
    (select count(score) from results where run_id = $run_id) as scored,
    (select coalesce(sum(cost_usd), 0) from ledger
     where run_id = $run_id and status not in ('unsettled', 'reserved')) as spent_usd,
    (select coalesce(sum(cost_usd_at_most), 0) from unsettled where run_id = $run_id) as unsettled_usd,
    (select count(*) from unsettled where run_id = $run_id) as unsettled
"""

BILL = """
with looked as (
    select endpoint, avg(score) as score, count(*) as scored
    from observations where run_id = $run_id and purpose = 'pilot' group by endpoint)
select s.endpoint, s.alone_usd, s.saved_usd, s.saved_usd_at_least, s.requests, s.basis, l.score, l.scored
from savings s left join looked l using (endpoint)
where s.run_id = $run_id order by s.alone_usd desc nulls last, s.endpoint
"""

CERTIFICATES = f"""
select {CERTIFICATE_ID} as certificate_id, task, floor, confidence, basis, scorer, population, requests, scored,
       mean, lower_bound, certified, method, issued_at
from certificates where run_id = $run_id order by task nulls first, issued_at desc
"""

SERVED = """
select endpoint, task, count(*) as requests, avg(score) as score, count(score) as scored,
       count(*) filter (where error is not null or not coalesce(valid, true)) as errors
from results where run_id = $run_id group by all order by requests desc, endpoint, task
"""

SPEND = """
select endpoint, mode, purpose, attempts, attempts_unsettled, input_tokens, cached_tokens, output_tokens,
       settled_usd, unsettled_usd, cost_usd
from spend_by_endpoint where run_id = $run_id order by cost_usd desc, endpoint, purpose
"""

SPEND_BY_TASK = """
select coalesce(task, '') as task, endpoint, sum(cost_usd) as cost_usd,
       coalesce(sum(cost_usd) filter (where status not in ('unsettled', 'reserved')), 0) as settled_usd,
       coalesce(sum(cost_usd) filter (where status in ('unsettled', 'reserved')), 0) as unsettled_usd
from ledger where run_id = $run_id group by all having sum(cost_usd) > 0 order by cost_usd desc, task, endpoint
"""
"""An empty task: what belongs to no request."""

TIMES = """
select endpoint, count(*) as requests,
       quantile_cont(seconds, 0.5) as median, quantile_cont(seconds, 0.95) as slow, max(seconds) as slowest
from (select endpoint, epoch(settled_at) - epoch(started_at) as seconds from ledger
      where run_id = $run_id and request_id is not null and settled_at is not null and status = 'settled')
group by endpoint order by endpoint
"""

SHARDS = """
select shard_id, endpoint, purpose, requests, status, started_at, finished_at
from shards where run_id = $run_id and started_at is not null order by started_at, shard_id
"""

WORKERS = """
select worker_id, endpoint, node, device, started_at, ready_at, stopped_at, cost_usd, accounting_usd
from workers where run_id = $run_id order by started_at, worker_id
"""

SPENT_OVER_TIME = f"""
with paid as (
    select settled_at, cost_usd from ledger where run_id = $run_id and settled_at is not null and cost_usd > 0
          and status = 'settled'),
span as (select min(settled_at) as first, greatest(epoch(max(settled_at)) - epoch(min(settled_at)), 1e-3) as seconds
         from paid),
steps as (
    select least(floor((epoch(settled_at) - epoch(first)) / seconds * {MOMENTS})::integer, {MOMENTS}) as step,
           max(settled_at) as moment, sum(cost_usd) as usd
    from paid, span group by step)
select moment, sum(usd) over (order by step) as spent_usd from steps order by step
"""

ESTIMATES = """
with paid as (
    select l.request_id, sum(l.cost_usd) as cost_usd,
           max(l.input_tokens) filter (where l.endpoint = a.endpoint) as input_tokens,
           max(l.output_tokens) filter (where l.endpoint = a.endpoint) as output_tokens
    from ledger l join assignments a on a.run_id = l.run_id and a.request_id = l.request_id
    where l.run_id = $run_id and l.purpose in ('main', 'repair', 'vote') and l.status = 'settled' group by all)
select a.endpoint, a.task, count(*) as requests,
       sum(a.input_tokens) filter (where p.input_tokens is not null) as input_tokens_estimated,
       sum(p.input_tokens) as input_tokens_actual,
       sum(a.output_tokens) filter (where p.output_tokens is not null) as output_tokens_estimated,
       sum(p.output_tokens) as output_tokens_actual,
       sum(a.predicted_usd) as predicted_usd, sum(p.cost_usd) as cost_usd
from assignments a join paid p using (request_id)
where a.run_id = $run_id
group by all order by cost_usd desc, endpoint, task
"""
"""What the plan had yet to send, with second answers and what was sent on, whoever was asked. To the plan an answer held
from the pilot costs nothing (so `estimate_vs_actual`, which counts what the pilot paid, is no test of it)."""

FAILED_ATTEMPTS = """
with failed as (
    select r.failure_kind as cause, r.endpoint, r.request_id, r.entry_id, r.message
    from responses r where r.run_id = $run_id and r.reply = 'failure'
    union all
    -- attempts that were tried again at once leave no reply, only what became of their money
    select case l.status when 'void' then 'error, not billed' else 'outcome never learnt' end, l.endpoint, l.request_id,
           l.entry_id, null
    from ledger l
    where l.run_id = $run_id and l.status in ('void', 'unsettled') and l.request_id is not null
      and l.entry_id not in (select entry_id from responses where run_id = $run_id))
select f.cause, f.endpoint, count(*) as attempts, count(distinct f.request_id) as requests,
       count(distinct f.request_id) filter (where s.request_id is not null) as answered,
       coalesce(sum(l.cost_usd), 0) as cost_usd, any_value(f.message order by f.request_id) as example
from failed f
left join ledger l on l.run_id = $run_id and l.entry_id = f.entry_id
left join (select request_id from results where run_id = $run_id and error is null) s on s.request_id = f.request_id
group by all order by attempts desc, cause, endpoint
"""

UNANSWERED = """
with faults as (
    select request_id, coalesce(error, 'invalid: the answer does not satisfy response_schema') as error from results
    where run_id = $run_id and (error is not null or not coalesce(valid, true)))
select split_part(error, ':', 1) as cause, count(*) as requests, min(request_id) as first_id,
       any_value(error order by request_id) as example
from faults group by cause order by requests desc, cause limit 30
"""

REJECTED = """
select reason, count(*) as "rows", min(source_row) as first_row, min(request_id) as first_id
from rejects where run_id = $run_id group by reason order by "rows" desc, reason limit 30
"""

BROKEN_SHARDS = """
select count(*) as shards, coalesce(sum(requests), 0)::bigint as requests
from shards where run_id = $run_id and status = 'failed'
"""

SLOWEST = f"""
select request_id, endpoint, purpose, attempt, epoch(settled_at) - epoch(started_at) as seconds,
       input_tokens, output_tokens, cost_usd
from ledger
where run_id = $run_id and request_id is not null and settled_at is not null and status in ('settled', 'unsettled')
order by seconds desc, request_id, entry_id limit {SHOWN}
"""

DEAREST = f"""
select request_id, string_agg(distinct endpoint, ', ' order by endpoint) as endpoint, count(*) as attempts,
       sum(input_tokens) as input_tokens, sum(output_tokens) as output_tokens, sum(cost_usd) as cost_usd
from ledger where run_id = $run_id and request_id is not null
group by request_id order by cost_usd desc, request_id limit {SHOWN}
"""

PRICES = """
select p.endpoint, p.model, p.mode, p.input_usd_per_mtok, p.output_usd_per_mtok, p.cached_usd_per_mtok,
       p.usd_per_hour, p.source, p.as_of
from (select distinct endpoint, price_id from run_prices where run_id = $run_id) r
join (select * from prices qualify row_number() over (partition by price_id order by valid_from desc nulls last) = 1) p
    using (price_id)
order by p.endpoint, p.model, p.mode
"""

EMULATED = """
select distinct endpoint from ledger where run_id = $run_id and model_reported like 'emulated/%' order by endpoint
"""

TEXTS = """
select r.request_id, q.row, r.output, r.error
from results r join requests q using (run_id, request_id)
where run_id = $run_id and request_id in (select unnest($ids))
"""
"""Asked only with --texts."""
