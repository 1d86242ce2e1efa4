"""The table `judgements`: answers to be scored by a judge, a judge's replies, and verdicts kept by what was judged."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from thirdshift.warehouse.journal.run_folder import run_folder
from thirdshift.warehouse.store.results import ANSWERS_REQUESTS
from thirdshift.warehouse.store.store import Warehouse, frozen_parquet

ANSWERS = """
with asked as (
    select q.row, q.leader, q.request_id, q.task, w.endpoint
    from wanted w join requests q on q.run_id = $run_id and q.row = w.row),
newest as (
    select * from responses
    where run_id = $run_id and {answers_requests} and row in (select leader from asked)
    qualify row_number() over (
        partition by row, endpoint order by reply, coalesce(valid, true) desc, settled_at desc, entry_id) = 1)
select a.row, a.leader, a.request_id, a.task, a.endpoint, r.model, r.purpose,
       case when r.reply = 'answer' then r.output end as output, f.messages, f.reference, f.response_schema, f.metadata
from asked a
join newest r on r.row = a.leader and r.endpoint = a.endpoint
join {frozen} f on f.row = a.row
where not $unscored or not exists (
    select 1 from observations o
    where o.run_id = $run_id and o.request_id = a.request_id and o.endpoint = a.endpoint and o.basis <> 'human'
      and o.observed_at >= r.settled_at)
order by a.row, a.endpoint
"""

REPLIES = """
-- what judges said that is not among the verdicts yet. A judge that failed at the same answer twice has given no verdict
-- on it; but one that fails at more than a tenth is out of order, and has said nothing. What was not sent is no attempt
with told as (
    select r.row, r.request_id, s.subject, r.reply, r.output,
           r.reply = 'answer'
               or r.failure_kind in ('refused', 'context_overflow', 'cut_empty', 'invalid', 'bad_request') as final
    from responses r join shards s using (run_id, shard_id)
    where r.run_id = $run_id and r.purpose = 'judge'
      and coalesce(r.failure_kind, '') not in ('budget', 'deadline', 'cancelled', 'expired')),
about as (
    select row, request_id, subject, any_value(output) filter (reply = 'answer') as output,
           bool_or(final) as final, count(*) as attempts
    from told group by row, request_id, subject),
said as (
    select *, count(*) filter (not final) over () <= count(*) over () * 0.1 as in_order from about)
select row, subject, output from said a
where (final or (attempts >= 2 and in_order))
  and not exists (
      select 1 from judgements j
      where j.run_id = $run_id and j.request_id = a.request_id and j.endpoint = a.subject)
order by row, subject
"""

KNOWN = """
select key, arg_max(score, judged_at) as score from judgements
where key in (select key from asked) and (score is not null or run_id = $run_id)
group by key
"""

VERDICTS = """
select count(score) as verdicts, count(*) - count(score) as vain,
       (select coalesce(r.output, r.failure_kind || ': ' || r.message) from responses r
        where r.run_id = $run_id and r.purpose = 'judge' order by r.settled_at desc limit 1) as reply
from judgements where run_id = $run_id
"""
PROBE = 5
"""Replies without a verdict, and no fewer than verdicts, after which a judge is not asked any more."""

PILOT_ANSWERS = """
select distinct q.row, r.endpoint
from responses r join requests q on q.run_id = r.run_id and q.leader = r.row
where r.run_id = $run_id and r.purpose = 'pilot'
order by all
"""

SERVED = """
select q.row, q.leader, q.task, r.endpoint, r.error is null as answered, o.score, a.predicted_quality as predicted,
       exists (select 1 from judgements j where j.run_id = $run_id and j.request_id = r.request_id
                 and j.endpoint = r.endpoint and j.score is null) as in_vain
from results r
join requests q on q.run_id = r.run_id and q.request_id = r.request_id
left join (
    select request_id, endpoint, arg_max(score, observed_at) as score from observations
    where run_id = $run_id and basis <> 'human' group by all) o
  on o.request_id = r.request_id and o.endpoint = r.endpoint
left join assignments a on a.run_id = r.run_id and a.request_id = r.request_id and a.endpoint = r.endpoint
where r.run_id = $run_id
order by q.row
"""

BASELINE_SCORES = """
select q.row, max(o.score) as score
from observations o join requests q using (run_id, request_id)
where o.run_id = $run_id and o.basis <> 'human' and o.endpoint in (select unnest($endpoints))
group by q.row order by q.row
"""


@dataclass(frozen=True, slots=True)
class JudgeRecord:
    """What a run's judge has said so far."""

    verdicts: int
    vain: int
    """Answers that it was asked about without giving a verdict."""
    reply: str | None
    """What it said last."""

    @property
    def useless(self) -> bool:
        """Whether it gives no verdicts: it is not paid for more of the same."""
        return self.vain >= PROBE and self.vain >= self.verdicts

    def sentence(self) -> str:
        text = " ".join((self.reply or "nothing").split())
        shown = text if len(text) <= 120 else f"{text[:119]}…"
        return (
            f"the judge was asked about {self.verdicts + self.vain:,} answers and gave a verdict on {self.verdicts:,}; it "
            f"last replied: {shown}. It is not asked again, and nothing is certified: mend the rubric or name another judge"
        )


def record(warehouse: Warehouse, run_id: str) -> JudgeRecord:
    """What a run's judge has said so far."""
    (row,) = warehouse.query(VERDICTS, run_id=run_id).to_pylist()
    return JudgeRecord(row["verdicts"], row["vain"], row["reply"])


def answers(warehouse: Warehouse, run_id: str, pairs: pa.Table, *, unscored: bool) -> pa.Table:
    """Return the newest final replies of `pairs` (row, endpoint) with what a scorer needs to know of the request.

    `unscored` leaves out those that the run's scorer has scored. Pairs without a reply are left out; a failure's output
    is null. Columns: row, leader, request_id, task, endpoint, model, purpose, output, messages, reference,
    response_schema, metadata.
    """
    frozen = frozen_parquet(run_folder(warehouse.path, run_id))
    sql = ANSWERS.format(frozen=frozen, answers_requests=ANSWERS_REQUESTS)
    return warehouse.query(sql, {"wanted": pairs}, run_id=run_id, unscored=unscored)


def replies(warehouse: Warehouse, run_id: str) -> pa.Table:
    """Return the judge's replies: row, subject (the endpoint whose answer was judged), output (null: no verdict)."""
    return warehouse.query(REPLIES, run_id=run_id)


def known(warehouse: Warehouse, run_id: str, keys: list[str]) -> dict[str, float | None]:
    """Return the verdicts of any run by key; None: judged in this run without a verdict."""
    table = pa.table({"key": pa.array(sorted(set(keys)), pa.string())})
    verdicts = warehouse.query(KNOWN, {"asked": table}, run_id=run_id)
    return dict(zip(verdicts["key"].to_pylist(), verdicts["score"].to_pylist(), strict=True))


def keep(warehouse: Warehouse, verdicts: pa.Table) -> None:
    """Append verdicts: key, run_id, request_id, endpoint, judge, score (null: no verdict), judged_at."""
    warehouse.execute("insert into judgements by name select * from verdicts", {"verdicts": verdicts})
