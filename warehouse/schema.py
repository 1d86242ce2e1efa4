"""The warehouse's tables and views as SQL text, and the numbered steps from each version to the next.

The contract names the tables and the columns that stay; further columns and tables (`responses`, `ingested_parts`,
`run_prices`) are ours. JSON is kept as text: DuckDB's JSON functions take it (`config->>'floor'`), and no extension
is needed to open the file. No keys: an anti-join is cheaper than an index at every insert.
"""

from __future__ import annotations

VERSION = 1
"""What this program writes. A file of a later one is refused, of an earlier one migrated by `thirdshift migrate`."""

TABLES = """
create table runs (
    run_id varchar, job varchar, params varchar, status varchar, outcomes varchar,
    started_at timestamptz, finished_at timestamptz, deadline timestamptz,
    floor double, cap_usd decimal(18,9), planned_usd decimal(18,9), spent_usd decimal(18,9),
    config varchar, job_hash varchar, input_fingerprint varchar, version varchar,
    published_at timestamptz
);
create table requests (
    run_id varchar, request_id varchar, request_hash varchar, source_row bigint, task varchar, policy varchar,
    metadata varchar, row bigint, leader bigint
);
create table assignments (
    run_id varchar, request_id varchar, task varchar, endpoint varchar, shard_id varchar,
    input_tokens bigint, output_tokens bigint, difficulty double, predicted_quality double,
    predicted_usd decimal(18,9), runner_up varchar, runner_up_usd decimal(18,9)
);
create table shards (
    run_id varchar, shard_id varchar, endpoint varchar, purpose varchar, requests bigint, status varchar,
    started_at timestamptz, finished_at timestamptz, attempts bigint
);
create table workers (
    run_id varchar, worker_id varchar, endpoint varchar, device varchar, pid bigint,
    started_at timestamptz, ready_at timestamptz, stopped_at timestamptz,
    usd_per_hour decimal(18,12), cost_usd decimal(18,9)
);
create table results (
    run_id varchar, request_id varchar, task varchar, endpoint varchar, model varchar, output varchar,
    reasoning varchar, finish_reason varchar, valid boolean, score double, error varchar, attempts bigint,
    completed_at timestamptz, reused_from varchar, metadata varchar
);
create table rejects (run_id varchar, request_id varchar, source_row bigint, reason varchar);
create table ledger (
    entry_id varchar, run_id varchar, request_id varchar, shard_id varchar, endpoint varchar, model varchar,
    model_reported varchar, provider varchar, mode varchar, region varchar, purpose varchar, attempt integer,
    input_tokens bigint, cached_tokens bigint, output_tokens bigint, reasoning_tokens bigint,
    reserved_usd decimal(18,9), cost_usd decimal(18,9), status varchar, provider_ref varchar, price_id varchar,
    started_at timestamptz, settled_at timestamptz
);
create table observations (
    run_id varchar, request_id varchar, task varchar, endpoint varchar, model varchar, score double,
    scorer varchar, basis varchar, purpose varchar, observed_at timestamptz
);
create table certificates (
    run_id varchar, task varchar, floor double, confidence double, basis varchar, scorer varchar,
    population bigint, scored bigint, mean double, lower_bound double, certified boolean, method varchar,
    issued_at timestamptz
);
create table prices (
    price_id varchar, endpoint varchar, model varchar, mode varchar,
    input_usd_per_mtok decimal(18,12), output_usd_per_mtok decimal(18,12), cached_usd_per_mtok decimal(18,12),
    usd_per_hour decimal(18,12), source varchar, as_of date, valid_from timestamptz, valid_to timestamptz
);
create table responses (
    entry_id varchar, run_id varchar, shard_id varchar, row bigint, request_id varchar, endpoint varchar,
    model varchar, purpose varchar, attempt integer, reply varchar, output varchar, reasoning varchar,
    finish_reason varchar, valid boolean, failure_kind varchar, message varchar,
    input_tokens bigint, output_tokens bigint, settled_at timestamptz
);
create table ingested_parts (run_id varchar, part varchar, ingested_at timestamptz);
create table run_prices (run_id varchar, endpoint varchar, price_id varchar);
create table meta (schema_version integer);
"""

VIEWS = """
create or replace view answers as
    select r.job, a.run_id, a.request_id, a.task, a.endpoint, a.model, a.output, a.valid, a.score,
           a.finish_reason, a.completed_at, a.metadata, r.published_at as loaded_at
    from results a join runs r using (run_id)
    where r.published_at is not null and a.error is null
    qualify row_number() over (
        partition by r.job, a.request_id order by r.published_at desc, r.started_at desc, a.run_id desc) = 1;

create or replace view unsettled as
    select l.run_id, r.job, l.entry_id, l.request_id, l.shard_id, l.endpoint, l.provider, l.purpose, l.attempt,
           l.status, l.cost_usd as cost_usd_at_most, l.provider_ref, l.started_at
    from ledger l left join runs r using (run_id)
    where l.status in ('unsettled', 'reserved');

create or replace view spend_by_day as
    select (l.started_at at time zone 'UTC')::date as day, r.job, l.run_id, count(*) as attempts,
           sum(l.cost_usd) as cost_usd,
           coalesce(sum(l.cost_usd) filter (where l.status = 'unsettled'), 0) as unsettled_usd
    from ledger l left join runs r using (run_id)
    group by all;

create or replace view spend_by_task as
    select r.job, l.run_id, q.task, count(distinct l.request_id) as requests, count(*) as attempts,
           sum(l.input_tokens) as input_tokens, sum(l.output_tokens) as output_tokens, sum(l.cost_usd) as cost_usd,
           coalesce(sum(l.cost_usd) filter (where l.status = 'unsettled'), 0) as unsettled_usd
    from ledger l left join runs r using (run_id) left join requests q using (run_id, request_id)
    group by all;

create or replace view spend_by_endpoint as
    select r.job, l.run_id, l.endpoint, l.model, l.provider, l.mode, l.purpose, count(*) as attempts,
           count(*) filter (where l.status = 'unsettled') as attempts_unsettled,
           sum(l.input_tokens) as input_tokens, sum(l.cached_tokens) as cached_tokens,
           sum(l.output_tokens) as output_tokens, sum(l.reasoning_tokens) as reasoning_tokens,
           sum(l.cost_usd) as cost_usd,
           coalesce(sum(l.cost_usd) filter (where l.status = 'unsettled'), 0) as unsettled_usd
    from ledger l left join runs r using (run_id)
    group by all;

create or replace view estimate_vs_actual as
    with actual as (
        select run_id, request_id, endpoint, sum(cost_usd) as usd, max(input_tokens) as input_tokens,
               max(output_tokens) as output_tokens
        from ledger where purpose in ('pilot', 'main', 'audit', 'repair') and status <> 'void'
        group by all)
    select r.job, a.run_id, a.task, a.endpoint, count(*) as requests, count(l.usd) as requests_sent,
           sum(a.input_tokens) filter (where l.input_tokens is not null) as input_tokens_estimated,
           sum(l.input_tokens) as input_tokens_actual,
           sum(a.output_tokens) filter (where l.output_tokens is not null) as output_tokens_estimated,
           sum(l.output_tokens) as output_tokens_actual,
           sum(a.predicted_usd) filter (where l.usd is not null) as predicted_usd, sum(l.usd) as cost_usd
    from assignments a left join runs r using (run_id) left join actual l using (run_id, request_id, endpoint)
    group by all;

create or replace view savings as
    with asked as (
        select run_id, count(*) filter (where row = leader) as requests, count(*) as rows
        from requests group by run_id),
    spent as (select run_id, sum(cost_usd) as spent_usd from ledger group by run_id),
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
    select r.job, p.run_id, p.endpoint, a.requests, s.spent_usd,
           case when t.requests >= 30 then 'pilot' else 'tokens' end as basis,
           (case when t.requests >= 30 then t.usd * a.requests
                 when c.usd_per_hour is null then
                     (k.input_tokens * c.input_usd_per_mtok::double
                      + k.output_tokens * c.output_usd_per_mtok::double) / 1e6 * a.requests / k.answered
            end)::decimal(18,9) as alone_usd,
           (alone_usd - s.spent_usd)::decimal(18,9) as saved_usd
    from (select distinct run_id, endpoint, max(price_id) as price_id from run_prices group by all) p
    join runs r using (run_id) join asked a using (run_id) join spent s using (run_id)
    left join tokens k using (run_id) left join tried t using (run_id, endpoint)
    left join (select * from prices qualify row_number() over (
                   partition by price_id order by valid_from desc nulls last) = 1) c using (price_id);

create or replace view chargeback as
    with parts as (
        select strftime(l.started_at at time zone 'UTC', '%Y-%m') as month, r.job, l.run_id, l.provider,
               sum(l.cost_usd) filter (where l.purpose in ('main', 'repair') and l.status <> 'unsettled') as direct_usd,
               sum(l.cost_usd) filter (
                   where l.purpose not in ('main', 'repair') and l.status <> 'unsettled') as overhead_usd,
               sum(l.cost_usd) filter (where l.status = 'unsettled') as unsettled_usd
        from ledger l left join runs r using (run_id)
        group by all)
    select month, job, null::varchar as tag, provider, coalesce(sum(direct_usd), 0) as direct_usd,
           coalesce(sum(overhead_usd), 0) as overhead_usd, coalesce(sum(unsettled_usd), 0) as unsettled_usd
    from parts group by all;
"""

MIGRATIONS: dict[int, str] = {}
"""Version → the SQL that makes it of the one before. Views are made anew after the last."""

CONTRACT_TABLES = (
    "runs",
    "requests",
    "assignments",
    "shards",
    "workers",
    "results",
    "rejects",
    "ledger",
    "observations",
    "certificates",
    "prices",
    "meta",
)
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
