"""How high a plan aims where looking at scores costs: at that quality at which answers and their proof cost least.

A floor that is cleared by a hair's breadth takes a census to show; a little more quality is often cheaper than the verdicts
that it saves. So the plan's own frontier, what each floor costs, is held against what showing the job's floor would cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.planning.input import PreparedInput
from thirdshift.flows.planning.planner import Decision, Market
from thirdshift.flows.planning.score_price import score_usd
from thirdshift.flows.quality.label_budget import labels, may_grow
from thirdshift.flows.runs.context import RunContext
from thirdshift.router.certification.proof_costs import ProofCosts
from thirdshift.router.planning.problem import Infeasible, Plan

WORTH = 0.98
"""A plan that aims higher must cost less than this share of what it would replace."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What showing a job's floor is expected to cost."""

    context: RunContext
    batch: PreparedInput
    columns: RequestColumns
    market: Market
    each_usd: float
    """What one score costs."""

    def usd(self, plan: Plan) -> float:
        """US dollars for the audit if the quality is as predicted; infinite where the scores allowed are too few."""
        found = labels(self.context, self.batch, self.columns, self.market, plan, each_usd=self.each_usd)
        if found is None:
            return 0.0
        if found.needed is None or found.needed > scores_allowed(self.context):
            return math.inf
        return found.needed * found.usd


def scores_allowed(context: RunContext) -> float:
    """Return how many scores a run's audit may ask for; infinite: as many as it takes."""
    quality = context.job.quality
    kept = math.inf
    if quality.labels is not None:
        kept = quality.labels - (context.pilot_labels or 0)
    return kept if quality.audit is None else min(kept, quality.audit)


def proof_costs(
    context: RunContext, batch: PreparedInput, columns: RequestColumns, decision: Decision
) -> ProofCosts | None:
    """Return what an audit in progress is held against: what scores and better answers cost by what the plan believes.

    None where an audit's size is not for the run to choose, or its floor is not one number.
    """
    aim, quality, asked = context.aim, decision.quality, context.job.quality
    audited = context.pays_for_scores and not context.by_sample and may_grow(context)
    if aim is None or quality is None or not audited or context.baseline is not None or asked.per_task:
        return None
    weight = columns.weight.astype(np.float64)
    may, usd = columns.allowed, decision.market.by_endpoint()
    bills = np.where(may, usd, 0.0).T @ weight
    means = np.average(quality, axis=0, weights=weight)
    best = int(np.where(may.all(axis=0) & np.isfinite(bills), means, -np.inf).argmax())
    return ProofCosts(
        floor=aim.floor,
        confidence=aim.confidence,
        population=int(batch.scorable.sum()),
        score_usd=score_usd(context, columns, decision.market),
        allowed=scores_allowed(context),
        best_quality=float(means[best]),
        best_usd=float(bills[best]),
    )


def cheapest_with_proof(
    context: RunContext,
    batch: PreparedInput,
    columns: RequestColumns,
    decide: Callable[[float], Decision],
) -> Decision:
    """The plan of all floors at least the job's that costs least with its proof.

    `decide`: the plan for so many times the job's floor.
    """
    decision = decide(1.0)
    plan, floor = decision.plan, decision.floor
    audited = context.pays_for_scores and not context.by_sample
    if not audited or isinstance(plan, Infeasible) or not floor:
        return decision
    each_usd = score_usd(context, columns, decision.market)
    proof = Proof(context, batch, columns, decision.market, each_usd)
    above = max(plan.quality - floor, 0.0)  # the margin, which every floor of the frontier has too
    found = plan.cost_usd + proof.usd(plan)
    least, best = found, None
    for point in decision.points:
        usd = point.cost_usd + proof.usd(replace(plan, quality=min(point.floor + above, 1.0)))
        if point.floor > floor and usd < WORTH * least:
            least, best = usd, point.floor
    if best is None:
        return decision
    higher = decide(best / floor)
    if isinstance(higher.plan, Infeasible):
        return decision
    usd = higher.plan.cost_usd + proof.usd(higher.plan)
    return replace(higher, floor=floor) if usd < found else decision
