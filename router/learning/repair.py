"""Repair: the plan made again when what was served is below the floor, with what was served at no further cost.

Every answer held is an option that costs nothing and is worth its score (where it was scored, else what is predicted), and
of a request's the best is served, not whichever is good enough for the floor; other endpoints cost what they cost and are
worth what is expected there of a request whose scores elsewhere are known. The planner then finds the cheapest way up,
under all the terms that held for the plan: floors per task, shares of vendors, capacities until the deadline, what the cap
has left. It starts when the estimate is below the floor, not for want of a certificate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.learning.quality_target import QualityTarget, Standing, standing
from thirdshift.router.learning.value_of_information import AssignmentPath
from thirdshift.router.planning.infeasibility import solve
from thirdshift.router.planning.problem import NOBODY, Infeasible, Option, Plan, Problem
from thirdshift.router.planning.solve import best_within, cheapest
from thirdshift.router.prediction.observations import Observations, Population
from thirdshift.router.prediction.predict import Predictor, fit

Floats = NDArray[np.float64]

TIE = 1e-6
"""What is lost by serving another answer that is as good."""


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
    served: NDArray[np.int32],
    *,
    fixed: NDArray[np.bool_],
) -> Mended | None:
    """None where not even what is held keeps the other terms.

    `problem`: what can be sent now, its terms with the floor to be cleared; `of`: the endpoint of each of its options.
    `vendors`: of each endpoint. `quality`, `held`: [requests, endpoints], worth and usable answers; `served`: whose stands
    now, and goes on where none held is better. `fixed`: requests that are not to be sent again.
    """
    line, count = np.arange(problem.n), len(vendors)
    nobody, by_vendor = ~held.any(axis=1), problem.terms.max_vendor_share is not None
    lost = _lost(quality, held, served)
    lost[nobody, 0] = 0.0  # staying without an answer costs nothing and is worth nothing
    kept = np.where(np.isfinite(lost) if by_vendor else lost == 0.0, 0.0, np.inf)
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
    sent = (best.choice != NOBODY) & (best.choice < len(of))
    if by_vendor:
        best = _with_best_held(again, best, sent, lost, reached=reached)
    endpoint = np.concatenate([of, np.arange(count)])[best.choice]
    stays = ~sent & (nobody | (best.choice == NOBODY) | ~held[line, endpoint])
    target = np.where(stays, -1, endpoint).astype(np.int32)
    return Mended(target, sent, reached, best.cost_usd, np.where(sent, best.choice, NOBODY).astype(np.int16))


def _lost(quality: NDArray[np.float32], held: NDArray[np.bool_], served: NDArray[np.int32]) -> Floats:
    """[requests, endpoints] what serving this held answer loses beside the best one; 0 for that alone, which is what is
    served now unless another is better."""
    worth, line = np.where(held, quality, -1.0).astype(np.float64), np.arange(len(held))
    best = worth.argmax(axis=1)
    best = np.where((served >= 0) & (worth[line, served] >= worth[line, best]), served, best)
    lost = np.where(held, TIE + worth[line, best][:, None] - worth, np.inf)
    lost[line, best] = np.where(held.any(axis=1), 0.0, np.inf)
    return lost


def _with_best_held(
    again: Problem, plan: Plan, sent: NDArray[np.bool_], lost: Floats, *, reached: bool
) -> Plan:
    """Return the plan with as good held answers as its terms allow: to the planner all that reach the floor are alike."""
    others = again.width - lost.shape[1]
    chosen = np.where(np.arange(others) == plan.choice[:, None], 0.0, np.inf)
    kept = np.where(sent[:, None], np.inf, lost * again.weight[:, None])
    terms = replace(again.terms, cap_usd=None, floor=again.terms.floor if reached else None)
    better = cheapest(replace(again, cost=np.hstack([chosen, kept]), terms=terms))
    return plan if better is None else replace(better, cost_usd=plan.cost_usd)
