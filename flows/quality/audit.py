"""The random audit of answers that are not all scored: what is drawn, how many, and what it shows.

A draw shuffles, by a recorded seed, every request of the population whose served answer had no score when it was drawn;
the audit is a beginning of that order, so it may grow and be cut short and is a uniform sample all the same. What was
scored before for another reason (the pilot, an audit before a repair) counts as it is. A relative floor is audited on
pairs, the served answer and the baseline's, over the whole population.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.planning.input import PreparedInput
from thirdshift.flows.quality.draws import Draw, ServedAnswers, load, save, seed_of, served
from thirdshift.flows.quality.label_budget import HOPELESS, binary, is_relative, may_grow
from thirdshift.flows.quality.questions import pairs
from thirdshift.flows.quality.scoring import Scoring, ScoringRequest, baselines_of
from thirdshift.flows.runs.context import RunContext
from thirdshift.router.certification.certificate import (
    Certificate,
    Claim,
    ScoredSample,
    certify,
    certify_identity,
    certify_relative,
    labels_needed,
)
from thirdshift.router.certification.proof_costs import ProofCosts
from thirdshift.router.values import Mode, Purpose
from thirdshift.warehouse.store.judgements import PILOT_ANSWERS
from thirdshift.warehouse.store.store import Warehouse

Floats = NDArray[np.float64]

NOTHING = np.zeros(0, np.int64)
ENOUGH = 30
"""Scores from which on their own mean and variance are believed rather than the prediction's."""
GROWS = (1.2, 2.0)
"""An audit that has not shown the floor yet is extended to so many times its size, at least and at most: what it takes is
reckoned from few scores at first."""
AT_ONCE = (1.15, 1.4)
"""Bounds of an extension where scores come at once: none is asked for that need not be, and each takes seconds."""
DOUBTFUL = 1.0
"""Standard errors by which an audit's estimate must be below the floor before it is given up: the first few are luck."""


# --- what it shows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scope:
    """The whole batch, or a task of it, as it stands."""

    task: str | None
    known: Floats
    audit: Floats
    """In the order drawn, up to the first that has no score."""
    left: int
    """Drawn in the order, not yet scored."""
    predicted: float
    """Mean of those that are left."""
    baseline: Floats
    """For a relative floor: the baseline's scores of `audit`'s requests."""
    own: bool = False
    """For a relative floor: the baseline itself has served everything."""

    @property
    def population(self) -> int:
        return len(self.known) + len(self.audit) + self.left


def scopes_of(context: RunContext, view: ServedAnswers, draw: Draw) -> Iterator[Scope]:
    """Return the parts of the batch that the job's floor is asked of, as they stand."""
    per_task, relative = context.job.quality.per_task, is_relative(context)
    return scopes(view, draw, per_task=per_task, relative=relative, baselines=baselines_of(context))


def scopes(
    view: ServedAnswers, draw: Draw, *, per_task: bool, relative: bool, baselines: Collection[str] = ()
) -> Iterator[Scope]:
    """Yield the whole batch, then each task where the floor is per task.

    `baselines`: names of the endpoint that a relative floor is a share of.
    """
    names = ["", *dict.fromkeys(view.task.tolist())] if per_task else [""]
    own = (
        np.isin(np.array(view.endpoint, np.str_), list(baselines))
        if relative
        else np.zeros(len(view.row), bool)
    )
    at = {row: place for place, row in enumerate(view.row.tolist())}
    order = np.array([at[row] for row in draw.order.tolist() if row in at], np.int64)
    drawn, scorable = np.zeros(len(view.row), bool), np.ones(len(view.row), bool)
    drawn[order] = True
    if draw.sample:
        scorable[order[draw.sample :]] = False
    for name in names:
        in_scope = (view.task == name) if name else np.ones(len(view.row), bool)
        drawn_order = order[in_scope[order]]
        unknown = np.isnan(view.score[drawn_order]) | ~scorable[drawn_order]
        unknown |= np.isnan(view.baseline[drawn_order]) if relative else False
        done = int(unknown.argmax()) if unknown.any() else len(drawn_order)
        rest = view.predicted[drawn_order[done:]]
        predicted = float(np.nanmean(rest)) if len(rest) and not np.isnan(rest).all() else 1.0
        known = np.nan_to_num(view.score[in_scope & ~drawn])
        scored = drawn_order[:done]
        yield Scope(
            name or None, known, view.score[scored], len(drawn_order) - done, predicted, view.baseline[scored],
            bool(own[in_scope].all()) and relative,
        )  # fmt: skip


def claim_of(context: RunContext, task: str | None) -> Claim:
    quality, scorer = context.job.quality, context.scorer
    if scorer is None:
        raise ValueError("no scorer, no claim")
    return Claim(quality.floor, quality.confidence, context.basis, scorer.shown, task)


def certificate(context: RunContext, scope: Scope, number: int) -> Certificate:
    claim = claim_of(context, scope.task)
    if scope.own:
        return certify_identity(claim, scope.population)
    if is_relative(context):
        return certify_relative(claim, scope.audit, scope.baseline, scope.population, audit_round=number)
    sample = ScoredSample(scope.population, scope.known, scope.audit, binary=binary(context))
    return certify(claim, sample, audit_round=number)


def certificates(warehouse: Warehouse, context: RunContext) -> tuple[Certificate, ...]:
    """Return what the run's audit shows: of the whole batch first, then of its tasks where the floor is per task.

    Empty before anything was drawn.
    """
    first = context.folder / "audit-1.npz"
    if not first.exists():
        return ()
    with np.load(first) as rows:
        population = rows["population"]  # all had a result then; fewer may, where a repair was stopped
    return shown(context, served(warehouse, context, population))


def shown(context: RunContext, view: ServedAnswers) -> tuple[Certificate, ...]:
    """Return the certificates of the draw in force: one whose answers a repair has replaced shows nothing."""
    draw = in_force(context, view)
    return tuple(certificate(context, scope, draw.number) for scope in scopes_of(context, view, draw))


# --- how many ---------------------------------------------------------------------------------------------------------


def size_for(context: RunContext, scope: Scope) -> int:
    """Return how many of the scope's order should be scored, as far as is known."""
    quality = context.job.quality
    rest = len(scope.audit) + scope.left
    if scope.own:
        return 0
    if quality.audit is not None:
        return min(quality.audit, rest)
    if is_relative(context):
        floor, mean, spread = _paired(quality.floor, scope)
    else:
        seen = np.concatenate([scope.known, scope.audit])
        mean = float(scope.audit.mean()) if len(scope.audit) >= ENOUGH else scope.predicted
        floor = (quality.floor * scope.population - float(scope.known.sum())) / max(rest, 1)
        spread = float(seen.var()) if len(seen) >= ENOUGH else mean * (1.0 - mean)
    if floor <= 0.0 and not is_relative(context):
        return 0
    exact = None if not binary(context) or is_relative(context) else True
    needed = labels_needed(floor, mean, quality.confidence, rest, spread=None if exact else max(spread, 1e-3))
    return min(HOPELESS, rest) if needed is None else needed


def first_size(context: RunContext, scope: Scope) -> int:
    """Return how many are scored before it is asked how many it takes."""
    size = size_for(context, scope)
    return min(size, ENOUGH) if may_grow(context) and scores_at_once(context) else size


def scores_at_once(context: RunContext) -> bool:
    """Whether those who are asked for scores answer at once."""
    asked = [] if context.judge is None else [context.judge.endpoint]
    asked += [endpoint for endpoint in context.endpoints if endpoint.name in baselines_of(context)[-1:]]
    return all(endpoint.mode is Mode.REALTIME for endpoint in asked)


def given_up(context: RunContext, scope: Scope, shown: Certificate) -> bool:
    """Whether the estimate is too far below the floor for chance."""
    count, left = len(scope.audit), scope.left / max(len(scope.audit) + scope.left, 1)
    if is_relative(context):
        gaps, share = scope.audit - shown.floor * scope.baseline, 1.0
        short = -float(gaps.mean()) if count else 0.0
    else:
        gaps, short = scope.audit, shown.floor - shown.mean
        share = (count + scope.left) / max(scope.population, 1)
    error = share * math.sqrt(float(gaps.var()) * left / count) if count else 0.0
    return short > DOUBTFUL * error


def mended_to(scope: Scope, number: int, costs: ProofCosts) -> float | None:
    """Return the quality to which mending costs less than going on with this audit; None: going on costs less."""
    count = len(scope.audit)
    if not count:
        return None
    rest = count + scope.left
    mean = float(scope.known.sum() + rest * scope.audit.mean()) / scope.population
    spread = rest / scope.population * math.sqrt(mean * (1.0 - mean) / count * scope.left / rest)
    return costs.aim(mean, spread, count, number)


def _paired(floor: float, scope: Scope) -> tuple[float, float, float]:
    """Return 0, and mean and variance of the served score less the floor times the baseline's."""
    if len(scope.audit) >= ENOUGH:
        gap = scope.audit - floor * scope.baseline
        return 0.0, float(gap.mean()), float(gap.var())
    return 0.0, scope.predicted * (1.0 - floor), scope.predicted * (1.0 - scope.predicted) * (1.0 + floor**2)


def in_force(context: RunContext, view: ServedAnswers, sampled: NDArray[np.int64] = NOTHING) -> Draw:
    """Return the run's draw.

    After a repair there is another one, even where nothing more may be asked: answers chosen by their scores are no sample
    any more. `sampled`: rows that the user drew at random; they are all scored, and again each time.
    """
    before = load(context.folder)
    if before is not None and before.still_served(view):
        return before
    if before is not None and before.sample:
        sampled = before.order[: before.sample]
    number = 1 if before is None else before.number + 1
    seed = seed_of(context.run_id, number)
    among = view.row if is_relative(context) or len(sampled) else view.row[np.isnan(view.score)]
    order = np.random.default_rng(seed).permutation(among)
    first = np.isin(order, sampled)
    order = np.concatenate([order[first], order[~first]])  # a random sample comes first, the others behind
    drawn_at = datetime.now(UTC).isoformat()
    draw = Draw(
        number, seed, drawn_at, {}, view.row, np.array(view.endpoint, np.str_), order, int(first.sum())
    )
    draw = replace(draw, sizes=_sizes(context, view, draw))
    save(context.folder, draw)
    return draw


def _sizes(context: RunContext, view: ServedAnswers, draw: Draw) -> dict[str, int]:
    """Return how many scores are asked for, of the whole and of each task."""
    per_task = context.job.quality.per_task
    if not draw.sample:
        return {scope.task or "": first_size(context, scope) for scope in scopes_of(context, view, draw)}
    drawn = view.task[np.isin(view.row, draw.order[: draw.sample])]
    tasks = dict.fromkeys(view.task.tolist()) if per_task else ()
    return {"": draw.sample, **{task: int((drawn == task).sum()) for task in tasks}}


def pairs_within(view: ServedAnswers, rows: NDArray[np.int64], baselines: Collection[str], left: int) -> int:
    """Return how many of these rows, from the first on, `left` more scores make pairs of.

    A row that the baseline serves itself takes one score.
    """
    at = {row: place for place, row in enumerate(view.row.tolist())}
    line = np.array([at[row] for row in rows.tolist()], np.int64)
    own = np.isin(np.array(view.endpoint, np.str_)[line], list(baselines))
    takes = np.isnan(view.baseline[line]).astype(np.int64) + (np.isnan(view.score[line]) & ~own)
    return int((takes.cumsum() <= left).sum())


class Audit:
    """Finds what must be asked so that answers can be scored: the pilot's first, then those drawn for the audit."""

    def __init__(self, context: RunContext, batch: PreparedInput, *, sample: bool = False) -> None:
        """`sample`: what can be scored is a random sample of all requests, and stands for them."""
        self.context, self.scoring = context, Scoring(context, batch)
        scorable = np.flatnonzero(batch.scorable)
        self._sampled = scorable if context.by_sample else NOTHING
        self._population = np.arange(batch.rows) if sample else scorable
        self._labels = None if context.scores_free else context.job.quality.labels

    def pilot_requests(self, warehouse: Warehouse) -> list[ScoringRequest]:
        """Return what to ask for the scores of the pilot's answers."""
        looked = warehouse.query(PILOT_ANSWERS, run_id=self.context.run_id)
        return self.scoring.due(warehouse, looked, Purpose.PILOT, self.context.pilot_labels)

    def drawn(self, warehouse: Warehouse, costs: ProofCosts | None = None) -> list[ScoringRequest]:
        """Return what to ask for the random audit; nothing where it shows what the scores allowed can show, or where
        mending is expected to cost less than looking on. `costs`: None where nothing more can be mended.

        Results must be composed before.
        """
        if not self.context.job.quality.floor:
            return []
        while True:
            view = self._view(warehouse)
            draw = in_force(self.context, view, self._sampled)
            asking = self._ask(warehouse, view, draw)
            if asking:
                return asking
            weighed = None if costs is None else self._left(warehouse, costs)
            grown = self._grown(self._view(warehouse), draw, weighed)
            if grown is None:
                return []
            save(self.context.folder, grown)

    def mended_to(self, warehouse: Warehouse, costs: ProofCosts) -> float | None:
        """Return the quality to which mending now costs less than looking on; None: looking on costs less, or nothing is
        to be shown any more."""
        view = self._view(warehouse)
        draw = in_force(self.context, view, self._sampled)
        scope = next(scopes_of(self.context, view, draw))
        if certificate(self.context, scope, draw.number).shown:
            return None
        return mended_to(scope, draw.number, self._left(warehouse, costs))

    def _left(self, warehouse: Warehouse, costs: ProofCosts) -> ProofCosts:
        """With no more scores than may yet be asked for."""
        if self._labels is None:
            return costs
        return replace(costs, allowed=max(self._labels - self.scoring.used(warehouse), 0))

    def _view(self, warehouse: Warehouse) -> ServedAnswers:
        return served(warehouse, self.context, self._population)

    def _ask(self, warehouse: Warehouse, view: ServedAnswers, draw: Draw) -> list[ScoringRequest]:
        at = {row: place for place, row in enumerate(view.row.tolist())}
        rows = draw.asked(dict(zip(view.row.tolist(), view.task.tolist(), strict=True)))
        served_by = [view.endpoint[at[row]] for row in rows.tolist()]
        labels = self._labels
        if not is_relative(self.context):
            return self.scoring.due(warehouse, pairs(rows, served_by), Purpose.AUDIT, labels)
        if labels is not None:
            rows = rows[
                : pairs_within(view, rows, self.scoring.baselines, labels - self.scoring.used(warehouse))
            ]
            served_by = served_by[: len(rows)]
        held = self.scoring.baseline_answers(warehouse, rows.tolist())
        missing = [row for row in rows.tolist() if row not in held]
        if missing and (asking := self.scoring.baseline_requests(missing, None)):
            return asking
        both = [
            (row, name)
            for row, own in zip(rows.tolist(), served_by, strict=True)
            for name in (own, *self.scoring.baselines)
        ]
        wanted = pairs([row for row, _ in both], [name for _, name in both])
        return self.scoring.due(warehouse, wanted, Purpose.AUDIT, labels)

    def _grown(self, view: ServedAnswers, draw: Draw, costs: ProofCosts | None) -> Draw | None:
        """Return the draw with more asked for; None where it shows the floor, never will, or may not grow."""
        if draw.sample or not may_grow(self.context):
            return None
        sizes, grows = dict(draw.sizes), AT_ONCE if scores_at_once(self.context) else GROWS
        for scope in scopes_of(self.context, view, draw):
            now = certificate(self.context, scope, draw.number)
            scored, name = len(scope.audit), scope.task or ""
            cut_short = scored < min(sizes.get(name, 0), scored + scope.left)
            if now.shown or given_up(self.context, scope, now) or not scope.left or cut_short:
                continue
            if costs is not None and mended_to(scope, draw.number, costs) is not None:
                continue
            least, most = (int(scored * times) + 1 for times in grows)
            wanted = min(max(size_for(self.context, scope), least), max(most, ENOUGH))
            sizes[name] = min(wanted, scored + scope.left)
        return None if sizes == dict(draw.sizes) else replace(draw, sizes=sizes)
