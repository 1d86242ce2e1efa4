"""The first stage: the input frozen and admitted, its requests as columns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from thirdshift.flows.console import LongWork
from thirdshift.flows.dispatch.emulation import invention_sentence
from thirdshift.flows.dispatch.work import ShardWork
from thirdshift.flows.errors import UserError
from thirdshift.flows.execution import earlier_runs
from thirdshift.flows.execution.run import Run
from thirdshift.flows.formats import counted
from thirdshift.flows.planning import input as planning_input
from thirdshift.flows.planning.columns import RequestColumns, request_columns
from thirdshift.flows.planning.composition import hints
from thirdshift.flows.planning.input import (
    PreparedInput,
    check_charges,
    check_shares,
    thawing,
)
from thirdshift.flows.planning.learner import Learner
from thirdshift.flows.planning.measured.silent import leave_out, silent_before
from thirdshift.flows.quality.audit import Audit
from thirdshift.flows.quality.label_budget import doubts
from thirdshift.flows.quality.population import stands_for_all
from thirdshift.flows.quality.scoring import ScoringRequest, judgeable
from thirdshift.router.values import Purpose
from thirdshift.warehouse.store import prices, requests, runs
from thirdshift.warehouse.store.store import Warehouse


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run with its input frozen."""

    run: Run
    input: PreparedInput
    columns: RequestColumns
    learner: Learner
    audit: Audit | None
    """Where scores cost money."""


def prepare(run: Run) -> PreparedRun:
    """Freeze the input, refuse what cannot be answered, make columns of the rest.

    Raises UserError where too many rows are refused, or no plan could keep the job's policy.
    """
    context, say = run.context, run.console.say
    prepared_input = _frozen_input(run)
    audit = None
    by_audit = context.scorer is not None and not context.scores_all
    if by_audit:
        prepared_input = judgeable(context, prepared_input)
    if context.call.emulated and context.call.outcomes is None:
        say(invention_sentence(context.endpoints))
    run.dispatcher.connect()
    if prepared_input.text_only:
        run.dispatcher.text_only()
    # one shows what its model can do; how many there are to be is for the plan to say
    run.dispatcher.plan_workers(dict.fromkeys(context.pools, 1))
    columns = request_columns(prepared_input, context.endpoints, context.allowed, texts=context.learns)
    if by_audit:
        audit = Audit(context, prepared_input, sample=stands_for_all(context, prepared_input, columns, say))
    with run.warehouse() as warehouse:
        requests.save(warehouse, context.run_id, context.folder, context.job.tags, context.job.charge_by)
        requests.save_rejects(warehouse, context.run_id, context.folder)
        _check_input(runs.get(warehouse, context.run_id), prepared_input)
        runs.update(warehouse, context.run_id, input_fingerprint=prepared_input.intake.fingerprint)
        prices.save(warehouse, context.run_id, context.prices)
        columns = earlier_runs.take_over(warehouse, context, columns, say)
        silent = silent_before(
            warehouse, context.job.name, context.run_id, context.endpoints, emulated=context.call.emulated
        )
        run.score_new(warehouse)
    for endpoint in leave_out(columns.allowed, silent):
        say(
            f"{context.endpoints[endpoint].name} answered nothing in the last run, and is given nothing in this one"
        )
    learner = Learner.of(context, run.queries, columns, prepared_input, say)
    told = hints(prepared_input, context.endpoints, context.policies)
    for warning in (context.refused, *told, *doubts(context, prepared_input)):
        if warning:
            say(warning, "yellow")
    rejects = f", {prepared_input.intake.rejects:,} rejected" if prepared_input.intake.rejects else ""
    say(f"{context.run_id}: {counted(prepared_input.rows, 'request')}{rejects}")
    return PreparedRun(run, prepared_input, learner.columns, learner, audit)


def _check_input(row: Mapping[str, Any] | None, prepared_input: PreparedInput) -> None:
    """Raises UserError where answers in the warehouse are to other requests: the frozen input was lost, and the input
    has changed since."""
    before = None if row is None else row["input_fingerprint"]
    if row is not None and before is not None and before != prepared_input.intake.fingerprint:
        raise UserError(
            f"run {row['run_id']} was begun on another input, and its frozen copy is gone; put the input back as it was, "
            "or start anew with --fresh"
        )


def _frozen_input(run: Run) -> PreparedInput:
    context = run.context
    with thawing(context.folder):
        prepared_input = planning_input.prepare(
            context.input,
            context.folder,
            context.endpoints,
            context.policy,
            context.policies,
            context.needs,
            LongWork(run.console.say),
        )
        context.check_rejects(prepared_input.intake, context.folder / "rejects.parquet")
        check_charges(context.folder, context.job.charge_by)
        check_shares(prepared_input, context.endpoints, context.allowed, context.policy.max_vendor_share)
    return prepared_input


def adopted_shards(prepared: PreparedRun, purposes: Collection[Purpose]) -> list[ShardWork]:
    """Return the shards that an earlier process left at a batch tier, to be waited for and not sent again."""
    run = prepared.run
    shards = run.take_orphans(purposes)
    if shards:
        count = sum(len(shard.unanswered) for shard in shards)
        run.console.say(f"{count:,} requests are with a batch tier already: adopted, not sent again")
        if prepared.audit is not None:
            shards = [prepared.audit.scoring.filled(shard) for shard in shards]
        shards = [replace(shard, barred=_barred(prepared, shard)) for shard in shards]
        run.enter_shards(shards)
    return shards


def _barred(prepared: PreparedRun, shard: ShardWork) -> frozenset[int]:
    """Rows of an adopted shard that may not go to its endpoint by what the job says now."""
    rows, columns = shard.unanswered, prepared.columns
    if shard.purpose is Purpose.JUDGE and prepared.audit is not None:
        may = prepared.audit.scoring.may_see[rows]
    else:
        names = [endpoint.name for endpoint in prepared.run.context.endpoints]
        may = columns.allowed[columns.positions(rows), names.index(shard.endpoint)]
    return frozenset(rows[~may].tolist())


def scoring_shards(
    prepared: PreparedRun, due: Callable[[Warehouse], list[ScoringRequest]]
) -> list[ShardWork]:
    """Return shards for a judge or the baseline endpoint; none where there is no money or time for more of them."""
    run, audit = prepared.run, prepared.audit
    if audit is None or run.dispatcher.stopped or run.dispatcher.unscored:
        return []
    with run.warehouse() as warehouse:
        scoring_requests = due(warehouse)
    shards = []
    for request in scoring_requests:
        (shard,) = run.dispatcher.create_shards(request.purpose, [(request.endpoint, request.rows)])
        shards.append(audit.scoring.filled(replace(shard, subject=request.subject)))
    run.enter_shards(shards)
    return shards
