"""A plan before a cent is spent: what a run would do and cost, as a value."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from thirdshift.flows.api.earlier import informed_context
from thirdshift.flows.api.jobs import AnyJob, AnyPath, Params, options_for
from thirdshift.flows.api.pilot_costs import less_pilot, pilot_usd
from thirdshift.flows.api.plan_shares import Share, shares_of
from thirdshift.flows.api.suggestions import NearestPlan, nearest_plan
from thirdshift.flows.console import LongWork
from thirdshift.flows.errors import UserError
from thirdshift.flows.planning.beliefs import believed, check_beliefs
from thirdshift.flows.planning.bill_bounds import high_usd
from thirdshift.flows.planning.cascading import decide_for, sends_on, sent_on
from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.planning.composition import hints
from thirdshift.flows.planning.history import EarlierNights, earlier_nights
from thirdshift.flows.planning.input import PreparedInput, check_charges, prepare
from thirdshift.flows.planning.lots import plan_columns
from thirdshift.flows.planning.measured.run_queries import NO_TOKEN_USAGE
from thirdshift.flows.planning.measured.silent import leave_out
from thirdshift.flows.planning.pilot_time import first_looks, in_time, seconds_of_round
from thirdshift.flows.planning.planner import Decision, Market, market
from thirdshift.flows.planning.voting import votes_of_before
from thirdshift.flows.quality.label_budget import audit_usd, doubts, labels
from thirdshift.flows.quality.proof import cheapest_with_proof
from thirdshift.flows.runs.context import RunContext, context_for
from thirdshift.flows.runs.options import RunOptions
from thirdshift.router.planning import explain
from thirdshift.router.planning.frontier import Point
from thirdshift.router.planning.options import workers_to_run
from thirdshift.router.planning.problem import NOBODY, Infeasible, Plan
from thirdshift.router.planning.solve import cheapest
from thirdshift.warehouse.errors import WarehouseError
from thirdshift.warehouse.intake.frozen import column

FEASIBLE, INFEASIBLE = 0, 3
"""Exit codes of the command."""
Say = Callable[[str], None]
_LOG = logging.getLogger("thirdshift")


# --- what is told ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlannedShare:
    """What one endpoint gets of a plan."""

    requests: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    workers: int | None = None
    """Workers that are started; None where nothing is started."""


@dataclass(frozen=True, slots=True)
class FloorPrice:
    """The cheapest plan's cost for one floor."""

    floor: float
    cost_usd: float


@dataclass(frozen=True, slots=True)
class PlanReason:
    """What stands against a plan, or against certifying its floor."""

    constraint: str
    """floor, cap_usd, deadline, max_vendor_share; labels."""
    message: str


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What `plan --json` prints. Figures that a pilot ahead will tell are None."""

    feasible: bool
    requests: int
    rejects: int
    cost_usd: float | None = None
    """Expected."""
    cost_usd_high: float | None = None
    """Not exceeded in 95 of 100 runs."""
    quality: float | None = None
    """The predicted mean score; None where nothing is believed of an endpoint that is used."""
    labels_needed: int | None = None
    """Scores that certifying the floor will take."""
    labels_usd: float | None = None
    """What those cost."""
    purposes: Mapping[str, float] = field(default_factory=dict)
    """What `cost_usd` is for: the pilot, main, and whoever scores (a judge, or audit's answers of the anchor)."""
    finish_at: datetime | None = None
    gap: float | None = None
    """The share by which the cost may exceed the cheapest plan's."""
    endpoints: Mapping[str, PlannedShare] = field(default_factory=dict)
    """By endpoint's name."""
    frontier: tuple[FloorPrice, ...] = ()
    """What each floor costs."""
    reasons: tuple[PlanReason, ...] = ()
    nearest: NearestPlan | None = None
    """Where there is no plan."""

    @property
    def exit_code(self) -> int:
        """The command's: 0 feasible, 3 infeasible."""
        return FEASIBLE if self.feasible else INFEASIBLE


def plan(job: AnyJob, *, params: Params | None = None, warehouse: AnyPath | None = None) -> PlanReport:
    """Say what a run would do and cost, from prices, tokens, priors and earlier runs. Asks nobody and spends nothing.

    `warehouse`: where earlier runs are looked up; the job's where none is given. Raises UserError where the job or its
    input is wrong; a plan that is not feasible is no error.
    """
    with looking_ahead(options_for(job, params, warehouse=warehouse)) as outlook:
        return report_of(outlook)


# --- how it is made --------------------------------------------------------------------------------------------------


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
    """What a pilot may cost, its judging included; as in a run, the cap must leave what answering everything costs."""
    judged_usd: float = 0.0
    """What of that is for a judge."""
    doubts: tuple[str, ...] = ()
    """Why the floor will not be certified."""
    hints: tuple[str, ...] = ()
    """What of the requests themselves costs more than it need, or is not as the job may mean it."""
    pilot_seconds: float = 0.0
    """How long the first round of that pilot takes; 0 where the deadline leaves no time for one."""
    nearest: NearestPlan | None = None
    """Where there is no plan: values that were each found to have one."""
    points: tuple[Point, ...] = ()
    shares: Mapping[str, Share] = field(default_factory=dict)
    believed: frozenset[str] = frozenset()
    """Endpoints of whose quality something is believed."""

    @property
    def quality(self) -> float | None:
        """The predicted mean; None where the plan uses an endpoint of which nothing is believed."""
        plan = self.plan
        return None if isinstance(plan, Infeasible) or self.shares.keys() - self.believed else plan.quality

    @property
    def plan(self) -> Plan | Infeasible:
        return self.decision.plan

    @property
    def unpiloted(self) -> float:
        """The share of the requests that a pilot leaves to the plan; all where the plan's first answers are the pilot."""
        piloted = 0 if self.decision.cascades is not None else self.context.pilots
        return 1.0 - min(piloted / max(self.columns.requests, 1), 1.0)


@contextmanager
def looking_ahead(
    options: RunOptions, say: Say = _LOG.info, *, lots: int | None = None
) -> Iterator[PlanOutlook]:
    """The plan of a call, while the input that it was made of lies in a temporary folder. `lots`: see `plan_columns`.

    Raises UserError.
    """
    with tempfile.TemporaryDirectory(prefix="thirdshift-plan-") as folder:
        try:
            context = informed_context(context_for(options, "plan"), say)
            yield look_ahead(context, Path(folder), lots, say)
        except WarehouseError as error:
            raise UserError(str(error)) from error


def look_ahead(
    context: RunContext, folder: Path, lots: int | None = None, say: Say = _LOG.info
) -> PlanOutlook:
    """Plan from what is known without asking anybody: prices, tokens, priors, earlier nights."""
    batch = prepare(
        context.input,
        folder,
        context.endpoints,
        context.policy,
        context.policies,
        context.needs,
        LongWork(say),
    )
    context.check_rejects(batch.intake, folder / "rejects.parquet")
    check_charges(folder, context.job.charge_by)
    columns = plan_columns(batch, context.endpoints, context.allowed, lots)
    leave_out(columns.allowed, context.silent)
    check = partial(
        _planned, batch=batch, columns=columns, earlier=earlier_nights(context, batch.intake.tasks, run_id="")
    )
    outlook = check(context)
    if isinstance(outlook.plan, Infeasible):
        nearest, terms = outlook.plan.nearest, outlook.decision.problem.terms
        return replace(
            outlook, nearest=nearest_plan(context, nearest, terms, lambda changed: _whole_usd(check(changed)))
        )
    shares = shares_of(outlook.plan, outlook.decision.problem, columns, outlook.market, context.endpoints)
    points = outlook.decision.points if outlook.informed and context.aim is not None else ()
    return replace(outlook, points=points, shares=shares)


def _planned(
    context: RunContext, batch: PreparedInput, columns: RequestColumns, earlier: EarlierNights
) -> PlanOutlook:
    """The plan of a job over an input that was read already."""
    before, now = earlier.scores, context.clock()
    on_market = partial(
        market, columns, context.endpoints, NO_TOKEN_USAGE, earlier.answers, context.throughputs,
        deadline=context.deadline,
    )  # fmt: skip
    priced = on_market(now=now)
    check_beliefs(context, before, columns.allowed)
    known = believed(context, before)
    tried = np.bincount(before.endpoint, minlength=len(context.endpoints))
    informed = context.aim is None or bool(known.all())
    # what a pilot will tell cannot make a plan infeasible before it has told it
    aim = context.aim if informed else None
    sending_on = sends_on(context, batch.scorable[columns.rows])  # then the pilot is the first of serving
    pilot, judged = (0.0, 0.0) if sending_on else pilot_usd(context, columns, priced, tried)
    share = 0.0 if sending_on else context.pilots / max(columns.requests, 1)
    terms = context.terms()
    pilot_seconds = seconds_of_round(priced, first_looks(context, columns, priced, tried))
    if not in_time(columns, priced, terms, pilot_seconds):  # then the run plans at once by what is known
        pilot, judged, pilot_seconds = 0.0, 0.0, 0.0
    elif pilot_seconds:
        priced = on_market(now=now + timedelta(seconds=pilot_seconds))
    if terms.seconds is not None:
        left = max(terms.seconds - pilot_seconds, 0.0)
        terms = replace(terms, seconds=left, before_seconds=pilot_seconds)
    given = votes_of_before(
        columns, context.endpoints, priced, earlier.outputs, context.scorer, context.priors, before
    )
    terms, priced = less_pilot(terms, pilot, share), given.market

    def decide(times: float) -> Decision:
        return decide_for(
            columns, priced, given.observations, given.priors, terms, aim and replace(aim, floor=aim.floor * times),
            given.before, sends_on=sending_on, doubt=given.doubt,
        )  # fmt: skip

    decision = cheapest_with_proof(context, batch, columns, decide)
    words = tuple(doubts(context, batch)), hints(batch, context.endpoints, context.policies)
    names = frozenset(each.name for each, sure in zip(context.endpoints, known, strict=True) if sure)
    return PlanOutlook(
        context, batch, columns, priced, decision, informed, pilot, judged, *words,
        pilot_seconds=pilot_seconds, believed=names,
    )  # fmt: skip


def _whole_usd(outlook: PlanOutlook) -> float | None:
    """What is expected to be spent, the pilot included; None where there is no plan."""
    if isinstance(outlook.plan, Infeasible):
        return None
    return outlook.pilot_usd + outlook.unpiloted * outlook.plan.cost_usd


def report_of(outlook: PlanOutlook) -> PlanReport:
    """The plan as the value that is told."""
    solved, prepared, context = outlook.plan, outlook.batch, outlook.context
    report = PlanReport(
        feasible=not isinstance(solved, Infeasible),
        requests=prepared.rows,
        rejects=prepared.intake.rejects,
        reasons=tuple(PlanReason("labels", doubt) for doubt in outlook.doubts),
    )
    if isinstance(solved, Infeasible):
        against = tuple(PlanReason(reason.constraint, reason.message) for reason in solved.reasons)
        reasons = report.reasons + against
        return replace(report, reasons=reasons, nearest=outlook.nearest, finish_at=_end_without_plan(outlook))
    if solved.finish_seconds > 0 or context.deadline is not None:
        report = replace(report, finish_at=_after(outlook, solved.finish_seconds))
    return _with_figures(report, outlook, solved) if outlook.informed else report


def _after(outlook: PlanOutlook, seconds: float) -> datetime:
    return outlook.context.clock() + timedelta(seconds=outlook.pilot_seconds + seconds)


def _end_without_plan(outlook: PlanOutlook) -> datetime | None:
    """When all could be answered if no deadline stopped it, where there is a deadline."""
    if outlook.context.deadline is None:
        return None
    problem = outlook.decision.problem
    plan = cheapest(problem.under(replace(problem.terms, seconds=None, cap_usd=None, floor=None)))
    return None if plan is None else _after(outlook, plan.finish_seconds)


def _with_figures(report: PlanReport, outlook: PlanOutlook, solved: Plan) -> PlanReport:
    context, pilot = outlook.context, outlook.pilot_usd
    spread = [share.cost_sd_usd for share in outlook.shares.values()]
    needed = labels(context, outlook.batch, outlook.columns, outlook.market, solved)
    unpiloted = outlook.unpiloted
    high = high_usd(outlook.columns, outlook.market, context.endpoints, outlook.decision, solved, spread)
    scoring = audit_usd(context, outlook.batch, outlook.columns, outlook.market, solved)
    most = context.judge_usd
    unscored = needed is not None and needed.needed == 0 and not pilot  # no pilot that might change the plan
    scoring_high = scoring if most is None or unscored else max(float(most) - outlook.judged_usd, 0.0)
    scoring = min(scoring, scoring_high)
    by = "judge" if context.judge is not None else "audit"
    purposes = {"pilot": pilot - outlook.judged_usd, "main": unpiloted * solved.cost_usd}
    purposes[by] = scoring + outlook.judged_usd
    high = pilot + unpiloted * high + scoring_high
    if context.cap_usd is not None:
        high = max(min(high, float(context.cap_usd)), sum(purposes.values()))
    return replace(
        report,
        cost_usd=sum(purposes.values()),
        cost_usd_high=high,
        purposes={name: usd for name, usd in purposes.items() if usd},
        quality=outlook.quality,
        labels_needed=None if needed is None else needed.needed,
        labels_usd=None if needed is None or needed.needed is None else needed.needed * needed.usd,
        gap=solved.gap,
        endpoints={
            name: PlannedShare(
                share.requests,
                share.input_tokens,
                share.output_tokens,
                share.cost_usd,
                workers_to_run(context.reached[name], solved.workers) or None,
            )
            for name, share in outlook.shares.items()
        },
        frontier=tuple(FloorPrice(point.floor, point.cost_usd) for point in outlook.points),
    )


def why(outlook: PlanOutlook, request_id: str) -> list[str]:
    """Return why a request goes where it goes, line by line, and what the speed of workers is believed by.

    Raises UserError: there is no such request. ValueError: the plan is one of lots.
    """
    if outlook.columns.sent is not None:
        raise ValueError("a plan of lots says nothing of one request: look ahead with lots=0")
    plan = outlook.plan
    ids = column(outlook.batch.folder, "request_id")
    found = np.flatnonzero(np.asarray(pc.equal(ids, request_id)))
    if not found.size:
        raise UserError(_refused(outlook.batch.folder / "rejects.parquet", request_id))
    if isinstance(plan, Infeasible):
        return [reason.message for reason in plan.reasons]
    leader = int(outlook.batch.leader[found[0]])
    position = int(outlook.columns.positions(np.array([leader]))[0])
    first, second = explain.why(outlook.decision.problem, plan, position, known=outlook.believed)
    goes_on = sent_on(outlook.decision, plan, outlook.market, outlook.context.endpoints, position)
    options = outlook.decision.problem.options
    named = [options[at].endpoint for at in (plan.choice[position], plan.runner_up[position]) if at != NOBODY]
    speeds = [outlook.context.speeds[name] for name in dict.fromkeys(named) if name in outlook.context.speeds]
    lines = [first.replace(f"row {position} ", f"{request_id} ", 1), second, *goes_on, *speeds]
    if leader != found[0]:
        lines.append(f"it asks what {ids[leader]} asks, and gets that one's answer at no cost of its own")
    return lines


def _refused(rejects: Path, request_id: str) -> str:
    """Why a request that was not accepted was not, where the input has it."""
    row = pq.read_table(rejects, filters=[("request_id", "=", request_id)]).slice(0, 1).to_pylist()
    if not row:
        return f"no request {request_id} in the input"
    return f"request {request_id} is refused: row {row[0]['source_row']}: {row[0]['reason']}"
