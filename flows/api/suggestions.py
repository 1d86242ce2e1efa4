"""What is suggested where there is no plan: a floor, a cap, a deadline, each tried before it is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from thirdshift.flows.runs.context import RunContext
from thirdshift.router.planning.problem import Nearest, Terms

LESS = (0.0, 0.0005, 0.005, 0.02, 0.05)
MORE = (1.002, 1.01, 1.05, 1.2, 1.5)
"""What is taken off a floor, and what a cap or the time is multiplied by, until there is a plan: the nearest values are
exact in the planner's terms, and a job states them before the pilot."""
TYPING = timedelta(minutes=2)
"""A deadline that is suggested is so much later than it must be: it is typed, and planned with, after it was said."""


@dataclass(frozen=True, slots=True)
class NearestPlan:
    """The nearest value at which there is a plan, each with the others as they are; None: there is none."""

    floor: float | None
    cap_usd: float | None
    deadline: datetime | None


def nearest_plan(
    context: RunContext,
    nearest: Nearest,
    terms: Terms,
    whole_usd: Callable[[RunContext], float | None],
) -> NearestPlan:
    """Return the nearest floor, cap and deadline that a job with them has a plan; one that finds none is left out.

    `nearest` and `terms`: the planner's, after the pilot. `whole_usd`: what the plan of a job so changed costs with its
    pilot; None where it has none.
    """
    aim = context.aim

    def first(contexts: Iterable[RunContext]) -> RunContext | None:
        return next((changed for changed in contexts if whole_usd(changed) is not None), None)

    floor = cap = later = None
    if nearest.floor is not None and aim is not None and terms.floor:
        share = aim.floor * nearest.floor / terms.floor
        floor = first(_with_floor(context, share - less) for less in LESS)
    if context.cap_usd is not None and (usd := whole_usd(replace(context, cap_usd=None))) is not None:
        cap = first(replace(context, cap_usd=_rounded_up(usd * more)) for more in MORE)
    if nearest.seconds is not None:
        seconds, now = terms.before_seconds + nearest.seconds, context.clock()
        ends = (now + timedelta(seconds=seconds * more) for more in MORE)
        later = next((end + TYPING for end in ends if _holds(context, end, whole_usd)), None)
    return NearestPlan(
        None if floor is None else floor.job.quality.floor,
        None if cap is None or cap.cap_usd is None else float(cap.cap_usd),
        later,
    )


def _holds(context: RunContext, end: datetime, whole_usd: Callable[[RunContext], float | None]) -> bool:
    """Whether there is a plan whenever the deadline is typed: with more time there may be one for a costly pilot, too."""
    return all(
        whole_usd(replace(context, deadline=end + part * TYPING)) is not None for part in (0.0, 0.5, 1.0)
    )


def _with_floor(context: RunContext, floor: float) -> RunContext:
    quality = context.job.quality.model_copy(update={"floor": max(0.0, math.floor(floor * 1e4) / 1e4)})
    return replace(context, job=context.job.model_copy(update={"quality": quality}))


def _rounded_up(usd: float) -> Decimal:
    """Four digits that count."""
    places = 3 - math.floor(math.log10(usd)) if usd > 0 else 0
    return Decimal(math.ceil(usd * 10.0**places)).scaleb(-places)
