"""The linear mixed model behind `predict`: conditioning on scores, and learning how scores vary.

Scores of one request on the endpoints looked at are one vector with the other entries missing. Rows are grouped by which
endpoints were looked at (few patterns), tasks are eliminated one by one (given abilities and slopes they are independent),
so the work grows with tasks x endpoints^2 and with the scores, never with the population.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.threads import on_one_core

if TYPE_CHECKING:
    from thirdshift.router.prediction.observations import Observations, Population

Floats = NDArray[np.float64]

ABILITY_SPREAD = 0.25
"""Standard deviation of an ability around 0.5 when nothing is known."""
PRIOR_SPREAD = 0.10
"""Standard deviation of an ability around a catalogue's figure: public benchmarks overstate by about so much (FIELD.md)."""
PRIOR_DEGREES_OF_FREEDOM = 3.0
"""How many tasks or text columns the first guess of a covariance is worth, beyond the endpoints' number. With more, tasks
that differ widely are taken to differ less than they do, and the plan buys more quality than it sees; with less, a few
hundred requests are believed to tell more than they do, and the floor is missed."""
LUCK_FAITH = 8.0
"""How many requests the first guess of the variance of luck is worth, beyond the endpoints' number."""


@dataclass(frozen=True, slots=True)
class Covariances:
    """How scores vary between endpoints, each shape (endpoints, endpoints)."""

    ability: Floats
    skill: Floats
    slope: Floats
    residual: Floats
    guess: tuple[Floats, Floats, Floats]
    """The first guesses of skill, slope and luck, which few scores do not move far."""

    @staticmethod
    def first(endpoints: int, width: int, tasks: int, known: NDArray[np.bool_]) -> Covariances:
        """Where learning starts. A start at which tasks hardly differ is left slowly, so it is one at which each has
        favourites of its own; the guess is one at which they have not, or three tasks make a favourite of a fluke."""
        own, common = np.eye(endpoints), np.ones((endpoints, endpoints))
        spread = np.where(known, PRIOR_SPREAD, ABILITY_SPREAD) ** 2
        ability = np.diag(spread) * 0.7 + 0.3 * np.sqrt(np.outer(spread, spread))
        size = 0.04 if tasks > 1 else 1e-6
        skill = size * (0.5 * own + 0.5 * common)
        slope = 0.01 / max(1, width) * (0.4 * own + 0.6 * common)
        residual = 0.16 * (0.6 * own + 0.4 * common)
        guess = (size / 2 * (0.1 * own + 0.9 * common), slope / 20, residual)
        return Covariances(ability, skill, slope, residual, guess)


@dataclass(frozen=True, slots=True)
class Pattern:
    """The requests looked at on exactly these endpoints."""

    endpoints: NDArray[np.intp]
    rows: NDArray[np.intp]
    """Positions within `ScoredObservations`."""


@dataclass(frozen=True, slots=True)
class ScoredObservations:
    """The requests with a score, and their scores."""

    row: NDArray[np.int64]
    """Shape (m,): which requests, ascending."""
    score: Floats
    """Shape (m, endpoints), 0 where not looked at."""
    task: NDArray[np.int32]
    common: Floats
    """Shape (m, 1 + width): 1 and the text's columns."""
    patterns: tuple[Pattern, ...]
    tasks: int

    def plus(self, other: ScoredObservations) -> ScoredObservations:
        """Both, for learning; `row` of the other means nothing here."""
        begin = len(self.row)
        moved = tuple(Pattern(pattern.endpoints, pattern.rows + begin) for pattern in other.patterns)
        return ScoredObservations(
            np.concatenate([self.row, other.row]),
            np.concatenate([self.score, other.score]),
            np.concatenate([self.task, other.task]),
            np.concatenate([self.common, other.common]),
            self.patterns + moved,
            self.tasks,
        )


SELECTED = 0.5
"""Below this share of its usual score, where both were asked, an endpoint was not asked at random before the other."""


def asked_after_failing(looked: ScoredObservations) -> list[tuple[int, int]]:
    """Return (first, then): the endpoints of which one was asked about what the other had failed at."""
    return [
        (first, then)
        for first, then in permutations(range(looked.score.shape[1]), 2)
        if _mean(looked, first, beside=then) < SELECTED * _mean(looked, first, beside=first)
    ]


def _mean(looked: ScoredObservations, of: int, *, beside: int) -> float:
    """The mean score of an endpoint where another one was asked too; infinite where both never were."""
    both = [looked.score[p.rows, of] for p in looked.patterns if of in p.endpoints and beside in p.endpoints]
    return float(np.concatenate(both).mean()) if both else np.inf


def possible_luck(
    looked: ScoredObservations, posterior: Posterior, residual: Floats, pairs: Sequence[tuple[int, int]]
) -> Floats:
    """The luck's covariance without what cannot be: an endpoint that was asked where another had failed, and is often right
    there, is not right more often than always where the other is right. Nobody sees it there, and by a larger covariance it
    would be believed to be better everywhere than it is anywhere. `pairs`: of `asked_after_failing`."""
    expected = (looked.common @ posterior.common + posterior.skill[looked.task]).mean(axis=0)
    kept = np.ones(len(residual))
    for first, then in pairs:
        gain = residual[first, then] / residual[first, first]
        most = max(1.0 - (expected[then] - gain * expected[first]), 0.0)
        if gain > most:
            kept[then] = min(kept[then], most / gain)
    possible = residual * np.outer(kept, kept)
    np.fill_diagonal(possible, np.diag(residual))
    return possible


def looked_at(observations: Observations, population: Population, endpoints: int) -> ScoredObservations:
    row, place = np.unique(observations.row, return_inverse=True)
    score = np.zeros((len(row), endpoints))
    seen = np.zeros((len(row), endpoints), dtype=bool)
    score[place, observations.endpoint] = observations.score
    seen[place, observations.endpoint] = True
    kinds, kind = np.unique(seen, axis=0, return_inverse=True) if len(row) else (seen, np.zeros(0, int))
    patterns = tuple(
        Pattern(np.flatnonzero(of), np.flatnonzero(kind.ravel() == k)) for k, of in enumerate(kinds)
    )
    common = common_of(population.text[row])
    return ScoredObservations(row, score, population.task[row], common, patterns, population.tasks)


def common_of(text: NDArray[np.float32]) -> Floats:
    return np.hstack([np.ones((len(text), 1)), text.astype(np.float64)])


@dataclass(frozen=True, slots=True)
class Posterior:
    """Abilities and slopes (`common`), skills given them, and what is not known of both."""

    common: Floats
    """Shape (1 + width, endpoints)."""
    skill: Floats
    """Shape (tasks, endpoints)."""
    common_cov: Floats
    """Shape ((1 + width) x endpoints, the same)."""
    skill_cov: Floats
    """Given `common`: shape (tasks, endpoints, endpoints)."""
    link: Floats
    """How skills answer to `common`: shape (tasks, endpoints, (1 + width) x endpoints)."""
    evidence: float
    """Log likelihood of the scores, all that is not known integrated out."""

    def expected(self, task: NDArray[np.int32], text: NDArray[np.float32]) -> Floats:
        plain: Floats = text.astype(np.float64) @ self.common[1:] + self.common[0] + self.skill[task]
        return plain

    def drawn(self, rng: np.random.Generator) -> Posterior:
        """Abilities, slopes and skills drawn together."""
        width, endpoints = self.common.shape
        shift = _root(self.common_cov) @ rng.standard_normal(width * endpoints)
        own = _root(self.skill_cov) @ rng.standard_normal((len(self.skill), endpoints, 1))
        skill = self.skill - self.link @ shift + own[..., 0]
        return replace(self, common=self.common + shift.reshape(width, endpoints), skill=skill)


def gain_of(residual: Floats, endpoints: NDArray[np.intp]) -> Floats:
    """What the luck at these endpoints says of the luck at all: shape (all, these)."""
    inside = residual[np.ix_(endpoints, endpoints)]
    gain: Floats = np.linalg.solve(inside, residual[endpoints]).astype(np.float64).T
    return gain


@on_one_core
def condition(looked: ScoredObservations, covariances: Covariances, abilities: Floats) -> Posterior:
    """What the scores say, by eliminating the tasks from the normal equations."""
    endpoints, width = len(abilities), looked.common.shape[1]
    size = width * endpoints
    precision, pull = _prior(covariances, abilities, width)
    task_precision = np.tile(_inverse(covariances.skill), (looked.tasks, 1, 1))
    task_common = np.zeros((looked.tasks, endpoints, width, endpoints))
    task_pull = np.zeros((looked.tasks, endpoints))
    evidence = -0.5 * _log_det(covariances.ability) - 0.5 * (width - 1) * _log_det(covariances.slope)
    evidence -= 0.5 * looked.tasks * _log_det(covariances.skill) + 0.5 * abilities @ pull[:endpoints]
    for pattern in looked.patterns:
        at = pattern.endpoints
        inside = covariances.residual[np.ix_(at, at)]
        full = np.zeros((endpoints, endpoints))
        full[np.ix_(at, at)] = _inverse(inside)
        common, task = looked.common[pattern.rows], looked.task[pattern.rows]
        weighed = looked.score[pattern.rows] @ full
        evidence -= 0.5 * (
            len(common) * _log_det(inside) + float((weighed * looked.score[pattern.rows]).sum())
        )
        precision += np.kron(common.T @ common, full)
        pull += (common.T @ weighed).ravel()
        counts = np.bincount(task, minlength=looked.tasks)
        sums = np.zeros((looked.tasks, width))
        np.add.at(sums, task, common)
        task_precision += counts[:, None, None] * full
        task_common += full[None, :, None, :] * sums[:, None, :, None]
        np.add.at(task_pull, task, weighed)
    skill_cov = _inverse(task_precision)
    flat = task_common.reshape(looked.tasks, endpoints, size)
    link = skill_cov @ flat
    precision -= np.einsum("tec,ted->cd", flat, link, optimize=True)
    pull -= np.einsum("tec,te->c", link, task_pull)
    common_cov = _inverse(precision)
    solved = common_cov @ pull
    skill: Floats = np.einsum("tef,tf->te", skill_cov, task_pull) - link @ solved
    evidence += 0.5 * (
        float(pull @ solved) + float(np.einsum("te,tef,tf->", task_pull, skill_cov, task_pull))
    )
    evidence += 0.5 * (_log_det(common_cov) + float(np.linalg.slogdet(skill_cov)[1].sum()))
    return Posterior(solved.reshape(width, endpoints), skill, common_cov, skill_cov, link, evidence)


def _root(matrix: Floats) -> Floats:
    return np.linalg.cholesky(matrix + 1e-12 * np.eye(matrix.shape[-1])).astype(np.float64, copy=False)


def _inverse(matrix: Floats) -> Floats:
    return np.linalg.inv(matrix).astype(np.float64, copy=False)


def _log_det(matrix: Floats) -> float:
    return float(np.linalg.slogdet(matrix)[1])


def _prior(covariances: Covariances, abilities: Floats, width: int) -> tuple[Floats, Floats]:
    endpoints = len(abilities)
    precision = np.zeros((width * endpoints, width * endpoints))
    inverse = _inverse(covariances.ability)
    precision[:endpoints, :endpoints] = inverse
    if width > 1:
        precision[endpoints:, endpoints:] = np.kron(np.eye(width - 1), _inverse(covariances.slope))
    pull = np.zeros(width * endpoints)
    pull[:endpoints] = inverse @ abilities
    return precision, pull


@on_one_core
def improve(looked: ScoredObservations, posterior: Posterior, covariances: Covariances) -> Covariances:
    """One round: the covariances that are likeliest given what the scores say of skills, slopes and luck."""
    endpoints = posterior.common.shape[1]
    cov, link = posterior.common_cov, posterior.link
    touched = np.bincount(looked.task, minlength=looked.tasks) > 0
    through = link[touched] @ cov @ np.swapaxes(link[touched], 1, 2)
    skills = posterior.skill[touched]
    skill_sum = skills.T @ skills + (posterior.skill_cov[touched] + through).sum(axis=0)
    slopes = posterior.common[1:]
    blocks = cov.reshape(len(slopes) + 1, endpoints, len(slopes) + 1, endpoints)
    slope_sum = slopes.T @ slopes + sum(
        (blocks[k, :, k, :] for k in range(1, len(slopes) + 1)), np.zeros_like(skill_sum)
    )
    luck_sum = _luck(looked, posterior, covariances)
    guesses = covariances.guess
    return Covariances(
        covariances.ability,
        _blend(skill_sum, int(touched.sum()), guesses[0], PRIOR_DEGREES_OF_FREEDOM + endpoints),
        _blend(slope_sum, len(slopes), guesses[1], PRIOR_DEGREES_OF_FREEDOM + endpoints),
        _blend(luck_sum, len(looked.row), guesses[2], LUCK_FAITH + endpoints),
        guesses,
    )


def _blend(total: Floats, count: int, guess: Floats, faith: float) -> Floats:
    mixed: Floats = (total + faith * guess) / (count + faith)
    return (mixed + mixed.T) / 2 + 1e-9 * np.eye(len(guess))


def _luck(looked: ScoredObservations, posterior: Posterior, covariances: Covariances) -> Floats:
    """The sum over requests of E[luck luck'], the endpoints not looked at filled in by those that were."""
    expected = looked.common @ posterior.common + posterior.skill[looked.task]
    endpoints = expected.shape[1]
    total = np.zeros((endpoints, endpoints))
    unsure = _unsure(looked, posterior)
    for pattern in looked.patterns:
        gain = gain_of(covariances.residual, pattern.endpoints)
        rest = covariances.residual - gain @ covariances.residual[pattern.endpoints]
        at = np.ix_(pattern.rows, pattern.endpoints)
        residual = (looked.score[at] - expected[at]) @ gain.T
        total += residual.T @ residual + len(pattern.rows) * rest
        counts = np.bincount(looked.task[pattern.rows], minlength=looked.tasks)
        here = np.einsum("t,tef->ef", counts, unsure)[np.ix_(pattern.endpoints, pattern.endpoints)]
        total += gain @ here @ gain.T
    return total


def _unsure(looked: ScoredObservations, posterior: Posterior) -> Floats:
    """The covariance of a request's expected scores, text at its task's mean: shape (tasks, endpoints, endpoints)."""
    width, endpoints = posterior.common.shape
    counts = np.maximum(np.bincount(looked.task, minlength=looked.tasks), 1)
    means = np.zeros((looked.tasks, width))
    np.add.at(means, looked.task, looked.common)
    means /= counts[:, None]
    direct = (means[:, None, :, None] * np.eye(endpoints)[None, :, None, :]).reshape(
        looked.tasks, endpoints, -1
    )
    reach = direct - posterior.link
    unsure: Floats = posterior.skill_cov + (reach @ posterior.common_cov) @ np.swapaxes(reach, 1, 2)
    return unsure
