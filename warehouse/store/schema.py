"""The warehouse's tables as SQL text, and the numbered steps from each version to the next.

The contract names the tables and the columns that stay; further columns and tables (`responses`, `ingested_parts`,
`run_prices`, `judgements`) are ours. JSON is kept as text: DuckDB's JSON functions take it (`config->>'floor'`), and no
extension is needed to open the file. No keys: an anti-join is cheaper than an index at every insert.
"""

from __future__ import annotations

VERSION = 9
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
"""Version 1; a new file takes all steps from there."""

MIGRATIONS: dict[int, tuple[str, str]] = {
    2: (
        "Charge-back by tags, answers reused from earlier nights, erasure of text.",
        """
        alter table runs add column tag varchar;
        alter table runs add column purged_at timestamptz;
        alter table requests add column tag varchar;
        alter table ledger add column task varchar;
        alter table ledger add column tag varchar;
        alter table ledger add column service_tier varchar;
        alter table ledger add column note varchar;
        alter table ledger add column settled_by varchar;
        alter table results add column tag varchar;
        alter table responses add column reused_from varchar;
        update ledger set task = q.task from requests q
            where q.run_id = ledger.run_id and q.request_id = ledger.request_id;
        """,
    ),
    3: (
        "Log-probabilities of answers; how fast local workers are.",
        """
        alter table results add column logprobs varchar;
        alter table responses add column logprobs varchar;
        create table rates (
            run_id varchar, endpoint varchar, model varchar, device varchar, hardware varchar, vllm varchar,
            prefill_tokens_per_second double, decode_tokens_per_second double, told_apart boolean,
            startup_seconds double, seconds double, prefill_tokens bigint, decode_tokens bigint,
            measured_at timestamptz
        );
        """,
    ),
    4: (
        "Whose answers a judge's shard is about, and verdicts kept by what was judged.",
        """
        alter table shards add column subject varchar;
        create table judgements (
            key varchar, run_id varchar, request_id varchar, endpoint varchar, judge varchar, score double,
            judged_at timestamptz
        );
        """,
    ),
    5: (
        "What hardware that is paid already is charged back at.",
        "alter table workers add column accounting_usd decimal(18,9);",
    ),
    6: (
        "The tier that a provider says it served, and what the figures of an attempt do not say.",
        """
        alter table ledger add column if not exists service_tier varchar;
        alter table ledger add column if not exists note varchar;
        """,
    ),
    7: (
        "Of how many requests a certificate speaks; what a run has unsettled, and who settled it in the end.",
        """
        alter table certificates add column requests bigint;
        update certificates c set requests = (
            select count(*) from requests q where q.run_id = c.run_id and (c.task is null or q.task = c.task));
        alter table ledger add column if not exists settled_by varchar;
        alter table runs add column unsettled_usd decimal(18,9);
        """,
    ),
    8: (
        "The machine that a worker ran on.",
        "alter table workers add column node varchar;",
    ),
    9: (
        "Until when a worker's rental is paid for, and what its devices drew; what a measured speed holds for.",
        """
        alter table workers add column paid_until timestamptz;
        alter table workers add column energy_kwh double;
        alter table rates add column setting varchar;
        alter table rates add column driver varchar;
        alter table rates add column is_full boolean;
        """,
    ),
}
"""Version → what it brought, in a sentence, and the SQL that makes it of the one before. DuckDB cannot alter a table
once more after an update in the same transaction, so that step 2, which updates the ledger, adds what 6 and 7 need."""

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
