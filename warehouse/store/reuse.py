"""Answers of a job's earlier runs that need not be paid for again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import pyarrow as pa

from thirdshift.warehouse.store.store import Warehouse

BEFORE = """
with answered as (
    select q.request_hash, coalesce(a.reused_from, a.run_id) as reused_from, a.run_id, a.request_id, a.endpoint,
           a.model, a.score, a.completed_at
    from results a join runs r using (run_id) join requests q using (run_id, request_id)
    where r.job = $job and r.run_id is distinct from $but_run
      and coalesce(json_extract_string(r.config, '/emulated'), 'false') = $emulated::varchar
      and a.error is null and a.output is not null and coalesce(a.valid, true)
      and ($oldest is null or a.completed_at >= $oldest)
      and q.request_hash in (select request_hash from wanted)
      and not list_contains($changed, coalesce(a.reused_from, a.run_id) || ' ' || a.endpoint)
      and (not $by_sample or json_extract_string(r.config, '/quality/references') = 'sample')
    qualify row_number() over (
        partition by q.request_hash
        order by case when not $by_sample then a.score end desc nulls last, a.completed_at desc, a.run_id desc) = 1),
paid as (
    select q.request_hash, l.run_id, l.endpoint, sum(l.cost_usd) as cost_usd
    from ledger l join requests q using (run_id, request_id)
    where l.purpose in ('pilot', 'main', 'repair') and l.status = 'settled'
      and q.request_hash in (select request_hash from answered)
    group by all)
select a.*, p.cost_usd as saved_usd
from answered a
left join paid p on p.request_hash = a.request_hash and p.run_id = a.reused_from and p.endpoint = a.endpoint
order by a.request_hash
"""

REUSE = """
insert into responses by name
select 'reused-' || q.run_id || '-' || q.row as entry_id, q.run_id, q.row, q.request_id, a.endpoint, a.model,
       'main' as purpose, 0 as attempt, 'answer' as reply, a.output, a.reasoning, a.finish_reason, a.valid,
       a.logprobs, a.completed_at as settled_at, f.reused_from
from found f
join requests q on q.run_id = $run_id and q.request_hash = f.request_hash and q.row = q.leader
join results a on a.run_id = f.run_id and a.request_id = f.request_id
where not exists (
    select 1 from responses t where t.run_id = q.run_id and t.row = q.row and t.reused_from is not null)
"""

REUSED = """
with paid as (
    select q.run_id, q.request_hash, l.endpoint, sum(l.cost_usd) as usd
    from ledger l join requests q using (run_id, request_id)
    where l.purpose in ('pilot', 'main', 'repair') and l.status = 'settled'
      and q.run_id in (select reused_from from responses where run_id = $run_id)
    group by all)
select count(*) as reused, coalesce(sum(p.usd), 0) as usd
from responses r
join requests q on q.run_id = r.run_id and q.row = r.row
left join paid p on p.run_id = r.reused_from and p.endpoint = r.endpoint and p.request_hash = q.request_hash
where r.run_id = $run_id and r.reused_from is not null
"""
"""What was erased meanwhile has no hash, and its saving is not known any more."""


def answered_before(
    warehouse: Warehouse,
    job: str,
    hashes: pa.Array | pa.ChunkedArray,
    max_age: timedelta | None,
    now: datetime,
    *,
    but_run: str | None = None,
    emulated: bool = False,
    by_sample: bool = False,
    changed: Sequence[str] = (),
) -> pa.Table:
    """Return the best answer that earlier runs of `job` gave to each of `hashes`: by score, then the latest.

    `but_run` leaves one run out (the caller's own); rehearsals know rehearsals only (`emulated`). `by_sample`: rows with a
    reference are to stand for all, so that none may be chosen by its score: the latest, of runs of that kind alone.
    `changed`: each "run endpoint" that is another one now.

    Columns: request_hash, reused_from (the run that paid), run_id and request_id (the result that holds it), endpoint,
    model, score, completed_at, saved_usd (what it cost then). Failures, invalid and erased answers are no answers.
    """
    hash_table = pa.table({"request_hash": hashes})
    oldest = None if max_age is None else now - max_age
    return warehouse.query(
        BEFORE, tables={"wanted": hash_table}, job=job, oldest=oldest, but_run=but_run, emulated=emulated,
        by_sample=by_sample, changed=["", *changed],
    )  # fmt: skip


def reuse(warehouse: Warehouse, run_id: str, answers: pa.Table) -> None:
    """Take rows of `answered_before` as this run's replies: they are scored, served and published like others, without
    an attempt and without a cost. Idempotent.
    """
    warehouse.execute(REUSE, tables={"found": answers}, run_id=run_id)


def reused(warehouse: Warehouse, run_id: str) -> dict[str, int | float]:
    """Return `reused` (answers that a run took from earlier ones) and `reused_usd` (what those runs had paid for them)."""
    (totals,) = warehouse.query(REUSED, run_id=run_id).to_pylist()
    return {"reused": totals["reused"], "reused_usd": float(totals["usd"])}
