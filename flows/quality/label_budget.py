"""What it takes to certify a job's floor: how many scores, at what cost, and whether those allowed can be enough."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.planning.input import PreparedInput
from thirdshift.flows.planning.planner import Market
from thirdshift.flows.planning.score_price import score_usd
from thirdshift.flows.runs.context import RunContext
from thirdshift.router.certification.bounds import betting, exact
from thirdshift.router.certification.certificate import (
    labels_needed,
    population_sentence,
    round_confidence,
)
from thirdshift.router.certification.judge import USUAL_VERDICT, VERDICT_TOKENS
from thirdshift.router.certification.scorers import Basis, kind_of
from thirdshift.router.learning.quality_target import QualityTarget
from thirdshift.router.planning.problem import NOBODY, Plan

ABOVE = 0.02
"""By how much a plan usually clears its floor, once a pilot has shown how sure it may be."""

HOPELESS = 100
"""Scores of an audit that is not expected to certify: enough to tell how far off it is."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Scores that will certify the floor if the quality is as predicted."""

    needed: int | None
    """None: not even all of them would."""
    usd: float
    """What one of them costs."""


def labels(
    context: RunContext,
    batch: PreparedInput,
    columns: RequestColumns,
    market: Market,
    plan: Plan,
    *,
    each_usd: float | None = None,
) -> Labels | None:
    """Return how many scores certify the floor under `plan`; None where there is no floor. `each_usd`: what one costs,
    where that is known already."""
    aim, quality = context.aim, plan.quality
    if aim is None or context.scorer is None:
        return None
    if by_anchor_alone(plan, market, aim):
        return Labels(0, 0.0)
    if context.scores_free and not context.by_sample:
        return Labels(int(batch.scorable.sum()), 0.0)
    predicted = min(max(quality, aim.floor + ABOVE), 1.0)
    spread = None if binary(context) else predicted * (1.0 - predicted)
    sizes = _populations(context, batch).values()
    sample_sizes = [labels_needed(aim.floor, predicted, aim.confidence, n, spread=spread) for n in sizes]
    needed = None if None in sample_sizes else sum(n for n in sample_sizes if n is not None)
    return Labels(needed, score_usd(context, columns, market) if each_usd is None else each_usd)


def by_anchor_alone(plan: Plan, market: Market, aim: QualityTarget) -> bool:
    """Whether the plan gives everything to the endpoint that the floor is a share of: its share is 1, unscored."""
    served = market.column[plan.choice[plan.choice != NOBODY]]
    return bool(aim.baselines) and bool(np.isin(served, aim.baselines).all())


def audit_usd(
    context: RunContext, batch: PreparedInput, columns: RequestColumns, market: Market, plan: Plan
) -> float:
    """Return what scoring the random audit is expected to cost; 0 where scores are free."""
    needed_labels = labels(context, batch, columns, market, plan)
    if context.scores_all or needed_labels is None or needed_labels.needed == 0:
        return 0.0
    asked = context.job.quality
    if context.by_sample:
        return needed_labels.usd * int(batch.scorable.sum())
    count = asked.audit or needed_labels.needed or HOPELESS
    return needed_labels.usd * (count if asked.labels is None else min(count, asked.labels))


def judging_usd_at_most(
    context: RunContext, columns: RequestColumns, market: Market, answers: float
) -> float:
    """What having so many answers of a pilot judged can cost: as many as may be, with the longest verdicts."""
    if context.judge is None:
        return 0.0
    count = answers if context.pilot_labels is None else min(answers, context.pilot_labels)
    longest = (VERDICT_TOKENS - USUAL_VERDICT) * float(context.judge.endpoint.price.base.output) * 1e-6
    usd, most = count * (score_usd(context, columns, market) + longest), context.judge_usd
    return usd if most is None else min(usd, float(most) / 2)


def doubts(context: RunContext, batch: PreparedInput) -> list[str]:
    """Return what rules out certifying this floor, whatever the answers will be: said before anything is spent."""
    aim, quality = context.aim, context.job.quality
    if aim is None or context.scorer is None:
        return []
    warnings = []
    sizes = _sizes(context, batch)
    if none := [name for name, count in sizes.items() if not count]:
        names = ", ".join(none[:5]) + (f" and {len(none) - 5} more" if len(none) > 5 else "")
        warnings.append(
            f"nothing of {names} can be scored, so nothing is certified there; references are missing"
        )
    if context.by_sample:
        return [*warnings, *_of_sample(context, batch)]
    if partly := _of_part(context, batch):
        warnings.append(partly)
    allowed = [count for count in (quality.labels, quality.audit) if count is not None]
    if context.scores_all or not allowed:
        return warnings
    least = [_least(context, count) for count in sizes.values() if count]
    if None in least or sum(count or 0 for count in least) > min(allowed):
        needed = (
            "more scores than there are answers"
            if None in least
            else f"{sum(n or 0 for n in least):,} scores"
        )
        each_of = f" for each of {len(least)} tasks" if quality.per_task else ""
        warnings.append(
            f"a floor of {aim.floor:g}{each_of} takes {needed} to certify even if every answer is right; "
            f"{min(allowed):,} are allowed (quality.labels, quality.audit), so it will not be certified"
        )
    return warnings


def _of_part(context: RunContext, batch: PreparedInput) -> str:
    """Say that nothing will be certified of all requests, where a job asks for that and can score only some; else empty."""
    scorable = int(batch.scorable.sum())
    if context.job.quality.population == "scorable" or scorable == batch.rows or not scorable:
        return ""
    return (
        f"{population_sentence(scorable, batch.rows)}, so the floor will not be certified (exit 3); quality.references: "
        "sample says that those rows were drawn at random, quality.population: scorable asks for no more than them"
    )


def _of_sample(context: RunContext, batch: PreparedInput) -> list[str]:
    """Where the sample is too small to certify the floor even if every answer in it is right."""
    warnings = []
    sizes = _sizes(context, batch)
    for name, population in _populations(context, batch).items():
        least, count = _least(context, population), sizes[name]
        if count and (least is None or least > count):
            takes = "more than there are requests" if least is None else f"{least:,}"
            warnings.append(
                f"{count:,} of {population:,} requests of {name} have a reference; a floor of "
                f"{context.job.quality.floor:g} takes {takes} to certify even if every answer is right"
            )
    return warnings


def _populations(context: RunContext, batch: PreparedInput) -> dict[str, int]:
    """Requests that a certificate would be about: all where a sample stands for them, else those that can be scored."""
    every = replace(batch, scorable=np.ones(batch.rows, bool)) if context.by_sample else batch
    return _sizes(context, every)


def _sizes(context: RunContext, batch: PreparedInput) -> dict[str, int]:
    """Count the requests that can be scored: of the whole batch, or by task."""
    if not context.job.quality.per_task:
        return {"the input": int(batch.scorable.sum())}
    counts = np.bincount(batch.task[batch.scorable], minlength=len(batch.intake.tasks))
    return {f"task {name}": int(count) for name, count in zip(batch.intake.tasks, counts, strict=True)}


def _least(context: RunContext, population: int) -> int | None:
    """Return the number of scores that certify if all are 1; None where not even all of them do."""
    quality = context.job.quality
    level, low = round_confidence(quality.confidence, 1), 0.0
    relative = is_relative(context)
    low = -quality.floor if relative else 0.0

    def enough(count: int) -> bool:
        if binary(context) and not relative:
            return exact(count, count, level, population) >= quality.floor
        shown = betting(np.full(count, 1.0 + low), level, population, low=low)
        return shown >= (0.0 if relative else quality.floor)

    if not enough(population):
        return None
    first, last = 1, population
    while first < last:
        middle = (first + last) // 2
        first, last = (first, middle) if enough(middle) else (middle + 1, last)
    return first


def is_relative(context: RunContext) -> bool:
    """Whether the floor is a share of the baseline's mean. An agreement is with the baseline already."""
    return context.baseline is not None and context.basis is not Basis.AGREEMENT


def binary(context: RunContext) -> bool:
    """Whether a score is 0 or 1 and nothing between."""
    return context.scorer is not None and kind_of(context.scorer).binary


def may_grow(context: RunContext) -> bool:
    """Whether an audit may be extended for what it has shown: the exact bound is of a size fixed before."""
    return context.job.quality.audit is None and (not binary(context) or is_relative(context))
