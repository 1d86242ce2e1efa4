"""Questions that decisions ask the warehouse about one run: scores, token usage, replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from thirdshift.router.prediction.observations import Observations
from thirdshift.warehouse.store.store import Warehouse

VOTED = "o.request_id in (select request_id from ledger where run_id = $run_id and purpose = 'vote')"
"""Who served these was chosen by their answers: what was looked at there tells of the vote, and not of an endpoint."""
SCORES = f"""
select q.row, o.endpoint, arg_max(o.score, o.observed_at) as score
from observations o join requests q using (run_id, request_id)
where o.run_id = $run_id and q.row = q.leader and ($voted or not (o.purpose = 'audit' and {VOTED}))
group by all order by all
"""

PILOT_SCORES = f"""
-- in the order of scoring, and only what no score has chosen
select q.row, o.endpoint, o.score
from observations o join requests q using (run_id, request_id)
where o.run_id = $run_id and q.row = q.leader and o.purpose in (select unnest($purposes))
  and not (o.purpose = 'audit' and {VOTED})
order by o.observed_at, q.row, o.endpoint
"""

USED_TOKENS = """
select row, endpoint, max(input_tokens) as input_tokens, max(output_tokens) as output_tokens
from responses
where run_id = $run_id and reply = 'answer' and purpose <> 'judge' and output_tokens is not null
group by all order by all
"""

CALLS = """
select null as row, endpoint, count(*) as answers, avg(epoch(settled_at) - epoch(started_at)) as seconds,
       sum(input_tokens) as input_tokens, sum(coalesce(cached_tokens, 0)) as cached_tokens
from ledger
where run_id = $run_id and status = 'settled' and request_id is not null and purpose <> 'judge'
  and settled_at >= started_at and input_tokens is not null
group by endpoint order by endpoint
"""

REPLIES = """
-- what a batch has left undone is no reply: the endpoint never saw it
select row, endpoint, bool_or(reply = 'answer') as answered,
       bool_or(reply = 'answer' and purpose = 'repair') as repaired,
       bool_or(reply = 'answer' and purpose = 'main') as served,
       bool_and(reply <> 'answer' and failure_kind = 'rate_limited') as limited,
       max(settled_at) as newest
from responses
where run_id = $run_id and purpose <> 'judge' and failure_kind is distinct from 'expired'
  and not (coalesce(failure_kind, '') in ('overloaded', 'rate_limited') and list_contains($batches, endpoint))
group by all order by newest
"""
"""A server's error in a batch is no final reply, since it can pass: `Assignment.mark_passing` counts those."""


ANSWERS = """
select row, endpoint, output from responses
where run_id = $run_id and reply = 'answer' and purpose not in ('judge', 'overhead')
  and row in (select row from wanted)
qualify row_number() over (
    partition by row, endpoint order by coalesce(valid, true) desc, settled_at desc, entry_id) = 1
order by row, endpoint
"""


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens that answers took: columns of one length."""

    row: NDArray[np.int64]
    endpoint: NDArray[np.int32]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CallFigures:
    """What answers took, by endpoint: columns of one length."""

    endpoint: NDArray[np.int32]
    answers: NDArray[np.int64]
    seconds: NDArray[np.float64]
    """The mean from sending to the last token; of a batch tier, to the end of the batch."""
    input_tokens: NDArray[np.float64]
    cached_tokens: NDArray[np.float64]
    """Input tokens among them that were billed as cached."""


@dataclass(frozen=True, slots=True)
class FinalReplies:
    """Final replies by request and endpoint, the latest last: columns of one length."""

    row: NDArray[np.int64]
    endpoint: NDArray[np.int32]
    answered: NDArray[np.bool_]
    repaired: NDArray[np.bool_]
    served: NDArray[np.bool_]
    """Answered as planned: what a later plan of the same run does not send elsewhere."""
    limited: NDArray[np.bool_]
    """Nothing was said but to wait."""


class RunQueries:
    """Questions about one run. Rows are input rows, endpoints are positions in the job's list."""

    def __init__(
        self, warehouse: Path, run_id: str, endpoints: Sequence[str], batches: Sequence[str] = ()
    ) -> None:
        self._path, self._run_id, self._batches = warehouse, run_id, list(batches)
        self._names = pa.array(endpoints, pa.string())

    def together(self) -> AbstractContextManager[Warehouse]:
        """Open the warehouse once for all that is asked within."""
        return Warehouse.open(self._path)

    def scores(self, *, voted: bool = False) -> Observations:
        """Return the latest score of each answer of this run, by leaders' rows. `voted`: those too that were looked at
        because a vote had come to them."""
        row, endpoint, score = self._columns(SCORES, "score", voted=voted)
        return Observations(row, endpoint, score.astype(np.float64))

    def pilot_scores(self, *, served: bool = False) -> Observations:
        """Return the scores of requests drawn at random (pilot and audit), in the order of scoring, by leaders' rows.
        `served`: those of first answers too, which nobody's score has chosen."""
        purposes = ["pilot", "audit", "main"] if served else ["pilot", "audit"]
        row, endpoint, score = self._columns(PILOT_SCORES, "score", purposes=purposes)
        return Observations(row, endpoint, score.astype(np.float64))

    def token_usage(self) -> TokenUsage:
        """Return the tokens that each answer took."""
        return TokenUsage(*self._columns(USED_TOKENS, "input_tokens", "output_tokens"))

    def calls(self) -> CallFigures:
        """Return what this run's answers took."""
        names = "answers", "seconds", "input_tokens", "cached_tokens"
        _, endpoint, answers, *figures = self._columns(CALLS, *names)
        return CallFigures(endpoint, answers, *(figure.astype(np.float64) for figure in figures))

    def answers(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32], list[str]]:
        """Return what these rows were answered: columns of one length."""
        row, endpoint, output = self._columns(ANSWERS, "output", tables={"wanted": pa.table({"row": rows})})
        return row, endpoint, output.tolist()

    def replies(self) -> FinalReplies:
        """Return the final replies by request and endpoint, the latest last."""
        names = "answered", "repaired", "served", "limited"
        row, endpoint, *flags = self._columns(REPLIES, *names, batches=self._batches)
        return FinalReplies(row, endpoint, *(flag.astype(np.bool_) for flag in flags))

    def _columns(
        self, sql: str, *names: str, tables: Mapping[str, pa.Table] | None = None, **values: Any
    ) -> list[NDArray[Any]]:
        with self.together() as warehouse:
            table = warehouse.query(sql, tables, run_id=self._run_id, **values)
        positions = pc.fill_null(pc.index_in(table["endpoint"], value_set=self._names), -1)
        endpoint: NDArray[np.int32] = np.asarray(positions, np.int32)
        known = endpoint >= 0  # an endpoint that has left the job since
        columns: list[NDArray[Any]] = [np.asarray(table[name]) for name in ("row", *names)]
        columns.insert(1, endpoint)
        return [column[known] for column in columns]


NO_TOKEN_USAGE = TokenUsage(
    np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64)
)
"""Before anything was answered."""

NO_CALLS = CallFigures(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0), np.zeros(0), np.zeros(0))
"""Before anything was asked."""
