"""Output tokens per request: distributions learnt from what was answered, tonight and before.

log(tokens) is normal around a level per task and endpoint, and answers are cut at `max_tokens`. Levels are

    base + night + task + endpoint + task x endpoint        (each drawn from a normal with the spreads below)

so that a cell with few answers borrows from its task and its endpoint, and one without any still has a
figure with an honest error. A cut answer counts as "at least so long" (expectation maximisation). Last,
each endpoint's mean is set right by the ratio of what was observed to what the model says, which holds
whatever the true shape is; of a request with several answers, to what it says after the others, for what is
sent on is no sample. Reasoning tokens are output tokens: they are within what providers report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.lots import Sent
from thirdshift.router.tokens.cut_lognormal import cut_moments, high_figure
from thirdshift.router.tokens.hierarchy import SPREADS, levels_of, solve, spreads
from thirdshift.router.tokens.request_lengths import MOST, PRIOR_ALIKE, RequestAnswers

Ints = NDArray[np.integer]
Floats = NDArray[np.float64]

PRIOR_SIGMA = 0.8
"""Spread of single answers in logs before any was seen; it counts as `PRIOR_ANSWERS` answers afterwards."""

PRIOR_ANSWERS = 10.0
PRIOR_SHARE, PRIOR_MOST = 0.15, 300.0
"""The base level before any answer: 15 % of the batch's median max_tokens, at most 300."""

HISTORY_WEIGHT = 0.25
"""An answer of an earlier night counts as a quarter of one of tonight."""

HISTORY_MOST = 100.0
"""Earlier nights count at most as so many answers of tonight per endpoint: models and prompts change."""

SLOPE_SPREAD = 0.3
"""How strongly a covariate (one standard deviation of it) may move the log length, before any answer."""

_CELLS = 1500
_LEAST_TASKS = 20
"""A model has at most so many cells (the work grows with their cube), but 20 tasks in any case; the rarest tasks
are then taken together."""

_ENOUGH = 20
"""Answers that a task must have for slopes of its own."""

_ROUNDS = 8
_SETTLED = 0.02
"""Rounds end when no level moves by more than 2 %."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Observed:
    """Answers whose length is known: parallel columns."""

    task: Ints
    endpoint: Ints
    output_tokens: Ints
    max_tokens: Ints
    """An answer this long is taken as cut."""
    covariates: Floats | None = None
    """[answers, any]: for instance log input tokens, predicted difficulty; of one meaning throughout."""
    request: Ints | None = None
    """What each answers; None: nobody knows."""


@dataclass(frozen=True, slots=True)
class Total:
    """Tokens of a set of requests on one endpoint."""

    mean: float
    sd: float
    """Standard deviation of the total: both what we do not know of the level and the chance of single answers."""
    high: float
    """Not exceeded 95 times in 100, or more."""


@dataclass(frozen=True, slots=True)
class OutputModel:
    """What is believed of output lengths. Build it with `fit`."""

    levels: Floats = field(repr=False)
    """[tasks, endpoints]: mean of log tokens."""
    sigma: Floats
    """[endpoints]: spread of log tokens."""
    scale: Floats
    """[endpoints]: observed over modelled mean."""
    noise: Floats
    """[endpoints]: factor from the variance of a level to the relative variance of a mean."""
    covariance: Floats = field(repr=False)
    """[endpoints, tasks, tasks]: of the levels' errors."""
    slopes: Floats = field(repr=False)
    """[tasks, covariates]."""
    centre: Floats = field(repr=False)
    spread: Floats = field(repr=False)
    """[covariates]: how covariates were standardised."""
    bucket: Ints = field(repr=False)
    """[tasks of the batch]: which of the model's tasks each is; rare ones share the last."""
    share: float = PRIOR_ALIKE
    """The share of the variance of log lengths that the answers to one request have in common."""

    def of(self, endpoints: Ints) -> OutputModel:
        """Return the model with its endpoints taken anew: `endpoints` [any] says which one stands at each place."""
        return replace(
            self,
            levels=self.levels[:, endpoints],
            sigma=self.sigma[endpoints],
            scale=self.scale[endpoints],
            noise=self.noise[endpoints],
            covariance=self.covariance[endpoints],
        )

    def mean(
        self, task: Ints, max_tokens: Ints, endpoint: int, covariates: Floats | None = None
    ) -> NDArray[np.float32]:
        """float32[n]: expected output tokens per request on `endpoint`."""
        parts = [
            self._moments(task[s], max_tokens[s], endpoint, None if covariates is None else covariates[s])[0]
            for s in _chunks(len(task))
        ]
        return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)

    def deviations(self, task: Ints, endpoint: Ints, output_tokens: Ints | Floats) -> Floats:
        """[answers] how much longer each was than usual at its endpoint, in standard deviations of log lengths."""
        level = self.levels[self.bucket[task], endpoint]
        return np.clip((np.log(np.maximum(output_tokens, 1.0)) - level) / self.sigma[endpoint], -MOST, MOST)

    def total(
        self,
        task: Ints,
        max_tokens: Ints,
        endpoint: int,
        covariates: Floats | None = None,
        sent: Sent = None,
    ) -> Total:
        """The total over requests that all go to `endpoint`. `sent`: requests of each row."""
        each = np.ones(len(task)) if sent is None else sent
        per_task = np.zeros(len(self.levels))
        chance = 0.0
        for s in _chunks(len(task)):
            some = None if covariates is None else covariates[s]
            mean, variance = self._moments(task[s], max_tokens[s], endpoint, some)
            per_task += np.bincount(self.bucket[task[s]], weights=mean * each[s], minlength=len(per_task))
            chance += float(variance @ each[s])
        mean_total = float(per_task.sum())
        relative = np.expm1(np.minimum(self.covariance[endpoint], 2.0))
        doubt = float(per_task @ relative @ per_task) * float(self.noise[endpoint])
        sd = float(np.sqrt(doubt + chance))
        return Total(mean_total, sd, min(high_figure(mean_total, sd), float(max_tokens @ each)))

    def _moments(
        self, task: Ints, max_tokens: Ints, endpoint: int, covariates: Floats | None
    ) -> tuple[Floats, Floats]:
        """Mean and variance per request; without covariates once per task and ceiling, then looked up."""
        task = self.bucket[task]
        level = self.levels[:, endpoint]
        sigma = np.sqrt(np.square(self.sigma[endpoint]) + np.diagonal(self.covariance[endpoint]))
        if covariates is not None and self.slopes.shape[1]:
            moved = level[task] + (self.standardised(covariates) * self.slopes[task]).sum(axis=1)
            return self._scaled(*cut_moments(moved, sigma[task], max_tokens), max_tokens, endpoint)
        caps, which = np.unique(max_tokens, return_inverse=True)
        if len(caps) * len(level) > len(task):
            return self._scaled(*cut_moments(level[task], sigma[task], max_tokens), max_tokens, endpoint)
        table = cut_moments(level[:, None], sigma[:, None], caps[None, :])
        mean, variance = self._scaled(*table, caps[None, :], endpoint)
        return mean[task, which], variance[task, which]

    def _scaled(self, mean: Floats, variance: Floats, cap: Ints, endpoint: int) -> tuple[Floats, Floats]:
        scale = float(self.scale[endpoint])
        return np.minimum(mean * scale, cap), variance * scale**2

    def standardised(self, covariates: Floats) -> Floats:
        """Standardised, and held within what was seen: no extrapolation beyond three standard deviations."""
        return np.clip((covariates - self.centre) / self.spread, -3.0, 3.0)


def cost_high(mean_usd: Sequence[float], sd_usd: Sequence[float]) -> float:
    """The 95 % figure of a bill made of parts whose errors are independent (endpoints)."""
    return high_figure(float(np.sum(mean_usd)), float(np.sqrt(np.sum(np.square(sd_usd)))))


def fit(
    tonight: Observed | None,
    *,
    tasks: int,
    endpoints: int,
    max_tokens: Ints,
    history: Observed | None = None,
) -> OutputModel:
    """Learn lengths for `tasks` x `endpoints` from tonight's answers and those of earlier nights.

    `max_tokens` is the batch's column (for the prior). With no answers at all the model is the prior.
    """
    base = (
        float(np.log(np.clip(PRIOR_SHARE * np.median(max_tokens), 1.0, PRIOR_MOST)))
        if len(max_tokens)
        else 4.0
    )
    seen = _gather(tonight, history, endpoints)
    if seen is None:
        return replace(_prior(base, 1, endpoints), bucket=np.zeros(tasks, np.int64))
    bucket = _buckets(seen, tasks, max(_CELLS // endpoints, _LEAST_TASKS))
    seen = replace(seen, task=bucket[seen.task])
    fitted = _expectation_maximisation(seen, base, int(bucket.max()) + 1, endpoints)
    return replace(_set_right(fitted, seen), bucket=bucket)


# --- fitting ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Seen:
    task: Ints
    endpoint: Ints
    tokens: Floats
    cap: Floats
    weight: Floats
    covariates: Floats
    request: Ints

    @property
    def cut(self) -> NDArray[np.bool_]:
        return self.tokens >= self.cap


def _gather(tonight: Observed | None, history: Observed | None, endpoints: int) -> _Seen | None:
    parts = [
        (o, share)
        for o, share in ((tonight, 1.0), (history, HISTORY_WEIGHT))
        if o is not None and len(o.task)
    ]
    if not parts:
        return None
    weights = []
    for observed, weight in parts:
        row_weights = np.full(len(observed.task), weight)
        if weight < 1.0:
            counted = np.bincount(observed.endpoint, minlength=endpoints) * weight
            row_weights *= np.minimum(1.0, HISTORY_MOST / np.maximum(counted, 1.0))[observed.endpoint]
        weights.append(row_weights)
    wide = all(o.covariates is not None for o, _ in parts)
    covariates = [
        o.covariates if wide and o.covariates is not None else np.zeros((len(o.task), 0)) for o, _ in parts
    ]
    return _Seen(
        np.concatenate([o.task for o, _ in parts]),
        np.concatenate([o.endpoint for o, _ in parts]),
        np.maximum(np.concatenate([o.output_tokens for o, _ in parts]).astype(np.float64), 1.0),
        np.maximum(np.concatenate([o.max_tokens for o, _ in parts]).astype(np.float64), 1.0),
        np.concatenate(weights),
        np.concatenate(covariates).astype(np.float64),
        _requests([o for o, _ in parts]),
    )


def _requests(parts: Sequence[Observed]) -> Ints:
    """Numbers by which no two parts share a request; each answer of which nobody knows what it answers has its own."""
    found: list[Ints] = []
    for observed in parts:
        above = max((int(request.max()) + 1 for request in found), default=0)
        own = np.arange(len(observed.task)) if observed.request is None else observed.request
        found.append(own + above)
    return np.concatenate(found)


def _buckets(seen: _Seen, tasks: int, most: int) -> Ints:
    """[tasks] the model's task of each: itself, or the last of `most` for those with the fewest answers."""
    if tasks <= most:
        return np.arange(tasks)
    answers = np.bincount(seen.task, seen.weight, minlength=tasks)
    bucket = np.full(tasks, most - 1, dtype=np.int64)
    bucket[np.argsort(-answers, kind="stable")[: most - 1]] = np.arange(most - 1)
    return bucket


def _prior(base: float, tasks: int, endpoints: int) -> OutputModel:
    ones = np.ones(endpoints)
    night, of_task, of_endpoint, of_cell = np.square(SPREADS)
    shared = night + of_endpoint
    own = (of_task + of_cell) * np.eye(tasks)
    nothing = np.zeros(0)
    return OutputModel(
        np.full((tasks, endpoints), base),
        PRIOR_SIGMA * ones,
        ones,
        ones,
        np.broadcast_to(shared + own, (endpoints, tasks, tasks)),
        np.zeros((tasks, 0)),
        nothing,
        nothing,
        np.arange(tasks),
    )


def _expectation_maximisation(seen: _Seen, base: float, tasks: int, endpoints: int) -> OutputModel:
    model = _prior(base, tasks, endpoints)
    if seen.covariates.shape[1]:
        centre, spread = seen.covariates.mean(axis=0), seen.covariates.std(axis=0) + 1e-9
        model = replace(model, centre=centre, spread=spread, slopes=np.zeros((tasks, len(centre))))
    logs = np.log(seen.tokens)
    variances = np.square(SPREADS)
    for _ in range(_ROUNDS):
        offset = (model.standardised(seen.covariates) * model.slopes[seen.task]).sum(axis=1)
        sigma = model.sigma[seen.endpoint]
        filled, extra = _fill(logs, seen.cut, model.levels[seen.task, seen.endpoint] + offset, sigma)
        precision = seen.weight / sigma**2
        solved = solve(seen.task, seen.endpoint, filled - offset - base, precision, endpoints, variances)
        levels, covariance = levels_of(solved, tasks, endpoints, variances)
        variances = spreads(solved, tasks, endpoints, variances)
        settled = bool(np.abs(base + levels - model.levels).max() < _SETTLED)
        model = replace(model, levels=base + levels, covariance=covariance)
        rest = filled - model.levels[seen.task, seen.endpoint]
        if model.slopes.shape[1]:
            model = replace(model, slopes=_slopes(seen, model, rest, tasks))
            rest = rest - (model.standardised(seen.covariates) * model.slopes[seen.task]).sum(axis=1)
        extra = extra + covariance[seen.endpoint, seen.task, seen.task]
        squares = np.bincount(seen.endpoint, seen.weight * (rest**2 + extra), minlength=endpoints)
        counted = np.bincount(seen.endpoint, seen.weight, minlength=endpoints)
        pooled = (squares.sum() + PRIOR_ANSWERS * PRIOR_SIGMA**2) / (counted.sum() + PRIOR_ANSWERS)
        sigma_e = np.sqrt((squares + PRIOR_ANSWERS * pooled) / (counted + PRIOR_ANSWERS))
        model = replace(model, sigma=np.clip(sigma_e, 0.05, 2.0))
        if settled:
            break
    return model


def _fill(logs: Floats, cut: NDArray[np.bool_], level: Floats, sigma: Floats) -> tuple[Floats, Floats]:
    """Log lengths with cut ones replaced by their expectation, and the variance that this leaves out."""
    from scipy.special import log_ndtr

    z = (logs - level) / sigma
    hazard = np.exp(-0.5 * z**2 - 0.5 * np.log(2 * np.pi) - log_ndtr(-z))
    filled = np.where(cut, level + sigma * hazard, logs)
    extra = np.where(cut, sigma**2 * np.maximum(1 + z * hazard - hazard**2, 0.0), 0.0)
    return filled, extra


def _slopes(seen: _Seen, model: OutputModel, rest: Floats, tasks: int) -> Floats:
    """Ridge slopes: one set for all tasks, and each task's departure from it."""
    x = model.standardised(seen.covariates)
    weight = seen.weight / model.sigma[seen.endpoint] ** 2
    shared = _ridge(x, rest, weight)
    slopes = np.tile(shared, (tasks, 1))
    left = rest - x @ shared
    for task in np.flatnonzero(np.bincount(seen.task, minlength=tasks) >= _ENOUGH):
        rows = seen.task == task
        slopes[task] += _ridge(x[rows], left[rows], weight[rows])
    return slopes


def _ridge(x: Floats, y: Floats, weight: Floats) -> Floats:
    gram = (x * weight[:, None]).T @ x + np.eye(x.shape[1]) / SLOPE_SPREAD**2
    return np.asarray(np.linalg.solve(gram, (x * weight[:, None]).T @ y), dtype=np.float64)


def _set_right(model: OutputModel, seen: _Seen) -> OutputModel:
    """Scale each endpoint's mean to what was observed, as if 10 average answers had been as modelled."""
    endpoints = len(model.sigma)
    level = model.levels[seen.task, seen.endpoint]
    if model.slopes.shape[1]:
        level = level + (model.standardised(seen.covariates) * model.slopes[seen.task]).sum(axis=1)
    doubt = model.covariance[seen.endpoint, seen.task, seen.task]
    sigma = np.sqrt(np.square(model.sigma[seen.endpoint]) + doubt)
    deviation = model.deviations(seen.task, seen.endpoint, seen.tokens)
    by_request = RequestAnswers.of(seen.request, deviation)
    share = by_request.share(seen.endpoint)
    expected, _ = cut_moments(level, sigma, seen.cap)
    expected = np.minimum(expected * by_request.told_by_others(share, model.sigma[seen.endpoint]), seen.cap)
    counted = np.bincount(seen.endpoint, seen.weight, minlength=endpoints)
    modelled = np.bincount(seen.endpoint, seen.weight * expected, minlength=endpoints)
    truth = np.bincount(seen.endpoint, seen.weight * seen.tokens, minlength=endpoints)
    extra = PRIOR_ANSWERS * modelled / np.maximum(counted, 1e-9)
    scale = np.where(counted > 0, (truth + extra) / np.maximum(modelled + extra, 1e-9), 1.0)
    ratio = seen.tokens / expected - 1.0
    squares = np.bincount(seen.endpoint, seen.weight * ratio**2, minlength=endpoints)
    relative = (squares + PRIOR_ANSWERS * model.sigma**2) / (counted + PRIOR_ANSWERS)
    return replace(model, scale=scale, noise=np.maximum(relative / model.sigma**2, 1.0), share=share)


def _chunks(n: int) -> list[slice]:
    return [slice(start, min(start + _CHUNK, n)) for start in range(0, n, _CHUNK)]
