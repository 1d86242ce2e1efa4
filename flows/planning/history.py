"""What earlier runs of a job show: how long answers are, how tokens are counted, how good each endpoint is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from thirdshift.flows.planning.tiers import realtime_counterparts, shared
from thirdshift.flows.runs.context import RunContext
from thirdshift.router.certification.scorers import Scorer
from thirdshift.router.prediction import observations
from thirdshift.router.prediction.observations import Observations
from thirdshift.router.tokens.output_lengths import Observed
from thirdshift.router.values import Endpoint
from thirdshift.warehouse.store.store import Warehouse

MOST = 20_000
"""The newest answers; older ones say little more, and models change."""

TAUGHT = f"""
select l.run_id, l.request_id, q.task, l.endpoint, l.input_tokens, l.output_tokens,
       coalesce(l.cached_tokens, 0) as cached_tokens, a.input_tokens as estimated, f.cut
from ledger l
join runs r using (run_id)
join requests q using (run_id, request_id)
left join (select entry_id, bool_or(finish_reason = 'length' or failure_kind = 'cut_empty') as cut
           from responses group by 1) f on f.entry_id = l.entry_id
left join assignments a on a.run_id = l.run_id and a.request_id = l.request_id and a.endpoint = l.endpoint
where r.job = $job and l.run_id <> $run_id and l.status = 'settled' and l.output_tokens is not null
  and l.purpose in ('pilot', 'main', 'vote', 'audit', 'repair')
  and coalesce(json_extract_string(r.config, '/emulated'), 'false') = $emulated
  and (l.endpoint || ' ' || l.model) in (select unnest($endpoints))
  and (l.run_id || ' ' || l.endpoint) not in (select unnest($changed))
order by l.settled_at desc
limit {MOST}
"""
"""An endpoint whose name now means another model has no past."""

NEARLY_ALL = 0.8
"""An endpoint that answered such a share of a task's requests first was not sent just those that it does well."""
SCORED = f"""
-- a pilot's and an audit's requests are drawn at random; others were sent where they were thought to do well, unless
-- nearly all of their task went there; what was sent on from those is chosen by a score that is among these
with whole as (select run_id, task, count(*) as requests from requests where row = leader group by all),
first as (
    select o.run_id, q.task, o.endpoint
    from observations o join requests q using (run_id, request_id) join whole w on (w.run_id, w.task) = (q.run_id, q.task)
    where o.purpose = 'main' and q.row = q.leader
    group by o.run_id, q.task, o.endpoint, w.requests
    having count(distinct q.row) >= {NEARLY_ALL} * w.requests)
select q.task, o.endpoint, o.score, o.run_id, q.leader, dense_rank() over (order by o.run_id, q.leader) as request
from observations o join runs r using (run_id) join requests q using (run_id, request_id)
where r.job = $job and o.run_id <> $run_id
  -- what a vote has come to was chosen by its answers, and tells nothing of an endpoint
  and not (o.purpose = 'audit'
           and (o.run_id, o.request_id) in (select (run_id, request_id) from ledger where purpose = 'vote'))
  and (o.purpose in ('pilot', 'audit')
       or o.purpose = 'main' and (o.run_id, q.task, o.endpoint) in (select (run_id, task, endpoint) from first)
       or o.purpose = 'repair' and (o.run_id, q.task) in (select (run_id, task) from first))
  and ($scorer = '' or o.scorer = $scorer or o.basis = 'human')
  and q.row = q.leader
  and coalesce(json_extract_string(r.config, '/emulated'), 'false') = $emulated
  and (o.endpoint || ' ' || o.model) in (select unnest($endpoints))
-- people who scored an answer after others did are believed
qualify row_number() over (partition by o.run_id, o.request_id, o.endpoint order by o.observed_at desc) = 1
order by o.observed_at desc, request, o.endpoint
limit {MOST}
"""

ANSWERED = f"""
-- with what was answered; of an answer that was erased nothing is known
with scored as ({SCORED}),
said as (
    select r.run_id, r.row, r.endpoint, r.reply, r.output from responses r
    where r.purpose not in ('judge', 'overhead') and (r.run_id, r.row) in (select (run_id, leader) from scored)
    qualify row_number() over (
        partition by r.run_id, r.row, r.endpoint
        order by r.reply, coalesce(r.valid, true) desc, r.settled_at desc, r.entry_id) = 1)
select s.*, case when r.reply = 'answer' then r.output end as output,
       r.reply is null or r.reply = 'answer' and r.output is null as erased
from scored s left join said r on r.run_id = s.run_id and r.row = s.leader and r.endpoint = s.endpoint
order by s.request, s.endpoint
"""


@dataclass(frozen=True, slots=True)
class PastOutputs:
    """What earlier runs were answered where it was scored: columns of one length, requests as in their scores."""

    request: NDArray[np.int64]
    task: NDArray[np.int32]
    endpoint: NDArray[np.int32]
    score: NDArray[np.float64]
    output: list[str | None]
    """None: no answer."""

    def without(self, endpoints: Sequence[int]) -> PastOutputs:
        kept = ~np.isin(self.endpoint, list(endpoints))
        said = [output for output, stays in zip(self.output, kept.tolist(), strict=True) if stays]
        return PastOutputs(self.request[kept], self.task[kept], self.endpoint[kept], self.score[kept], said)


@dataclass(frozen=True, slots=True)
class PastAnswers:
    """Answers of earlier runs: columns of one length."""

    lengths: Observed
    endpoint: NDArray[np.int32]
    input_tokens: NDArray[np.float64]
    """As the provider counted them."""
    cached_tokens: NDArray[np.float64]
    """Input tokens among them that were billed as cached."""
    estimated: NDArray[np.float64]
    """As we had; NaN where the plan had the request elsewhere."""

    def counted(self, endpoints: NDArray[np.integer]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (estimated, actual) input tokens on these endpoints, which count alike."""
        chosen = np.isin(self.endpoint, endpoints) & np.isfinite(self.estimated)
        return self.estimated[chosen], self.input_tokens[chosen]


@dataclass(frozen=True, slots=True)
class EarlierNights:
    """What the earlier runs of a job have left for the next one."""

    answers: PastAnswers | None
    scores: observations.PastScores
    outputs: PastOutputs | None
    """Where they can teach votes."""


def earlier_nights(context: RunContext, tasks: Sequence[str], *, run_id: str) -> EarlierNights:
    """Read what there is. `run_id`: the run that it is read for, of which nothing is taken."""
    endpoints, scorer = context.endpoints, context.scorer
    of, emulated = (context.warehouse, context.job.name, run_id, endpoints, tasks), context.call.emulated
    counterparts = realtime_counterparts(endpoints)
    with Warehouse.open(context.warehouse) if context.warehouse.exists() else nullcontext():
        return EarlierNights(
            past_nights(*of, emulated=emulated),
            past_scores(*of, scorer=scorer, realtime_counterpart=counterparts, emulated=emulated),
            past_outputs(*of, scorer=scorer, emulated=emulated) if context.pays_for_scores else None,
        )


def past_nights(
    path: Path,
    job: str,
    run_id: str,
    endpoints: Sequence[Endpoint],
    tasks: Sequence[str],
    *,
    emulated: bool = False,
) -> PastAnswers | None:
    """Return the answers of earlier runs; None where there are none.

    Tasks that this run's input has not are left out; rehearsals know rehearsals only.
    """
    rows, task, endpoint = _query(
        path, TAUGHT, endpoints, tasks, job=job, run_id=run_id, emulated=str(emulated).lower()
    )
    if not len(task):
        return None
    columns = {
        name: np.asarray(rows[name].cast(pa.float64()), np.float64)
        for name in ("input_tokens", "output_tokens", "cached_tokens", "estimated")
    }
    written = columns["output_tokens"].astype(np.int64)
    cut = np.asarray(pc.fill_null(rows["cut"], fill_value=False), np.bool_)
    request = np.unique(_numbers(rows["run_id"]) * MOST + _numbers(rows["request_id"]), return_inverse=True)[
        1
    ]
    most = ceilings(rows["run_id"], task, written, cut)
    lengths = Observed(task, endpoint, written, most, request=request.astype(np.int64))
    return PastAnswers(
        lengths, endpoint, columns["input_tokens"], columns["cached_tokens"], columns["estimated"]
    )


def ceilings(
    run: pa.ChunkedArray, task: NDArray[np.int32], written: NDArray[np.int64], cut: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the ceiling that each answer had: its own length where it was cut; of others the longest at which an answer
    of the same run and task was cut, and none where none was. Without it those that were not cut would count as if they
    could have been of any length, and what is expected would be too short."""
    group = _numbers(run) * (int(task.max(initial=0)) + 1) + task
    most = np.zeros(int(group.max(initial=-1)) + 1, np.int64)
    np.maximum.at(most, group[cut], written[cut])
    endless = np.iinfo(np.int32).max
    open_ended = np.where(most[group] > 0, np.maximum(most[group], written + 1), endless)
    return np.where(cut, written, open_ended)


def _numbers(names: pa.ChunkedArray) -> NDArray[np.int64]:
    """A number for each name, the same for the same."""
    return np.unique(np.asarray(names.cast(pa.string())), return_inverse=True)[1].astype(np.int64)


def past_scores(
    path: Path,
    job: str,
    run_id: str,
    endpoints: Sequence[Endpoint],
    tasks: Sequence[str],
    *,
    scorer: Scorer | None,
    realtime_counterpart: NDArray[np.int32],
    emulated: bool = False,
) -> observations.PastScores:
    """Return what the pilots and audits of earlier runs scored, what nearly all of a task's requests did, and what those
    did that were sent on from there: by the same scorer, or by any where this run has none."""
    values = _asked(job, run_id, scorer, emulated=emulated)
    rows, task, endpoint = _query(path, SCORED, endpoints, tasks, **values)
    if not len(task):
        return observations.no_past()
    requests, request = np.unique(np.asarray(rows["request"], np.int64), return_inverse=True)
    of_request = np.zeros(len(requests), np.int32)
    of_request[request] = task
    scores = shared(
        Observations(request, endpoint, np.asarray(rows["score"], np.float64)), realtime_counterpart
    )
    return observations.PastScores(of_request[scores.row], scores.endpoint, scores.score, scores.row)


def past_outputs(
    path: Path,
    job: str,
    run_id: str,
    endpoints: Sequence[Endpoint],
    tasks: Sequence[str],
    *,
    scorer: Scorer | None,
    emulated: bool = False,
) -> PastOutputs | None:
    """Return the answers behind `past_scores`; None where there are none. Requests of which one was erased are left out."""
    values = _asked(job, run_id, scorer, emulated=emulated)
    rows, task, endpoint = _query(path, ANSWERED, endpoints, tasks, **values)
    if not len(task):
        return None
    _, request = np.unique(np.asarray(rows["request"], np.int64), return_inverse=True)
    erased = np.bincount(request, np.asarray(rows["erased"], np.bool_)) > 0
    kept = ~erased[request]
    score = np.asarray(rows["score"], np.float64)
    return PastOutputs(
        request[kept],
        task[kept],
        endpoint[kept],
        score[kept],
        rows["output"].filter(pa.array(kept)).to_pylist(),
    )


def _asked(job: str, run_id: str, scorer: Scorer | None, *, emulated: bool) -> dict[str, str]:
    return {
        "job": job,
        "run_id": run_id,
        "scorer": scorer.shown if scorer else "",
        "emulated": str(emulated).lower(),
    }


def _query(
    path: Path, sql: str, endpoints: Sequence[Endpoint], tasks: Sequence[str], **values: str
) -> tuple[pa.Table, NDArray[np.int32], NDArray[np.int32]]:
    """Return the rows of a query whose endpoints and tasks this run has too, and the positions of both."""
    none = np.zeros(0, np.int32)
    if not path.exists():
        return pa.table({}), none, none
    with Warehouse.open(path) as warehouse:
        more = (
            {"changed": changed_endpoints(warehouse, values["job"], endpoints)} if "$changed" in sql else {}
        )
        known = [f"{endpoint.name} {endpoint.model}" for endpoint in endpoints]
        rows = warehouse.query(sql, None, endpoints=known, **values, **more)
    task = _positions(rows["task"], tasks)
    endpoint = _positions(rows["endpoint"], [endpoint.name for endpoint in endpoints])
    both = (task >= 0) & (endpoint >= 0)
    return rows.filter(pa.array(both)), task[both], endpoint[both]


def changed_endpoints(warehouse: Warehouse, job: str, endpoints: Sequence[Endpoint]) -> list[str]:
    """Each "run endpoint" of the job whose parameters were other ones: more reasoning, say, makes other lengths."""
    params = {endpoint.name: dict(endpoint.params) for endpoint in endpoints}
    rows = warehouse.query("select run_id, config from runs where job = $job", None, job=job).to_pylist()
    return [
        "",
        *(
            f"{row['run_id']} {part['name']}"
            for row in rows
            for part in json.loads(row["config"] or "{}").get("endpoints", ())
            if part.get("name") in params and (part.get("params") or {}) != params[part["name"]]
        ),
    ]


def _positions(names: pa.ChunkedArray, known: Sequence[str]) -> NDArray[np.int32]:
    return np.asarray(pc.fill_null(pc.index_in(names, value_set=pa.array(known, pa.string())), -1), np.int32)
