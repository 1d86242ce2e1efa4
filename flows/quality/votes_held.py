"""What a run knows, once it has served, of the requests whose answer a vote has come to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.planning.assignment import Assignment
from thirdshift.flows.planning.learner import Learner
from thirdshift.flows.planning.voting import KnownAnswers, ServedByVotes
from thirdshift.router.learning import votes
from thirdshift.router.learning.votes import Vote
from thirdshift.router.prediction.observations import Observations, PastScores

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class VotesHeld:
    """Columns of endpoints, and behind them one for each vote that has served."""

    of: tuple[Vote, ...]
    mine: tuple[NDArray[np.int64], ...]
    """[votes] the leaders that each has served."""
    agreed: NDArray[np.bool_]
    """[leaders] because two answers agree."""
    observations: Observations
    """Scores of endpoints for their own sake, and of votes."""
    priors: Floats
    before: PastScores
    """Scores of earlier nights, likewise."""
    known: KnownAnswers | None
    scores: Observations
    """All of the run, whoever chose what was looked at."""
    by_one_rule: bool
    """A request's own score does not say where it goes."""

    @staticmethod
    def of_run(learner: Learner, assignment: Assignment) -> VotesHeld:
        """`assignment`: as it stands."""
        context, observed, scores = (
            learner.context,
            learner.observed(),
            learner.run_queries.scores(voted=True),
        )
        scores = Observations(learner.columns.positions(scores.row), scores.endpoint, scores.score)
        under = np.flatnonzero(assignment.by_vote)
        if not len(under):
            return VotesHeld(
                (), (), assignment.agreed, observed, context.priors, learner.before, None, scores, False
            )
        triples, which = np.unique(assignment.vote[under], axis=0, return_inverse=True)
        voting = tuple(Vote(*triple) for triple in triples.tolist())
        mine = tuple(under[which.ravel() == place] for place in range(len(voting)))
        served = _served(assignment, under, scores)
        known = learner.known_answers(observed, served)
        width = len(context.priors)
        return VotesHeld(
            voting,
            mine,
            assignment.agreed,
            observed.plus(known.observations(voting, width)),
            np.concatenate([context.priors, np.full(len(voting), np.nan)]),
            learner.before.plus(known.past(voting, width)),
            known,
            scores,
            learner.by_one_rule,
        )

    def columns(self, endpoint: NDArray[np.int32], assignment: Assignment) -> NDArray[np.int32]:
        """[leaders] `endpoint`, or the column of the vote that its answer was chosen by."""
        column, width = endpoint.copy(), len(self.priors) - len(self.of)
        for place, rows in enumerate(self.mine):
            column[rows[endpoint[rows] == assignment.served[rows]]] = width + place
        return column

    def told(self, quality: NDArray[np.float32], before: NDArray[np.float32]) -> NDArray[np.float32]:
        """[leaders, endpoints] `quality` with what two answers that agree, or do not, tell of every endpoint's: two that
        agree are worth the same.

        `before`: as predicted without a request's own scores.
        """
        width = len(self.priors) - len(self.of)
        found = quality[:, :width].copy()
        if self.known is None:
            return found
        own = np.full(found.shape, np.nan, np.float32)
        own[self.scores.row, self.scores.endpoint] = self.scores.score
        for vote, mine in zip(self.of, self.mine, strict=True):
            seen = self.known.seen
            tonight = np.arange(len(seen.held)) < len(self.known.position)
            both = np.flatnonzero(tonight & seen.held[:, vote.first] & seen.held[:, vote.second])
            same = votes.agree(seen, vote, both)
            for agreed in (True, False):
                rows = mine[self.agreed[mine] == agreed]
                alike = np.union1d(self.known.position[both[same == agreed]], rows)
                off = own[alike] - before[alike, :width]
                shift = np.nansum(off, axis=0) / ((~np.isnan(off)).sum(axis=0) + votes.SHRUNK)
                found[rows] = np.clip(found[rows] + shift, 0.0, 1.0)
            looked = np.isin(self.scores.row, mine) & (not self.by_one_rule)
            found[self.scores.row[looked], self.scores.endpoint[looked]] = self.scores.score[looked]
            equal, pair = mine[self.agreed[mine]], [vote.first, vote.second]
            known = np.isfinite(own[equal][:, pair]) & (not self.by_one_rule)
            alone = known[:, 1] & ~known[:, 0]  # that of the second
            worth = found[equal, np.where(alone, vote.second, vote.first)]
            found[equal, vote.first] = found[equal, vote.second] = worth
        return found


def _served(assignment: Assignment, under: NDArray[np.int64], scores: Observations) -> ServedByVotes:
    """Those of `under` whose answer has a score."""
    score = np.full(assignment.answered.shape, np.nan)
    score[scores.row, scores.endpoint] = scores.score
    found = score[under, assignment.served[under]]
    looked = ~np.isnan(found)
    return ServedByVotes(under[looked], assignment.vote[under[looked]], found[looked])
