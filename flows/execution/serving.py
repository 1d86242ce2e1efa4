"""The stages that carry a plan out: serve, score, repair."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from thirdshift.flows.dispatch.work import ShardWork
from thirdshift.flows.execution.lateness import on_time
from thirdshift.flows.execution.plan import PlannedRun, ask_engines
from thirdshift.flows.execution.preparation import adopted_shards, scoring_shards
from thirdshift.flows.execution.waiting import wait_until
from thirdshift.flows.planning.assignment import PendingRows, shards_of, vendor_room
from thirdshift.flows.planning.voting import settle
from thirdshift.flows.quality import finishing
from thirdshift.flows.quality.vendor_shares import keep_shares
from thirdshift.router.certification.proof_costs import ProofCosts
from thirdshift.router.values import Mode, Purpose, usd
from thirdshift.warehouse.store import results


def serve(planned: PlannedRun) -> list[ShardWork]:
    """Return what the plan still has to send: unanswered requests, then those that failed, at other endpoints."""
    assignment = planned.assignment
    adopted = adopted_shards(planned.prepared, set(Purpose))
    if planned.run.dispatcher.stopped:
        return adopted
    record_replies(planned)
    columns, run = planned.prepared.columns, planned.run
    settle(assignment, run.queries, columns, run.context.scorer, run.context.world.time())
    pending = _next_to_send(planned)
    if pending.opens_at is not None:
        back = bool((assignment.out_until == pending.opens_at).any())
        why = "when an endpoint may be asked again" if back else "when the price falls"
        wait_until(pending.opens_at, planned.run, why)
        pending = _next_to_send(planned)
    if not adopted:
        pending = on_time(planned, pending)
    assignment.in_flight[:] = False  # at the next call, what was adopted has landed
    second = assignment.second_to_ask(pending)
    _leave_to_realtime(planned, pending, second)
    return adopted + _shards(planned, Purpose.MAIN, pending) + _shards(planned, Purpose.VOTE, second)


def score(planned: PlannedRun) -> list[ShardWork]:
    """Return what must be asked so that the answers drawn for the audit are scored; none where all are."""
    audit = planned.prepared.audit
    if audit is None or planned.run.dispatcher.stopped:
        return []
    compose(planned)
    return scoring_shards(planned.prepared, partial(audit.drawn, costs=_weighed(planned)))


def _weighed(planned: PlannedRun) -> ProofCosts | None:
    """Return what an audit is held against; None where there is nothing to mend with."""
    return None if planned.repair.over else planned.proof


def repair(planned: PlannedRun) -> list[ShardWork]:
    """Return what better endpoints are asked again while the floor is missed, within the cap and the deadline."""
    run, prepared = planned.run, planned.prepared
    context = run.context
    if run.dispatcher.stopped or not context.learns:
        return []
    with run.warehouse() as warehouse:
        record_replies(planned)
        # an answer chosen by its score is no sample of anything
        if prepared.audit is None and not prepared.learner.by_one_rule:
            planned.assignment.override_by_scores(prepared.learner.observed())
        compose(planned)
        certificates = finishing.quality_of(warehouse, context).certificates
        costs, audit, mean = _weighed(planned), prepared.audit, None
        if costs is not None and audit is not None and certificates:
            mean = audit.mended_to(warehouse, costs)
    # workers that were up when the plan was made may have stopped, and would be paid for again
    ask_engines(prepared)
    spent = run.budget.spent_usd
    due = planned.repair.due(certificates, run.approval.within(context.terms(spent_usd=spent), spent), mean)
    if due is not None and due[1].opens_at is not None:
        wait_until(due[1].opens_at, run, "when the price falls")
        return repair(planned)
    shards = []
    if due is not None:
        _leave_to_realtime(planned, due[1])
        shards = _shards(planned, *due)
        if prepared.learner.sends_on:  # a further round asks those whom this one asks
            run.dispatcher.awaited = {run.endpoint_names[e] for e in due[1].endpoint.tolist()}
    planned.repair.over = not shards
    return shards or score(planned)


def compose(planned: PlannedRun) -> None:
    """Compose results anew. A request that could still be answered, had the run not stopped, has none."""
    run, prepared = planned.run, planned.prepared
    with run.warehouse() as warehouse:
        record_replies(planned)
        _keep_shares(planned)
        served = planned.assignment.served
        answerable = planned.assignment.answerable(prepared.columns.allowed)
        final = ~answerable if run.dispatcher.stopped else np.ones(len(served), bool)
        rows = prepared.columns.rows[final]
        results.compose(
            warehouse, run.context.run_id, finishing.served_table(rows, served[final], run.endpoint_names)
        )
        if run.context.scores_all:
            finishing.unanswered_score_nothing(warehouse, run.context.run_id, prepared.input.scorable)


def _keep_shares(planned: PlannedRun) -> None:
    """Keep vendors' shares of what is served, where the job limits them."""
    prepared, assignment = planned.prepared, planned.assignment
    most = vendor_room(planned.decision.problem)
    if math.isinf(most):
        return
    worth, learner = np.full(assignment.answered.shape, 0.5), prepared.learner
    # else what is served is not chosen by its score
    if planned.run.context.scores_all and not learner.by_one_rule:
        seen = learner.observed()
        worth[seen.row, seen.endpoint] = seen.score
    providers = [endpoint.provider for endpoint in planned.run.context.endpoints]
    vendor = np.unique(providers, return_inverse=True)[1]
    keep_shares(assignment, prepared.columns.weight, vendor, most, worth)


def record_replies(planned: PlannedRun) -> None:
    """Take what has come into the assignment; a shard that broke has failed at what it did not answer."""
    run, columns, assignment = planned.run, planned.prepared.columns, planned.assignment
    waits, names = run.dispatcher.waits, run.endpoint_names
    in_vain = [names.index(name) for name in waits.in_vain if name in names]
    assignment.record_replies(run.queries.replies(), columns, in_vain)
    assignment.out_until[:] = [waits.out_until(name) for name in names]
    for shard in (shard for shard in run.broken_shards if shard.purpose is not Purpose.JUDGE):
        assignment.mark_failed(columns.positions(shard.rows), run.endpoint_names.index(shard.endpoint))
    for endpoint, rows in run.dispatcher.take_not_run():
        assignment.mark_not_run(columns.positions(rows), run.endpoint_names.index(endpoint))
    for endpoint, rows in run.dispatcher.take_passing():
        assignment.mark_passing(columns.positions(rows), run.endpoint_names.index(endpoint))
    for endpoint in run.dispatcher.closed & set(names):
        assignment.mark_failed(np.arange(len(columns.rows)), run.endpoint_names.index(endpoint))


def _next_to_send(planned: PlannedRun) -> PendingRows:
    now = planned.run.context.world.time()
    return planned.assignment.next_to_send(planned.singles, planned.market.endpoint, now)


def _leave_to_realtime(planned: PlannedRun, *sent: PendingRows) -> None:
    """Tell how much of the cap batches are to leave to what is sent beside them: what that is expected to cost where its
    price will change. Else it may as well be sent when a batch is back."""
    context, expected = planned.run.context, 0.0
    if context.cap_usd is None:
        return
    hurried = {offer.endpoint for offer in planned.market.offered if offer.option.windows}
    for e, endpoint in enumerate(context.endpoints):
        if endpoint.mode is not Mode.BATCH and e in hurried:
            rows = np.concatenate([pending.position[pending.endpoint == e] for pending in sent])
            cost = planned.market.least_usd(e)[rows]
            expected += float(cost[np.isfinite(cost)].sum())
    planned.run.dispatcher.leave_to_realtime(usd(expected))


def _shards(planned: PlannedRun, purpose: Purpose, pending: PendingRows) -> list[ShardWork]:
    if not len(pending):
        return []
    run, assignment = planned.run, planned.assignment
    return run.create_shards(
        purpose,
        shards_of(
            pending,
            planned.prepared.columns,
            planned.market,
            run.context.endpoints,
            workers=assignment.workers,
            ordered=assignment.ordered,
        ),
    )
