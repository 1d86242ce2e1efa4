"""The contract's views as SQL text. They are made anew with every schema, so they have no migrations.

Charge-back: `direct_usd` is what main and repair attempts of a tag's requests cost; pilot, audit, judge and overhead
are spread over the run's answered requests by count (a request that cost much did not make the pilot dearer); what is
unsettled stands apart, at its most. The three add up to the ledger, to the last place. `accounting_usd`, for hardware
that is paid already, is spread like overhead and is in no ledger.

Savings: what an endpoint alone would have cost for the requests that this run paid for; answers reused from earlier
runs are apart. Spent is what is settled; unsettled attempts can have cost `unsettled_usd` more. Where the pilot, a
uniform sample, asked the endpoint 30 times or more, that is the mean it paid there; otherwise the tokens of the answers
served, at the endpoint's price.
"""

from __future__ import annotations

VIEWS = """
create or replace view answers as
    with published as (
        select run_id, job, published_at, row_number() over (order by published_at, started_at, run_id) as nth
        from runs where published_at is not null),
    latest as (
        select p.job, a.request_id, max(p.nth) as nth
        from results a join published p using (run_id) where a.error is null group by all),
    -- an answer that was reused is no newer than the run that first published it, as long as no other stood between
    reused as (
        select distinct p.job, a.request_id
        from results a join published p using (run_id) where a.error is null and a.reused_from is not null),
    told as (
        select p.job, a.request_id, p.nth, p.published_at,
               hash(a.endpoint, a.model, a.output, a.completed_at, a.score, a.task, a.metadata) as answer
        from results a join published p using (run_id) join reused using (job, request_id) where a.error is null),
    changes as (
        select *, (lag(answer) over (partition by job, request_id order by nth) is distinct from answer)::integer as change
        from told),
    versions as (
        select *, sum(change) over (partition by job, request_id order by nth) as version from changes),
    firsts as (
        select job, request_id, nth, min(published_at) over (partition by job, request_id, version) as loaded_at
        from versions)
    select p.job, a.run_id, a.request_id, a.task, a.endpoint, a.model, a.output, a.valid, a.score, a.finish_reason,
           a.completed_at, a.reused_from, a.metadata, coalesce(f.loaded_at, p.published_at) as loaded_at
    from results a join published p using (run_id) join latest using (job, request_id, nth)
    left join firsts f using (job, request_id, nth)
    where a.error is null and a.output is not null;

create or replace view unsettled as
    select l.run_id, r.job, l.entry_id, l.request_id, l.shard_id, l.endpoint, l.provider, l.purpose, l.attempt,
           l.status, l.cost_usd as cost_usd_at_most, l.provider_ref, l.started_at
    from ledger l left join runs r using (run_id)
    where l.status in ('unsettled', 'reserved');

create or replace view spend_by_day as
    select (l.started_at at time zone 'UTC')::date as day, r.job, l.run_id, count(*) as attempts,
           sum(l.cost_usd) as cost_usd,
           coalesce(sum(l.cost_usd) filter (where l.status not in ('unsettled', 'reserved')), 0) as settled_usd,
           coalesce(sum(l.cost_usd) filter (where l.status in ('unsettled', 'reserved')), 0) as unsettled_usd
    from ledger l left join runs r using (run_id)
    group by all;

create or replace view spend_by_task as
    select r.job, l.run_id, l.task, count(*) as attempts, sum(l.input_tokens) as input_tokens,
           sum(l.output_tokens) as output_tokens, sum(l.cost_usd) as cost_usd,
           coalesce(sum(l.cost_usd) filter (where l.status not in ('unsettled', 'reserved')), 0) as settled_usd,
           coalesce(sum(l.cost_usd) filter (where l.status in ('unsettled', 'reserved')), 0) as unsettled_usd
    from ledger l left join runs r using (run_id)
    group by all;

create or replace view spend_by_endpoint as
    select r.job, l.run_id, l.endpoint, l.model, l.provider, l.mode, l.purpose, count(*) as attempts,
           count(*) filter (where l.status in ('unsettled', 'reserved')) as attempts_unsettled,
           sum(l.input_tokens) as input_tokens, sum(l.cached_tokens) as cached_tokens,
           sum(l.output_tokens) as output_tokens, sum(l.reasoning_tokens) as reasoning_tokens,
           sum(l.cost_usd) as cost_usd,
           coalesce(sum(l.cost_usd) filter (where l.status not in ('unsettled', 'reserved')), 0) as settled_usd,
           coalesce(sum(l.cost_usd) filter (where l.status in ('unsettled', 'reserved')), 0) as unsettled_usd
    from ledger l left join runs r using (run_id)
    group by all;

create or replace view estimate_vs_actual as
    -- what is predicted of a request is the whole of it: its second answer, and what it is sent on to, elsewhere
    with actual as (
        select a.run_id, a.request_id,
               max(l.input_tokens) filter (where l.endpoint = a.endpoint) as input_tokens,
               max(l.output_tokens) filter (where l.endpoint = a.endpoint) as output_tokens,
               coalesce(sum(l.cost_usd) filter (where l.status = 'settled'), 0) as usd,
               coalesce(sum(l.cost_usd) filter (where l.status <> 'settled'), 0) as unsettled_usd
        from assignments a join ledger l on l.run_id = a.run_id and l.request_id = a.request_id
        where l.status <> 'void' and (l.purpose in ('main', 'vote', 'repair')
                                      or l.purpose in ('pilot', 'audit') and l.endpoint = a.endpoint)
        group by all)
    select r.job, a.run_id, a.task, a.endpoint, count(*) as requests, count(l.usd) as requests_sent,
           sum(a.input_tokens) filter (where l.input_tokens is not null) as input_tokens_estimated,
           sum(l.input_tokens) as input_tokens_actual,
           sum(a.output_tokens) filter (where l.output_tokens is not null) as output_tokens_estimated,
           sum(l.output_tokens) as output_tokens_actual,
           sum(a.predicted_usd) filter (where l.usd is not null) as predicted_usd, sum(l.usd) as cost_usd,
           sum(l.unsettled_usd) as unsettled_usd
    from assignments a left join runs r using (run_id) left join actual l using (run_id, request_id)
    group by all;

create or replace view savings as
    with reused as (
        select run_id, count(*) as requests from responses where reused_from is not null group by run_id),
    asked as (
        select q.run_id, count(*) filter (where q.row = q.leader) - coalesce(any_value(u.requests), 0) as requests,
               coalesce(any_value(u.requests), 0) as reused
        from requests q left join reused u using (run_id) group by q.run_id),
    spent as (
        select run_id, coalesce(sum(cost_usd) filter (where status not in ('unsettled', 'reserved')), 0) as spent_usd,
               coalesce(sum(cost_usd) filter (where status in ('unsettled', 'reserved')), 0) as unsettled_usd
        from ledger group by run_id),
    -- a request's own tokens, whoever answered it
    used as (
        select run_id, request_id, max(input_tokens) as input_tokens, max(output_tokens) as output_tokens
        from ledger where purpose <> 'judge' and status = 'settled' group by all),
    tokens as (
        select run_id, count(*) as answered, sum(input_tokens) as input_tokens, sum(output_tokens) as output_tokens
        from used group by run_id),
    -- what the pilot, a uniform sample, paid there
    tried as (
        select run_id, endpoint, avg(cost_usd) as usd, count(*) as requests
        from ledger where purpose = 'pilot' and status = 'settled' group by all)
    select r.job, p.run_id, p.endpoint, a.requests, a.reused, s.spent_usd::decimal(18,9) as spent_usd,
           s.unsettled_usd::decimal(18,9) as unsettled_usd,
           case when t.requests >= 30 then 'pilot' else 'tokens' end as basis,
           (case when t.requests >= 30 then t.usd * a.requests
                 when c.usd_per_hour is null then
                     (k.input_tokens * c.input_usd_per_mtok::double
                      + k.output_tokens * c.output_usd_per_mtok::double) / 1e6 * a.requests / k.answered
            end)::decimal(18,9) as alone_usd,
           (alone_usd - s.spent_usd)::decimal(18,9) as saved_usd,
           (alone_usd - s.spent_usd - s.unsettled_usd)::decimal(18,9) as saved_usd_at_least
    from (select distinct run_id, endpoint, max(price_id) as price_id from run_prices group by all) p
    join runs r using (run_id) join asked a using (run_id) join spent s using (run_id)
    left join tokens k using (run_id) left join tried t using (run_id, endpoint)
    left join (select * from prices qualify row_number() over (
                   partition by price_id order by valid_from desc nulls last) = 1) c using (price_id);

create or replace view chargeback as
    with shares as (
        -- who of a run carries what belongs to no request: every request served carries as much
        select run_id, tag, served, sum(served) over (partition by run_id order by tag) as upto,
               sum(served) over (partition by run_id) as of_all
        from (select run_id, coalesce(tag, 'untagged') as tag, count(*) as served
              from results where error is null group by all)),
    spent as (
        select l.run_id, strftime(l.started_at at time zone 'UTC', '%Y-%m') as month, l.provider,
               case when l.status in ('unsettled', 'reserved') then 'unsettled'
                    when l.purpose in ('main', 'repair') then 'direct' else 'overhead' end as kind,
               case when l.purpose in ('main', 'repair') then coalesce(l.tag, 'untagged') end as tag,
               sum(l.cost_usd) as usd
        from ledger l
        group by all
        union all
        select w.run_id, strftime(w.started_at at time zone 'UTC', '%Y-%m'), 'vllm', 'accounting', null,
               sum(w.accounting_usd)
        from workers w where w.accounting_usd > 0
        group by all),
    carried as (
        -- rounded by what has been given away up to here, so that the shares add up to the last place
        select p.run_id, p.month, p.provider, p.kind, coalesce(p.tag, s.tag, 'untagged') as tag,
               case when p.tag is not null or s.tag is null then p.usd
                    else case when s.upto = s.of_all then p.usd else (p.usd * s.upto / s.of_all)::decimal(38,9) end
                         - (p.usd * (s.upto - s.served) / s.of_all)::decimal(38,9) end as usd
        from spent p left join shares s on p.tag is null and s.run_id = p.run_id)
    select c.month, r.job, c.tag, c.provider,
           coalesce(sum(c.usd) filter (where c.kind = 'direct'), 0)::decimal(38,9) as direct_usd,
           coalesce(sum(c.usd) filter (where c.kind = 'overhead'), 0)::decimal(38,9) as overhead_usd,
           coalesce(sum(c.usd) filter (where c.kind = 'unsettled'), 0)::decimal(38,9) as unsettled_usd,
           coalesce(sum(c.usd) filter (where c.kind = 'accounting'), 0)::decimal(38,9) as accounting_usd
    from carried c left join runs r using (run_id)
    group by all;
"""

CONTRACT_VIEWS = (
    "answers",
    "spend_by_day",
    "spend_by_task",
    "spend_by_endpoint",
    "chargeback",
    "estimate_vs_actual",
    "savings",
    "unsettled",
)
