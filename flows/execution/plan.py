"""The plan: which endpoint answers each request, from what is known after the pilot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np

from thirdshift.flows.dispatch.rows import assignments
from thirdshift.flows.execution.preparation import PreparedRun
from thirdshift.flows.execution.run import Run
from thirdshift.flows.planning.assignment import Assignment, plan_sentence
from thirdshift.flows.planning.batch_room import waiting_for_room
from thirdshift.flows.planning.beliefs import prediction_only
from thirdshift.flows.planning.cascading import followers
from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.planning.measured.throughput import priced_now, throughput_of_run
from thirdshift.flows.planning.planner import Decision, Market, best_possible
from thirdshift.flows.planning.voting import keep_votes
from thirdshift.flows.quality.label_budget import audit_usd
from thirdshift.flows.quality.proof import cheapest_with_proof, proof_costs
from thirdshift.flows.quality.repair import Repair
from thirdshift.flows.quality.scoring import kept_for_judging
from thirdshift.flows.runs.plan_file import KeptPlan, keep_plan
from thirdshift.router.certification.proof_costs import ProofCosts
from thirdshift.router.planning.options import workers_to_run
from thirdshift.router.planning.problem import Plan, Problem
from thirdshift.router.planning.solve import Compromise
from thirdshift.router.values import Purpose, usd
from thirdshift.warehouse.store import dispatch, runs


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A prepared run with the plan that it carries out."""

    prepared: PreparedRun
    market: Market
    decision: Decision
    assignment: Assignment
    repair: Repair
    proof: ProofCosts | None
    """What an audit in progress is held against; None: nothing."""
    cost_usd: float
    """What the plan and its audit cost from where the plan was made."""
    out_of_reach: bool
    """The floor cannot be reached; what is carried out is the best plan there is."""

    @property
    def run(self) -> Run:
        return self.prepared.run

    @property
    def singles(self) -> Problem:
        """The problem with the market's options alone, without votes."""
        return self.decision.problem.narrowed(len(self.market.offered))


def plan(prepared: PreparedRun) -> PlannedRun:
    """Decide which endpoint answers each request; write the plan down, and say it.

    Raises UserError where no request can be answered under the job's limits.
    """
    run, learner = prepared.run, prepared.learner
    if run.dispatcher.stopped and not run.approval.denied:
        run.dispatcher.start_over()  # the cap stopped the pilot; a cheaper endpoint may still be paid for
    ask_engines(prepared)
    learner.leave_out_silent()
    market = _market(prepared)
    promised = run.budget.spent_usd + kept_for_judging(run.dispatcher.judge_context, run.budget)
    terms = run.context.terms(spent_usd=promised)
    decision = cheapest_with_proof(
        run.context,
        prepared.input,
        prepared.columns,
        lambda times: learner.decide(market, terms, times=times),
    )
    chosen, compromise = best_possible(decision, run.console.say)
    carried_out = chosen if compromise is Compromise.STOP else _with_room(prepared, decision, chosen)
    assignment = _assignment(prepared, decision.market, carried_out, ordered=compromise is Compromise.STOP)
    planned = PlannedRun(
        prepared,
        market,
        decision,
        assignment,
        Repair(learner, assignment, run.console.say),
        proof_costs(run.context, prepared.input, prepared.columns, decision),
        chosen.cost_usd
        - learner.paid_usd(market, assignment.target)
        + audit_usd(run.context, prepared.input, prepared.columns, decision.market, chosen),
        out_of_reach=compromise is Compromise.FLOOR,
    )
    run.dispatcher.plan_workers(
        {
            endpoint.name: workers_to_run(endpoint, chosen.workers)
            for endpoint in run.context.endpoints
            if endpoint.name in run.context.pools
        }
    )
    run.dispatcher.awaited = _awaited(run, decision, assignment)
    _save(planned, chosen)
    aimed = decision.quality is not None
    run.console.say(
        plan_sentence(chosen, assignment, prepared.columns.weight, run.context.endpoints, aimed=aimed)
    )
    if waiting := int((carried_out.choice != chosen.choice).sum()):
        run.console.say(
            f"{waiting:,} of them wait for room in batches, and are sent in real time where there is none in time"
        )
    if predicted := prediction_only(run.context):
        run.console.say(predicted)
    return planned


def _market(prepared: PreparedRun) -> Market:
    """Return what is offered now. Answers that are had are kept: where nothing will be mended, or vendors' shares are
    limited, the plan makes up for those that it would have had of others."""
    market, run = prepared.learner.market(), prepared.run
    if run.context.learns and run.context.policy.max_vendor_share is None:
        return market
    replies = run.queries.replies()
    position = prepared.columns.positions(replies.row[replies.served])
    return market.with_kept(position, replies.endpoint[replies.served]) if len(position) else market


def _awaited(run: Run, decision: Decision, assignment: Assignment) -> set[str] | None:
    """Return the endpoints that may be asked after those that serve first: nobody where nothing is learnt, and where what
    fails is sent on those that it goes to by the plan. None: any."""
    if not run.context.learns:
        return set()
    if decision.cascades is None or assignment.ordered:
        return None
    return {run.endpoint_names[endpoint] for endpoint in followers(decision)}


def ask_engines(prepared: PreparedRun) -> None:
    """Have what is reckoned next go by the workers that are up now, their pace and their price."""
    learner, context, engines = prepared.learner, prepared.run.context, prepared.run.dispatcher.engines
    learner.throughputs = throughput_of_run(context.throughputs, engines)
    learner.endpoints = priced_now(context.endpoints, engines)


def approve(planned: PlannedRun) -> None:
    """Go no further with a plan that is above what may be spent without being asked."""
    planned.run.approve(planned.cost_usd, "the plan")


def _with_room(prepared: PreparedRun, decision: Decision, chosen: Plan) -> Plan:
    """Return the plan as it is carried out where batches that are full make room again."""
    market, counterparts = decision.market, prepared.learner.realtime_counterpart
    posed = decision.problem.narrowed(market.singles)
    return replace(chosen, choice=waiting_for_room(posed, chosen.choice, market.endpoint, counterparts))


def _assignment(prepared: PreparedRun, market: Market, plan: Plan, *, ordered: bool) -> Assignment:
    """Return the plan as an assignment, with what an earlier process of the run has left."""
    run = prepared.run
    assignment = Assignment.of(
        plan,
        market,
        realtime_counterpart=prepared.learner.realtime_counterpart,
        ordered=ordered,
        now=run.context.clock(),
    )
    keep_earlier(run, prepared.columns, assignment)
    return assignment


def keep_earlier(run: Run, columns: RequestColumns, assignment: Assignment) -> None:
    """Leave what an earlier process got, or has in flight, where it is.

    A shard that a batch tier still has is in flight whole: what was booked of it before that process died stands in its
    open journal, and nobody else knows of it until the shard is sealed.
    """
    replies = run.queries.replies()
    assignment.keep_answered(replies, columns)
    context = run.context
    keep_votes(context.folder, assignment, replies, columns, run.endpoint_names, context.world)
    for shard in run.orphans_of({Purpose.MAIN}):
        rows = shard.rows[np.isin(shard.rows, columns.rows)]
        assignment.mark_in_flight(columns.positions(rows), run.endpoint_names.index(shard.endpoint))


def _save(planned: PlannedRun, plan: Plan) -> None:
    prepared, run = planned.prepared, planned.run
    context, spent = run.context, run.budget.figures.settled_usd
    rows = assignments(
        context.run_id,
        prepared.input,
        prepared.columns,
        planned.decision,
        plan,
        run.endpoint_names,
        prepared.learner.difficulty(),
    )
    with run.warehouse() as warehouse:
        dispatch.save_assignments(warehouse, rows)
        runs.update(warehouse, context.run_id, planned_usd=spent + usd(planned.cost_usd))
    save_plan(context.folder, plan, planned.decision, float(spent), context.clock())


def save_plan(folder: Path, plan: Plan, decision: Decision, spent_usd: float, made_at: datetime) -> None:
    """Write down `plan` with the frontier of its problem."""
    aimed = decision.quality is not None
    told = KeptPlan(
        made_at=made_at,
        floor=decision.floor,
        quality=plan.quality if aimed else None,
        cost_usd=float(plan.cost_usd),
        spent_usd=spent_usd,
        gap=float(plan.gap),
        points=tuple((point.floor, point.cost_usd) for point in decision.points),
    )
    keep_plan(folder, told)
