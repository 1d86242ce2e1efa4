"""Votes: "A and B agree: serve A; else C" as an option beside the endpoints, with its own cost, score and covariance.

Two cheap answers that agree are the cheapest evidence there is where looking at scores costs. What a vote scores is
learnt as an endpoint's score is, from the answers that the pilot buys anyway: on requests where all three were looked at,
and on those that a vote has served. So whatever the prediction knows of tasks, of texts and of luck holds of votes too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.learning.situation import Looks
from thirdshift.router.lots import Sent, total
from thirdshift.router.prediction.observations import Observations

Floats = NDArray[np.float64]

MOST = 4
"""Votes that are weighed at a time: who chooses among many flatters himself."""
ENOUGH = 24
"""Requests on which all three must have been looked at before a vote is believed in."""
PRICES = 40
"""Prices of quality at which votes and endpoints compete to be candidates."""
DOUBT = 0.5
"""Standard errors by which the chosen votes are taken to be worse than they seem."""
SHRUNK = 4.0
"""Requests that the usual rate of disagreement counts for in each task."""
NOTHING = -1
"""An answer that agrees with none."""


@dataclass(frozen=True, slots=True, order=True)
class Vote:
    """Where `first` and `second` agree, the first's answer is served, else that of `third`."""

    first: int
    second: int
    third: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a run's answers."""

    score: Floats
    """[n, endpoints] NaN where not looked at for the endpoint's own sake: what a vote serves is looked at where two agree,
    or where they do not, and tells of the vote alone."""
    answer: NDArray[np.int32]
    """[n, endpoints] equal numbers in a row are equal answers; NOTHING where there is none, or none is known."""
    held: NDArray[np.bool_]
    """[n, endpoints] answered, so that `answer` is known."""
    voted: NDArray[np.int32]
    """[n, 3] the vote that served the request; -1: none did."""
    shown: Floats
    """[n] the score of what a vote served, where the request was drawn to be looked at; else NaN."""


def agree(seen: Seen, vote: Vote, rows: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.bool_]:
    """Whether the two answers that are held are equal."""
    first, second = seen.answer[rows, vote.first], seen.answer[rows, vote.second]
    return np.asarray((first == second) & (first != NOTHING))


def scores(seen: Seen, vote: Vote) -> tuple[NDArray[np.int64], Floats]:
    """Requests that tell what the vote scores, chosen whatever its answers were, and their scores."""
    three = [vote.first, vote.second, vote.third]
    looked = ~np.isnan(seen.score[:, three]).any(axis=1)
    served = (seen.voted == three).all(axis=1) & ~np.isnan(seen.shown)
    rows = np.flatnonzero(looked | served)
    same = agree(seen, vote, rows)
    found = np.where(same, seen.score[rows, vote.first], seen.score[rows, vote.third])
    return rows, np.where(served[rows], seen.shown[rows], found)


def candidates(
    seen: Seen, cost_usd: Floats, allowed: NDArray[np.bool_], sent: Sent = None
) -> list[tuple[Vote, float]]:
    """The few votes that look best at some price of quality, and by how much each may be flattered. `sent`: how many
    requests each row has."""
    finite = np.isfinite(cost_usd)
    usual = total(np.where(finite, cost_usd, 0.0), sent) / np.maximum(total(finite, sent), 1.0)
    usual[~finite.any(axis=0)] = np.inf
    able = [
        e for e in np.argsort(usual, kind="stable").tolist() if allowed[:, e].any() and np.isfinite(usual[e])
    ]
    looked = ~np.isnan(seen.score)
    found: list[tuple[Vote, float, float, float]] = []
    for first, second in combinations(able, 2):
        for third in able:
            if third in (first, second) or usual[third] < usual[[first, second]].max():
                continue
            rows = np.flatnonzero(looked[:, [first, second, third]].all(axis=1))
            if len(rows) < ENOUGH:
                continue
            better = (
                (first, second)
                if seen.score[rows, first].mean() >= seen.score[rows, second].mean()
                else (second, first)
            )
            vote = Vote(*better, third)
            same = agree(seen, vote, rows)
            score = np.where(same, seen.score[rows, vote.first], seen.score[rows, third])
            gain = score - seen.score[rows, third]
            spread = float(np.sqrt((gain.var() + 0.25 / len(rows)) / len(rows)))
            # beside the third alone, whose mean is known from more requests
            mean = float(np.nanmean(seen.score[:, third])) + float(gain.mean()) - DOUBT * spread
            spent = float(usual[first] + usual[second] + (~same).mean() * usual[third])
            found.append((vote, mean, spent, DOUBT * spread))
    if not found:
        return []
    singles = [(float(np.nanmean(seen.score[:, e])), float(usual[e])) for e in able if looked[:, e].any()]
    quality = np.array([each[1] for each in found] + [mean for mean, _ in singles])
    cost = np.array([each[2] for each in found] + [spent for _, spent in singles])
    prices = np.geomspace(0.1 * max(cost.min(), 1e-12), 100.0 * cost.max(), PRICES)
    best = (cost - prices[:, None] * quality).argmin(axis=1)
    wins = np.bincount(best, minlength=len(cost))[: len(found)]
    order = np.argsort(-wins, kind="stable")[:MOST]
    return [(found[c][0], found[c][3]) for c in sorted(order.tolist()) if wins[c]]


def differing(seen: Seen, vote: Vote, task: NDArray[np.int32], tasks: int) -> Floats:
    """[tasks] how often the first two are expected to differ. `task`: of the requests that `seen` is of."""
    both = np.flatnonzero(seen.held[:, vote.first] & seen.held[:, vote.second])
    differ = (~agree(seen, vote, both)).astype(np.float64)
    rate = (differ.sum() + 1.0) / (len(both) + 2.0)
    summed = np.bincount(task[both], differ, tasks) + SHRUNK * rate
    return np.asarray(summed / (np.bincount(task[both], minlength=tasks) + SHRUNK))


def cost_of(vote: Vote, left_usd: Floats, differ: Floats) -> Floats:
    """[n] what a vote is expected to cost yet. `left_usd`: [n, endpoints], 0 where an answer is held; `differ`: [n]."""
    first, second, third = (left_usd[:, e] for e in (vote.first, vote.second, vote.third))
    return first + second + differ * third


def costs(seen: Seen, votes: Sequence[Vote], cost_usd: Floats, task: NDArray[np.int32], tasks: int) -> Floats:
    """[n, votes] what a vote still costs: answers held are paid for; how often two agree is learnt by task."""
    left = np.where(seen.held, 0.0, cost_usd)
    columns = [cost_of(vote, left, differing(seen, vote, task, tasks)[task]) for vote in votes]
    return np.stack(columns, axis=1) if columns else np.zeros((len(task), 0))


def observed(seen: Seen, votes: Sequence[Vote], observations: Observations) -> Observations:
    """The scores of endpoints, and of votes as if each were one more endpoint."""
    width = seen.score.shape[1]
    for place, vote in enumerate(votes):
        rows, score = scores(seen, vote)
        observations = observations.plus(
            Observations(rows, np.full(len(rows), width + place, np.int32), score)
        )
    return observations


def served_by(seen: Seen, vote: Vote, rows: NDArray[np.int64]) -> NDArray[np.int32]:
    """[rows] whose answer is served once the first two are held: the first's, or the third's, who is then to be asked."""
    return np.where(agree(seen, vote, rows), vote.first, vote.third).astype(np.int32)


def by_endpoint(looks: Looks, voting: Sequence[Vote], width: int) -> Looks:
    """Looks at endpoints alone, the first `width` columns: a vote is looked at by what its first two say."""
    rows, endpoints = [looks.row], [looks.endpoint]
    for place, vote in enumerate(voting):
        of = looks.row[looks.endpoint == width + place]
        rows += [of, of]
        endpoints += [np.full(len(of), vote.first, np.int32), np.full(len(of), vote.second, np.int32)]
    row, endpoint = np.concatenate(rows), np.concatenate(endpoints)
    real = endpoint < width
    pairs = np.unique(np.stack([row[real], endpoint[real].astype(np.int64)]), axis=1)
    return Looks(pairs[0], pairs[1].astype(np.int32))
