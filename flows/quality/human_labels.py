"""What people's scores of a random part of a run's answers show of all of them.

The order in which answers are drawn is one shuffle of all of a run's results by a seed made of its id, so nothing need be
kept between export and import, and a larger export goes on where a smaller one ended. People are asked about each answer
once, whoever asked it twice; an answer that is none, or whose text was purged, scores 0 without being asked about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from thirdshift.flows.quality.draws import seed_of
from thirdshift.router.certification.certificate import (
    Certificate,
    Claim,
    ScoredSample,
    certify,
    certify_people,
)
from thirdshift.router.certification.scorers import Basis
from thirdshift.warehouse.store.store import Warehouse

RANDOM_SHARE = 0.5
"""A file is a random part where at least so many of its answers are the first of the order drawn: a few of them are in
any file by chance."""
PEOPLE = "people"

RESULTS = """
select q.row, q.leader, q.request_id, q.task, r.endpoint, r.model, q.request_hash is null as purged,
       r.error is null and (r.output is not null or q.request_hash is null) as answered, o.score,
       a.predicted_quality as predicted
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


@dataclass(frozen=True, slots=True)
class Answers:
    """A run's results by request, in the order of the input. Columns of one length."""

    table: pa.Table
    leader: NDArray[np.int64]
    """Place of the request whose answer each of them is served with: its own, or of the one that it repeats."""
    order: NDArray[np.int64]
    """Places of those with an answer that can be read, as they are drawn."""
    purged: tuple[str, ...] = ()
    """Ids of those whose answer was purged."""

    def firsts(self) -> NDArray[np.int64]:
        """Places in the order drawn, each answer once, where it was asked for first."""
        leaders = self.leader[self.order]
        _, first = np.unique(leaders, return_index=True)
        return leaders[np.sort(first)]


def answers_of(warehouse: Warehouse, run_id: str) -> Answers:
    """Return a run's results as people are asked about them; a purge changes nothing in the order of those that stay."""
    table = warehouse.query(RESULTS, run_id=run_id)
    answered, purged = (np.asarray(table[name], np.bool_) for name in ("answered", "purged"))
    leader = np.searchsorted(np.asarray(table["row"], np.int64), np.asarray(table["leader"], np.int64))
    order = np.random.default_rng(seed_of(run_id, 0)).permutation(np.flatnonzero(answered))
    gone = table["request_id"].filter(pa.array(answered & purged)).to_pylist()
    return Answers(table, _readable(leader, purged), order[~purged[order]], tuple(map(str, gone)))


def _readable(leader: NDArray[np.int64], purged: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the leaders with the first that was not purged in place of one that was."""
    stays = np.flatnonzero(~purged)
    _, first, group = np.unique(leader[stays], return_index=True, return_inverse=True)
    changed = leader.copy()
    changed[stays] = stays[first][group]
    return changed


def certified(
    answers: Answers, scores: Mapping[int, float | None], run: Mapping[str, Any], *, again: bool
) -> list[Certificate]:
    """Return what people's scores show, of the whole batch and of tasks where the floor is per task.

    `scores`: by place in the order of the input. An answer that people passed over before the last they scored counts as
    0. `again`: more were scored since a first certificate.
    """
    quality = run["config"]["quality"]
    claim = Claim(quality["floor"], quality["confidence"], Basis.HUMAN, PEOPLE)
    by_leader = {int(answers.leader[place]): score for place, score in scores.items()}
    drawn = answers.order[: _first_missing(answers, by_leader)]
    filled = [
        k for k, place in enumerate(drawn.tolist()) if by_leader[int(answers.leader[place])] is not None
    ]
    drawn = drawn[: filled[-1] + 1] if filled else drawn[:0]
    people = np.array([by_leader[int(answers.leader[place])] or 0.0 for place in drawn.tolist()], np.float64)
    tasks = answers.table["task"].to_numpy()
    names = [None, *dict.fromkeys(tasks.tolist())] if quality["per_task"] else [None]
    return [_of(replace(claim, task=name), answers, drawn, people, tasks, again=again) for name in names]


def is_random_part(answers: Answers, scores: Mapping[int, float | None]) -> bool:
    """Whether the answers in a file are, but for some added to them, the beginning of the order drawn."""
    by_leader = {int(answers.leader[place]): score for place, score in scores.items()}
    drawn = np.unique(answers.leader[answers.order[: _first_missing(answers, by_leader)]])
    return len(drawn) > 0 and len(drawn) >= RANDOM_SHARE * len(by_leader)


def _first_missing(answers: Answers, by_leader: Mapping[int, float | None]) -> int:
    """Return how many of the order's first are in the file: the random part that it is."""
    for count, place in enumerate(answers.order.tolist()):
        if int(answers.leader[place]) not in by_leader:
            return count
    return len(answers.order)


def _of(
    claim: Claim,
    answers: Answers,
    drawn: NDArray[np.int64],
    people: NDArray[np.float64],
    tasks: NDArray[Any],
    *,
    again: bool,
) -> Certificate:
    in_task = np.ones(len(tasks), bool) if claim.task is None else tasks == claim.task
    population = int(in_task.sum())
    answered = answers.order[in_task[answers.order]]
    of_task = in_task[drawn]
    drawn, people = drawn[of_task], people[of_task]
    before, known = _believed(answers)
    if len(people) and known[drawn].any():
        made = certify_people(claim, people, before[drawn], before[answered], len(answered))
        share = len(answered) / population  # the rest scores 0
        return replace(
            made, population=population, mean=made.mean * share, lower_bound=made.lower_bound * share
        )
    nothing = np.zeros(population - len(answered))
    binary = not again and bool(np.isin(people, (0.0, 1.0)).all())
    made = certify(claim, ScoredSample(population, nothing, people, binary=binary))
    return replace(made, scored=len(people))


def _believed(answers: Answers) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return what every answer was believed to be worth before people scored it, and which had a score.

    It is the score by the run's scorer, else the prediction. Its mean over all answers is known exactly, and so may correct
    people's.
    """
    scored, predicted = (
        np.asarray(answers.table[name].cast(pa.float64()).fill_null(np.nan), np.float64)
        for name in ("score", "predicted")
    )
    known = np.isfinite(scored)
    usual = float(scored[known].mean()) if known.any() else 0.5
    return np.clip(np.where(known, scored, np.nan_to_num(predicted, nan=usual)), 0.0, 1.0), known
