"""Repair: which served requests are likely wrong, and what better endpoint they should go to.

Repair is the plan made again: what was served is paid for and costs nothing more, the audit has taught what the pilot got
wrong, and the requests that climb are those where a point of quality is cheapest now, the ones most likely wrong among
them. It starts when the estimate is below the floor, not for want of a certificate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.aim import Aim, Standing, standing
from router.outlook import Outlook, look_out
from router.predict import Observations, Population, Predictor, fit

Floats = NDArray[np.float64]


def estimate(
    seen: Observations, population: Population, priors: Floats, choice: NDArray[np.integer], aim: Aim
) -> Standing:
    """What the scores seen by now, the audit's among them, say of what was served."""
    return standing(fit(seen, population, priors), population, choice, aim)


def below(seen: Observations, outlook: Outlook, priors: Floats) -> bool:
    """Whether the audit's estimate is below the floor."""
    at = estimate(seen, outlook.population, priors, outlook.choice, outlook.aim)
    return at.quality < at.floor


@dataclass(frozen=True, slots=True)
class Move:
    """Requests to be answered again: columns of one length, the best bargain first."""

    row: NDArray[np.int64]
    endpoint: NDArray[np.int32]


def moves(
    predictor: Predictor,
    population: Population,
    cost_usd: Floats,
    aim: Aim,
    *,
    served: NDArray[np.int32],
    own: Observations | None = None,
    allowed: NDArray[np.bool_] | None = None,
) -> Move:
    """Who should go where so that the floor is cleared again.

    `cost_usd`: what further answers cost; what was served costs nothing. `own`: scores of served answers that may be
    used (a real night: an answer scored wrong is likely wrong again only elsewhere; a backtest: none).
    """
    cost = np.array(cost_usd, dtype=np.float64)
    line = np.flatnonzero(served >= 0)
    cost[line, served[line]] = 0.0
    quality = predictor.predict(population)
    if own is not None:
        quality[own.row, own.endpoint] = own.score
    outlook = look_out(predictor, population, quality, cost, aim, allowed=allowed)
    changed = np.flatnonzero((outlook.choice != served) & (outlook.choice >= 0))
    gain = quality[changed, outlook.choice[changed]] - np.where(
        served[changed] >= 0, quality[changed, served[changed]], 0.0
    )
    order = np.argsort(-gain, kind="stable")
    return Move(changed[order], outlook.choice[changed][order])
