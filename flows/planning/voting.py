"""Votes of a run: which are weighed beside the endpoints, what the answers held say of them, and what came of each.

A request under a vote is sent to two endpoints; where their answers agree, as the job's scorer compares, the first's is
served, else a third endpoint is asked. Which requests are under which vote is kept in the run's folder, so that a resumed
run goes on with the same votes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.planning.assignment import Assignment
from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.planning.history import PastOutputs
from thirdshift.flows.planning.measured.run_queries import FinalReplies, RunQueries
from thirdshift.flows.planning.planner import Market
from thirdshift.router.certification.equality import answer_key
from thirdshift.router.certification.scorers import Scorer
from thirdshift.router.learning import votes
from thirdshift.router.learning.votes import NOTHING, Seen, Vote
from thirdshift.router.lots import mean
from thirdshift.router.planning.market import Offer
from thirdshift.router.planning.problem import Option, Plan
from thirdshift.router.prediction.observations import Observations, PastScores, no_observations
from thirdshift.router.values import Endpoint
from thirdshift.warehouse.journal.files import write_whole
from thirdshift.world import REAL, World

Floats = NDArray[np.float64]

FILE = "votes.npz"
"""In the run's folder: rows under a vote, and the three endpoints of each."""
TAUGHT = 20_000
"""Requests whose answers are compared to learn how often endpoints agree; more say nothing new."""
AT_ONCE = 50_000
"""Requests whose answers are read at a time."""


# --- what is known ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KnownAnswers:
    """What the scored requests' answers say: `seen` is of tonight's, then of those of earlier nights."""

    position: NDArray[np.int64]
    """Tonight's requests, by their places among the leaders, ascending."""
    request: NDArray[np.int64]
    """Those of earlier nights, by their numbers in `PastScores`."""
    task: NDArray[np.int32]
    """All of them."""
    seen: Seen

    def observations(self, voting: Sequence[Vote], width: int) -> Observations:
        """Tonight's scores of votes, as if each were one more endpoint after the first `width`."""
        at, column, score = self._scores(voting, width)
        here = at < len(self.position)
        return Observations(self.position[at[here]], column[here], score[here])

    def past(self, voting: Sequence[Vote], width: int) -> PastScores:
        """Earlier nights' scores of votes, as if each were one more endpoint after the first `width`."""
        at, column, score = self._scores(voting, width)
        there = at >= len(self.position)
        at = at[there]
        return PastScores(self.task[at], column[there], score[there], self.request[at - len(self.position)])

    def _scores(
        self, voting: Sequence[Vote], width: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], Floats]:
        rows, columns, scores = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)], [np.zeros(0)]
        for place, vote in enumerate(voting):
            at, score = votes.scores(self.seen, vote)
            rows.append(at)
            columns.append(np.full(len(at), width + place, np.int32))
            scores.append(score)
        return np.concatenate(rows), np.concatenate(columns), np.concatenate(scores)


@dataclass(frozen=True, slots=True)
class ServedByVotes:
    """Requests whose answer a vote has come to and somebody has looked at."""

    position: NDArray[np.int64]
    """Among the leaders, ascending."""
    vote: NDArray[np.int16]
    """[n, 3]"""
    score: Floats


def known_answers(
    run_queries: RunQueries | None,
    columns: RequestColumns,
    observed: Observations,
    past: PastOutputs | None,
    scorer: Scorer | None,
    served: ServedByVotes | None = None,
) -> KnownAnswers:
    """`observed`: scores of endpoints for their own sake; `served`: what votes have served and what that scored."""
    rows = np.unique(observed.row)
    if len(rows) > TAUGHT:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:TAUGHT])
    if served is not None:
        rows = np.union1d(rows, served.position)
    requests = np.zeros(0, np.int64) if past is None else np.unique(past.request)
    count, width = len(rows), columns.allowed.shape[1]
    shape = (count + len(requests), width)
    score, answer, held = np.full(shape, np.nan), np.full(shape, NOTHING, np.int32), np.zeros(shape, bool)
    task = np.concatenate([columns.population.task[rows], np.zeros(len(requests), np.int32)])
    part = observed.where(np.isin(observed.row, rows))
    score[np.searchsorted(rows, part.row), part.endpoint] = part.score
    if count and run_queries is not None:
        row, endpoint, outputs = run_queries.answers(columns.rows[rows])
        at = np.searchsorted(columns.rows[rows], row)
        held[at, endpoint] = True
        answer[at, endpoint] = _codes([answer_key(scorer, output) for output in outputs])
    if past is not None:
        at = count + np.searchsorted(requests, past.request)
        held[at, past.endpoint] = True
        score[at, past.endpoint] = past.score
        answer[at, past.endpoint] = _codes([answer_key(scorer, output) for output in past.output])
        task[at] = past.task
    voted, shown = np.full((len(score), 3), -1, np.int32), np.full(len(score), np.nan)
    if served is not None:
        at = np.searchsorted(rows, served.position)
        voted[at], shown[at] = served.vote, served.score
    return KnownAnswers(rows, requests, task, Seen(score, answer, held, voted, shown))


def _codes(keys: Sequence[str | None]) -> NDArray[np.int32]:
    """Equal numbers for equal keys; NOTHING for none."""
    numbers: dict[str, int] = {}
    codes = [NOTHING if key is None else numbers.setdefault(key, len(numbers)) for key in keys]
    return np.array(codes, np.int32)


# --- votes as options -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WithVotes:
    """What a plan is made of, with the votes that are weighed."""

    market: Market
    observations: Observations
    priors: Floats
    before: PastScores
    doubt: tuple[float, ...] = ()
    """By how much each vote may be flattered by having been chosen."""


def with_votes(
    columns: RequestColumns,
    endpoints: Sequence[Endpoint],
    market: Market,
    known: KnownAnswers,
    observations: Observations,
    priors: Floats,
    before: PastScores,
) -> WithVotes:
    """The market and what is known with the few votes beside it that look best."""
    left = np.where(columns.allowed, market.by_endpoint(), np.inf)
    left[:, ~_able(market, len(endpoints))] = np.inf
    chosen = votes.candidates(known.seen, left, np.isfinite(left), market.sent)
    voting = tuple(vote for vote, _ in chosen)
    if not voting:
        return WithVotes(market, observations, priors, before)
    return WithVotes(
        _priced(columns, endpoints, market, known, left, voting),
        observations.plus(known.observations(voting, len(endpoints))),
        np.concatenate([priors, np.full(len(voting), np.nan)]),
        before.plus(known.past(voting, len(endpoints))),
        tuple(doubt for _, doubt in chosen),
    )


def votes_of_before(
    columns: RequestColumns,
    endpoints: Sequence[Endpoint],
    market: Market,
    past: PastOutputs | None,
    scorer: Scorer | None,
    priors: Floats,
    before: PastScores,
) -> WithVotes:
    """The market and what is known with the few votes that look best by earlier nights' answers, before anything was asked
    tonight."""
    nothing = no_observations()
    if past is None:
        return WithVotes(market, nothing, priors, before)
    known = known_answers(None, columns, nothing, past, scorer)
    return with_votes(columns, endpoints, market, known, nothing, priors, before)


def _able(market: Market, endpoints: int) -> NDArray[np.bool_]:
    """[endpoints] who can vote: who answers at once, at one price all night, and is paid by the token."""
    able: NDArray[np.bool_] = np.bincount(market.endpoint, minlength=endpoints) == 1
    for offer in market.offered:
        at_once = not offer.option.windows and offer.option.turnaround_seconds <= 0
        able[offer.endpoint] &= at_once and offer.option.workers is None
    return able


def _priced(
    columns: RequestColumns,
    endpoints: Sequence[Endpoint],
    market: Market,
    known: KnownAnswers,
    left: Floats,
    voting: tuple[Vote, ...],
) -> Market:
    """The market with votes as its last options."""
    task, tasks = columns.population.task, columns.population.tasks
    offered, costs, reserved = list(market.offered), [], []
    place = {offer.endpoint: option for option, offer in enumerate(market.offered)}
    for vote in voting:
        differ = votes.differing(known.seen, vote, known.task, tasks)[task]
        option = _option(vote, endpoints, market, place, float(mean(differ, market.sent)))
        offered.append(Offer(option, vote.first, market.offered[place[vote.first]].factor))
        costs.append(votes.cost_of(vote, left, differ))
        reserved.append(market.most_usd[[place[vote.first], place[vote.second]]].sum())
    return replace(
        market,
        offered=tuple(offered),
        cost_usd=np.column_stack([market.cost_usd, *costs]),
        hours_usd=np.column_stack([market.hours_usd, *np.zeros((len(voting), len(left)))]),
        most_usd=np.concatenate([market.most_usd, reserved]),
        votes=voting,
    )


def _option(
    vote: Vote, endpoints: Sequence[Endpoint], market: Market, place: dict[int, int], differ: float
) -> Option:
    """The vote as an option: it takes of the limits of all three."""
    first, second, third = (place[e] for e in (vote.first, vote.second, vote.third))
    names = [endpoints[e].name for e in (vote.first, vote.second, vote.third)]
    own = market.offered[first].option
    return replace(
        own,
        name=f"{names[0]} and {names[1]} where they agree, else {names[2]}",
        calls=((first, 1.0), (second, 1.0), (third, differ)),
    )


def vote_sentences(market: Market, plan: Plan) -> list[str]:
    """How many requests of the plan are voted on, by whom."""
    counts = np.bincount(plan.choice[plan.choice >= market.singles], minlength=len(market.offered))
    return [
        f"{count:,} of them are voted on: {offer.option.name}"
        for offer, count in zip(market.offered, counts.tolist(), strict=True)
        if count
    ]


# --- votes under way --------------------------------------------------------------------------------------------------


def settle(
    assignment: Assignment,
    run_queries: RunQueries,
    columns: RequestColumns,
    scorer: Scorer | None,
    now: float,
) -> None:
    """Compare the answers that have come: where two agree the first stands, else the third is to be asked."""

    def same(
        position: NDArray[np.int64], first: NDArray[np.int16], second: NDArray[np.int16]
    ) -> NDArray[np.bool_]:
        found = np.zeros(len(position), bool)
        for begin in range(0, len(position), AT_ONCE):
            part = slice(begin, begin + AT_ONCE)
            rows = columns.rows[position[part]]
            row, endpoint, outputs = run_queries.answers(rows)
            keys = {
                (r, e): answer_key(scorer, output)
                for r, e, output in zip(row.tolist(), endpoint.tolist(), outputs, strict=True)
            }
            asked = zip(rows.tolist(), first[part].tolist(), second[part].tolist(), strict=True)
            both = [(keys.get((r, a)), keys.get((r, b))) for r, a, b in asked]
            found[part] = [a is not None and a == b for a, b in both]
        return found

    assignment.settle(now, same)


def keep_votes(
    folder: Path,
    assignment: Assignment,
    replies: FinalReplies,
    columns: RequestColumns,
    names: Sequence[str],
    world: World = REAL,
) -> None:
    """Go on with the votes of an earlier process on what it has begun, which is also where a second answer is held, and
    write down those of this one."""
    begun, before = np.zeros(len(assignment.target), bool), _load(folder, columns, names)
    begun[columns.positions(replies.row[replies.served])] = True
    if before is not None:
        held, endpoint = columns.positions(replies.row[replies.answered]), replies.endpoint[replies.answered]
        compared = held[before[held, 1] == endpoint]  # its first answer may be the pilot's
        compared = compared[~begun[compared]]
        assignment.target[compared], begun[compared] = before[compared, 0], True
    assignment.vote[begun] = -1 if before is None else before[begun]
    rows = np.flatnonzero(assignment.vote[:, 0] >= 0)
    if not len(rows) and before is None:
        return
    written = BytesIO()
    np.savez(written, row=columns.rows[rows], names=np.array(names, np.str_), vote=assignment.vote[rows])
    write_whole(folder / FILE, written.getvalue(), world)


def _load(folder: Path, columns: RequestColumns, names: Sequence[str]) -> NDArray[np.int16] | None:
    """[leaders, 3] the votes of an earlier process; those with an endpoint that has left the job are over."""
    path = folder / FILE
    if not path.exists():
        return None
    with np.load(path) as kept:
        now = [list(names).index(name) if name in names else -1 for name in kept["names"].tolist()]
        vote = np.array(now, np.int16)[kept["vote"]]
        row = kept["row"]
    found = np.full((len(columns.rows), 3), -1, np.int16)
    there = (vote >= 0).all(axis=1) & np.isin(row, columns.rows)
    found[columns.positions(row[there])] = vote[there]
    return found
