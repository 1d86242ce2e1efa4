"""Repair: the plan made again when what was served is below the floor, with what was served at no further cost.

Every answer held is an option that costs nothing and is worth its score (where it was scored, else what is predicted);
other endpoints cost what they cost and are worth what is expected there of a request whose scores elsewhere are known. The
planner then finds the cheapest way up, under all the terms that held for the plan: floors per task, shares of vendors,
capacities until the deadline, what the cap has left. It starts when the estimate is below the floor, not for want of a
certificate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.learning.quality_target import QualityTarget, Standing, standing
from thirdshift.router.learning.value_of_information import AssignmentPath
from thirdshift.router.planning.infeasibility import solve
from thirdshift.router.planning.problem import NOBODY, Infeasible, Option, Problem
from thirdshift.router.planning.solve import best_within
from thirdshift.router.prediction.observations import Observations, Population
from thirdshift.router.prediction.predict import Predictor, fit

Floats = NDArray[np.float64]


def estimate(
    seen: Observations,
    population: Population,
    priors: Floats,
    choice: NDArray[np.integer],
    aim: QualityTarget,
) -> Standing:
    """What the scores seen by now, the audit's among them, say of what was served."""
    return standing(fit(seen, population, priors), population, choice, aim)


def below(seen: Observations, outlook: AssignmentPath, priors: Floats) -> bool:
    """Whether the audit's estimate is below the floor."""
    at = estimate(seen, outlook.population, priors, outlook.choice, outlook.aim)
    return at.quality < at.floor


def expected(predictor: Predictor, population: Population, seen: Observations) -> NDArray[np.float32]:
    """[requests, endpoints] what each answer is worth: its score where it has one, else what is expected beside the scores
    of the same request: where one endpoint was wrong, others are likelier to be."""
    quality = np.clip(predictor.beside(population)[0], 0.0, 1.0)
    quality[seen.row, seen.endpoint] = seen.score
    return quality.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Mended:
    """Where each request's answer is to come from, by row."""

    endpoint: NDArray[np.int32]
    """-1: nobody's, as before."""
    new: NDArray[np.bool_]
    """It is to be asked for; else it is held."""
    reached: bool
    """Whether that is expected to clear the floor; if not, it is the best that the other terms allow."""
    cost_usd: float
    option: NDArray[np.int16]
    """Where it is new, by which of the problem's options: that of a price window that opens later is to be waited for."""


def mend(
    problem: Problem,
    of: NDArray[np.int32],
    vendors: Sequence[str],
    quality: NDArray[np.float32],
    held: NDArray[np.bool_],
    *,
    fixed: NDArray[np.bool_],
) -> Mended | None:
    """None where not even what is held keeps the other terms.

    `problem`: what can be sent now, its terms with the floor to be cleared; `of`: the endpoint of each of its options.
    `vendors`: of each endpoint. `quality`, `held`: [requests, endpoints], worth and usable answers. `fixed`: requests
    that are not to be sent again.
    """
    line, count = np.arange(problem.n), len(vendors)
    nobody = ~held.any(axis=1)
    kept = np.where(held, 0.0, np.inf)
    kept[nobody, 0] = 0.0  # staying without an answer costs nothing and is worth nothing
    again = replace(
        problem,
        options=problem.options + tuple(Option(f"held {e}", str(e), vendors[e]) for e in range(count)),
        cost=np.hstack([np.where(held[:, of] | fixed[:, None], np.inf, problem.cost), kept]),
        quality=np.hstack([quality[:, of], np.where(held, quality, np.float32(0.0))]),
        output_tokens=np.hstack(
            [np.asarray(problem.output_tokens, np.float64), np.zeros((problem.n, count))]
        ),
    )
    plan = solve(again)
    reached = not isinstance(plan, Infeasible)
    best = best_within(again) if isinstance(plan, Infeasible) else plan
    if best is None:
        return None
    endpoint = np.concatenate([of, np.arange(count)])[best.choice]
    sent = (best.choice != NOBODY) & (best.choice < len(of))
    stays = ~sent & (nobody | (best.choice == NOBODY) | ~held[line, endpoint])
    target = np.where(stays, -1, endpoint).astype(np.int32)
    return Mended(target, sent, reached, best.cost_usd, np.where(sent, best.choice, NOBODY).astype(np.int16))
