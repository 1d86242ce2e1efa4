"""What is believed of each endpoint's quality before anything of tonight was scored, of which kinds of requests, and what
is missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.errors import UserError
from thirdshift.flows.planning.planner import RequestColumns
from thirdshift.flows.runs.context import RunContext
from thirdshift.router.prediction.kinds import with_kinds
from thirdshift.router.prediction.observations import PastScores


def believed(context: RunContext, before: PastScores) -> NDArray[np.bool_]:
    """[endpoints] whether a prior, the catalogue or earlier nights' scores tell of its quality."""
    scored = np.bincount(before.endpoint, minlength=len(context.endpoints)) > 0
    return ~np.isnan(context.priors) | scored


def prediction_only(context: RunContext) -> str:
    """Says that a floor is held by belief alone, where it is; else empty."""
    if context.aim is None or context.scorer is not None:
        return ""
    return (
        f"no scorer: the floor of {context.job.quality.floor:g} is held by what is believed of each endpoint; "
        "quality is a prediction, nothing will be certified"
    )


def check_beliefs(context: RunContext, before: PastScores, allowed: NDArray[np.bool_]) -> None:
    """Raises UserError where a floor is to be held by belief alone, and of an endpoint that may serve nothing is believed.

    `allowed`: [requests, endpoints].
    """
    if context.aim is None or context.scorer is not None:
        return
    unknown = ~believed(context, before) & allowed.any(axis=0)
    names = [endpoint.name for endpoint, lacks in zip(context.endpoints, unknown, strict=True) if lacks]
    if names:
        raise UserError(
            f"quality.floor is {context.job.quality.floor:g} and there is no scorer, so the plan can only hold it by what "
            f"is believed of each endpoint; nothing is known of {', '.join(names)}: give it a quality_prior (0 to 1), name "
            "a model that the catalogue knows (thirdshift models), or give quality.scorer"
        )


def in_kinds(context: RunContext, columns: RequestColumns) -> RequestColumns:
    """Return the columns with clusters of like prompts in the place of tasks, where scores are to be learnt and no row
    names a task; as they are otherwise, and where the floor is asked of each task."""
    if not context.learns or context.job.quality.per_task or len(columns.tasks) != 1:
        return columns
    population = with_kinds(columns.population)
    names = tuple(f"{columns.tasks[0]} {number + 1}" for number in range(population.tasks))
    return columns if population.tasks == 1 else replace(columns, population=population, tasks=names)
