"""What is believed of each endpoint's quality before anything of tonight was scored, and what is missing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.errors import UserError
from thirdshift.flows.runs.context import RunContext
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
