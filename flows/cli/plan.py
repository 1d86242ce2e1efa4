"""The `plan` command: what a run would do and cost, before a cent is spent."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from thirdshift.flows.console import money
from thirdshift.flows.dispatch.harvest import with_turnarounds
from thirdshift.flows.errors import UserError
from thirdshift.flows.formats import jsonable
from thirdshift.flows.planning.history import past_nights, past_scores
from thirdshift.flows.planning.input import PreparedInput, prepare
from thirdshift.flows.planning.planner import (
    Decision,
    Market,
    RequestColumns,
    decide,
    market,
    request_columns,
)
from thirdshift.flows.planning.run_queries import NOTHING_USED
from thirdshift.flows.planning.throughput import with_throughput
from thirdshift.flows.planning.tiers import realtime_counterparts
from thirdshift.flows.quality.label_budget import doubts, labels
from thirdshift.flows.runs.context import RunContext, context_for
from thirdshift.flows.runs.options import RunOptions
from thirdshift.router.learning.pilot import CHECKED, SEED
from thirdshift.router.planning import explain
from thirdshift.router.planning.frontier import Point, frontier
from thirdshift.router.planning.problem import NOBODY, Infeasible, Plan, Terms
from thirdshift.router.prediction.observations import no_observations
from thirdshift.router.tokens.output_lengths import cost_high
from thirdshift.warehouse.errors import InputError
from thirdshift.warehouse.intake.frozen import column
from thirdshift.warehouse.store.store import Warehouse

INFEASIBLE = 3
FIGURES = ("cost_usd", "cost_usd_high", "quality", "labels_needed", "labels_usd", "finish_at", "gap")


@dataclass(frozen=True, slots=True)
class Share:
    """What one endpoint gets of a plan."""

    requests: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    cost_sd_usd: float


@dataclass(frozen=True, slots=True)
class PlanOutlook:
    """A plan with all that is told of it."""

    context: RunContext
    batch: PreparedInput
    columns: RequestColumns
    market: Market
    decision: Decision
    informed: bool
    """Whether something is known of every endpoint's quality; else a pilot ahead will tell."""
    pilot_usd: float
    """What a pilot may cost; as in a run, the cap must leave what answering everything costs at least."""
    doubts: tuple[str, ...] = ()
    """Why the floor will not be certified."""
    points: tuple[Point, ...] = ()
    shares: Mapping[str, Share] = field(default_factory=dict)

    @property
    def plan(self) -> Plan | Infeasible:
        return self.decision.plan


def show_plan(
    job: Path, params: dict[str, str], warehouse: Path | None, *, as_json: bool, why: str | None
) -> int:
    """Print the plan; 0 where it is feasible, else 3."""
    context = _informed(
        context_for(RunOptions(job=job.resolve(), params=params, warehouse=warehouse), "plan")
    )
    with tempfile.TemporaryDirectory(prefix="thirdshift-plan-") as folder:
        try:
            outlook = look_ahead(context, Path(folder))
        except InputError as error:
            raise UserError(str(error)) from error
        if why is not None:
            print("\n".join(_why(outlook, why)))
        elif as_json:
            print(json.dumps(as_data(outlook), default=jsonable))
        else:
            show(outlook, Console(highlight=False))
    return INFEASIBLE if isinstance(outlook.plan, Infeasible) else 0


def _informed(context: RunContext) -> RunContext:
    """With the turnarounds and the workers' pace that earlier nights in the warehouse tell, where there is one."""
    late = context.job.on_deadline == "realtime"
    with ExitStack() as held:
        there = context.warehouse.exists()
        known = held.enter_context(Warehouse.open(context.warehouse)) if there else None
        endpoints = with_turnarounds(context.endpoints, known, cut_short=late)
        informed, throughputs = with_throughput(replace(context, endpoints=endpoints), known)
    for each in throughputs:
        print(each, file=sys.stderr)
    return informed


def look_ahead(context: RunContext, folder: Path) -> PlanOutlook:
    """Plan from what is known without asking anybody: prices, tokens, priors, earlier nights."""
    batch = prepare(context.input, folder, context.endpoints, context.policy, context.policies, context.needs)
    context.check_rejects(batch.intake)
    columns = request_columns(batch, context.endpoints, context.allowed, texts=False)
    earlier = context.warehouse, context.job.name, "", context.endpoints, batch.intake.tasks
    before = past_scores(
        *earlier, scorer=context.scorer, realtime_counterpart=realtime_counterparts(context.endpoints)
    )
    priced = market(
        columns,
        context.endpoints,
        NOTHING_USED,
        past_nights(*earlier),
        context.throughputs,
        now=context.clock(),
        deadline=context.deadline,
    )
    tried = np.bincount(before.endpoint, minlength=len(context.endpoints))
    informed = context.aim is None or bool((~np.isnan(context.priors) | (tried > 0)).all())
    # what a pilot will tell cannot make a plan infeasible before it has told it
    aim = context.aim if informed else None
    pilot = _pilot_usd(context, columns, priced, tried)
    terms = _less(context.terms(), pilot, context.pilots / max(len(columns.rows), 1))
    decision = decide(columns, priced, no_observations(), context.priors, terms, aim, before)
    outlook = PlanOutlook(
        context, batch, columns, priced, decision, informed, pilot, tuple(doubts(context, batch))
    )
    if isinstance(decision.plan, Infeasible):
        return outlook
    points = frontier(decision.problem) if informed and context.aim is not None else ()
    return replace(outlook, points=points, shares=_shares(outlook, decision.plan))


def _pilot_usd(
    context: RunContext, columns: RequestColumns, priced: Market, tried: NDArray[np.int64]
) -> float:
    """What a pilot costs at most: each of its requests on every candidate, fewer on those that earlier nights know. One
    answer of each is kept as its result."""
    count = min(context.pilots, len(columns.rows))
    cost = np.where(columns.allowed, priced.by_endpoint(), np.nan)
    if not count or not np.isfinite(cost).any(axis=1).all():
        return 0.0
    each = np.where(columns.allowed, cost, 0.0).mean(axis=0)
    looks = np.where(tried >= min(SEED, count), min(CHECKED, count), count)
    asked = float(looks @ each)
    cap = context.terms().cap_usd
    return asked if cap is None else min(asked, max(0.0, cap - float(np.nanmin(cost, axis=1).sum())))


def _less(terms: Terms, pilot_usd: float, share: float) -> Terms:
    """What is left when the pilot is paid, for the requests that it has not answered."""
    if terms.cap_usd is None:
        return terms
    return replace(terms, cap_usd=max(terms.cap_usd - pilot_usd, 0.0) / max(1.0 - share, 1e-9))


def _shares(outlook: PlanOutlook, plan: Plan) -> dict[str, Share]:
    columns, market = outlook.columns, outlook.market
    told = explain.columns(outlook.decision.problem, plan)
    endpoint = np.where(plan.choice == NOBODY, -1, market.endpoint[plan.choice])
    shares = {}
    for e, value in enumerate(outlook.context.endpoints):
        rows = np.flatnonzero(endpoint == e)
        if not rows.size:
            continue
        length = market.lengths.total(columns.population.task[rows], columns.max_tokens[rows], e)
        shares[value.name] = Share(
            requests=int(columns.weight[rows].sum()),
            input_tokens=int(columns.tokens[e][rows].sum()),
            output_tokens=int(length.mean),
            cost_usd=float(told.cost_usd[rows].sum()),
            cost_sd_usd=length.sd * float(value.price.base.output) / 1e6,
        )
    return shares


def as_data(outlook: PlanOutlook) -> dict[str, Any]:
    """The contract's `plan --json`. Figures that a pilot ahead will tell are null."""
    plan, batch, context = outlook.plan, outlook.batch, outlook.context
    data: dict[str, Any] = {
        "feasible": not isinstance(plan, Infeasible),
        "requests": batch.rows,
        "rejects": batch.intake.rejects,
        **dict.fromkeys(FIGURES),
        "endpoints": {},
        "frontier": [],
        "reasons": [{"constraint": "labels", "message": each} for each in outlook.doubts],
        "nearest": None,
    }
    if isinstance(plan, Infeasible):
        data["reasons"] += [{"constraint": r.constraint, "message": r.message} for r in plan.reasons]
        seconds = plan.nearest.seconds
        at = None if seconds is None else (context.clock() + timedelta(seconds=seconds)).isoformat()
        data["nearest"] = {"floor": plan.nearest.floor, "cap_usd": plan.nearest.cap_usd, "deadline": at}
        return data
    if plan.finish_seconds > 0:
        data["finish_at"] = (context.clock() + timedelta(seconds=plan.finish_seconds)).isoformat()
    if outlook.informed:
        data |= _figures(outlook, plan)
    return data


def _figures(outlook: PlanOutlook, plan: Plan) -> dict[str, Any]:
    context, shares = outlook.context, outlook.shares.values()
    found = labels(context, outlook.batch, outlook.columns, outlook.market, plan.quality)
    pilot = outlook.pilot_usd
    unpiloted = 1.0 - min(context.pilots / max(len(outlook.columns.rows), 1), 1.0)
    high = max(cost_high([s.cost_usd for s in shares], [s.cost_sd_usd for s in shares]), plan.cost_usd)
    return {
        "cost_usd": pilot + unpiloted * plan.cost_usd,
        "cost_usd_high": pilot + unpiloted * high,
        "quality": plan.quality if context.scorer is not None else None,
        "labels_needed": None if found is None else found.needed,
        "labels_usd": None if found is None or found.needed is None else found.needed * found.usd,
        "gap": plan.gap,
        "endpoints": {
            name: {
                "requests": share.requests,
                "input_tokens": share.input_tokens,
                "output_tokens": share.output_tokens,
                "cost_usd": share.cost_usd,
            }
            for name, share in outlook.shares.items()
        },
        "frontier": [{"floor": point.floor, "cost_usd": point.cost_usd} for point in outlook.points],
    }


def _why(outlook: PlanOutlook, request_id: str) -> list[str]:
    plan = outlook.plan
    ids = column(outlook.batch.folder, "request_id")
    found = np.flatnonzero(np.asarray(pc.equal(ids, request_id)))
    if not found.size:
        raise UserError(f"no accepted request {request_id} in the input")
    if isinstance(plan, Infeasible):
        return [reason.message for reason in plan.reasons]
    leader = int(outlook.batch.leader[found[0]])
    position = int(outlook.columns.positions(np.array([leader]))[0])
    first, second = explain.why(outlook.decision.problem, plan, position)
    return [first.replace(f"row {position} ", f"{request_id} ", 1), second]


def show(outlook: PlanOutlook, console: Console) -> None:
    """The plan for people, within 80 columns."""
    context, plan, batch = outlook.context, outlook.plan, outlook.batch
    duplicates = batch.rows - len(outlook.columns.rows)
    console.print(
        f"{context.job.name}: {batch.rows:,} requests, {batch.intake.rejects:,} rejects"
        + (f", {duplicates:,} duplicates answered once" if duplicates else "")
    )
    for each in (context.refused, *outlook.doubts):
        if each:
            console.print(each, markup=False)
    if isinstance(plan, Infeasible):
        for reason in plan.reasons:
            console.print(f"not feasible: {reason.message}", markup=False)
        return
    if not outlook.informed:
        _show_range(outlook, console)
        return
    console.print(_table(outlook))
    figures = _figures(outlook, plan)
    pilot = outlook.pilot_usd
    console.print(
        f"expected {money(figures['cost_usd'])}, at most {money(figures['cost_usd_high'])} (95 %)"
        + (f", pilot {money(pilot)} included" if pilot else "")
        + (f"; predicted quality {plan.quality:.3f}" if context.scorer else "")
        + f"; within {plan.gap:.2%} of the cheapest plan"
    )
    for name, seconds in plan.waits.items():
        console.print(f"waits {timedelta(seconds=round(seconds))} for the price of {name}", markup=False)
    if figures["labels_needed"] and not context.scores_all:
        paid = figures["labels_usd"]
        console.print(
            f"certifying {context.job.quality.floor:g} will take about {figures['labels_needed']:,} scores, "
            f"{money(paid)} on top"
        )
    if outlook.points:
        console.print(_frontier(outlook))
    if context.scorer is None:
        console.print("no scorer is given: quality is predicted only, nothing will be certified")


def _show_range(outlook: PlanOutlook, console: Console) -> None:
    """Nothing is known of some endpoints' quality: what all on each would cost, and that the pilot will tell."""
    cost = np.where(outlook.columns.allowed, outlook.market.by_endpoint(), np.nan)
    table = Table("endpoint", "allowed for", "all of them")
    for e, endpoint in enumerate(outlook.context.endpoints):
        allowed = outlook.columns.allowed[:, e]
        total = money(float(np.nansum(cost[:, e]))) if allowed.any() else "-"
        table.add_row(endpoint.name, f"{int(outlook.columns.weight[allowed].sum()):,}", total)
    console.print(table)
    count = outlook.context.pilots
    console.print(
        f"Which of them is good enough a pilot will tell: {count:,} requests, at most {money(outlook.pilot_usd)}.\n"
        "An endpoint's quality_prior says what to believe before that."
    )


def _table(outlook: PlanOutlook) -> Table:
    table = Table("endpoint", "requests", "input tokens", "output tokens", "expected")
    for name, share in outlook.shares.items():
        table.add_row(
            name,
            f"{share.requests:,}",
            f"{share.input_tokens:,}",
            f"{share.output_tokens:,}",
            money(share.cost_usd),
        )
    for column_ in table.columns[1:]:
        column_.justify = "right"
    return table


def _frontier(outlook: PlanOutlook) -> Table:
    """Cost as a function of the floor, five points to a line of text."""
    table = Table(title="what a floor costs", show_header=False)
    cells = [f"{point.floor:.3f}  {money(point.cost_usd)}" for point in outlook.points]
    for start in range(0, len(cells), 4):
        table.add_row(*cells[start : start + 4])
    return table
