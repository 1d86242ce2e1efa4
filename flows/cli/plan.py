"""The `plan` command: what a run would do and cost, before a cent is spent."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from thirdshift.flows.api.plans import PlanOutlook, PlanReport, looking_ahead, report_of, why
from thirdshift.flows.console import money
from thirdshift.flows.formats import counted, json_text, printable
from thirdshift.flows.planning.beliefs import prediction_only
from thirdshift.flows.planning.voting import vote_sentences
from thirdshift.flows.runs.options import RunOptions
from thirdshift.router.planning.problem import Infeasible, Plan

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def show_plan(call: RunOptions, *, as_json: bool, request_id: str | None) -> int:
    """Print the plan, or why a request goes where it goes; return 0 where it is feasible, else 3."""

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    with looking_ahead(call, say, lots=None if request_id is None else 0) as outlook:
        report = report_of(outlook)
        if request_id is not None:
            lines = why(outlook, request_id)
            print(
                json.dumps({"request_id": request_id, "why": lines})
                if as_json
                else printable("\n".join(lines))
            )
        elif as_json:
            for hint in outlook.hints:
                say(printable(hint))
            print(json_text(asdict(report)))
        else:
            from rich.console import Console

            show(outlook, report, Console(highlight=False))
    return report.exit_code


def show(outlook: PlanOutlook, report: PlanReport, console: Console) -> None:
    """Print the plan for people, within 80 columns."""
    context, plan, batch = outlook.context, outlook.plan, outlook.batch
    duplicates = batch.rows - outlook.columns.requests
    console.print(
        f"{context.job.name}: {counted(batch.rows, 'request')}, {counted(batch.intake.rejects, 'reject')}"
        + (f", {counted(duplicates, 'duplicate')} answered once" if duplicates else "")
    )
    for line in (context.refused, *outlook.hints, *outlook.doubts):
        if line:
            console.print(line, markup=False)
    if isinstance(plan, Infeasible):
        for reason in plan.reasons:
            console.print(f"not feasible: {reason.message}", markup=False)
        return
    if report.cost_usd is None or report.cost_usd_high is None:
        _show_range(outlook, console)
        return
    console.print(_table(outlook, report))
    figures = _figures(outlook, report, plan, report.cost_usd, report.cost_usd_high)
    for line in (*vote_sentences(outlook.market, plan), *figures):
        console.print(line, markup=False)
    if outlook.points:
        console.print(_frontier(outlook))
    if context.scorer is None:
        note = prediction_only(context)
        console.print(note or "no scorer is given: quality is a prediction, nothing will be certified")


def _figures(
    outlook: PlanOutlook, report: PlanReport, plan: Plan, usd: float, high_usd: float
) -> Iterator[str]:
    """Say what the plan costs (expected, and at most) and for what, how good it is, and when it is done."""
    context, pilot = outlook.context, outlook.pilot_usd
    yield (
        f"expected {money(usd)}, at most {money(high_usd)} (95 %)"
        + (f", pilot {money(pilot)} included" if pilot else "")
        + ("" if report.quality is None else f"; predicted quality {report.quality:.3f}")
        + f"; within {plan.gap:.2%} of the cheapest plan"
    )
    if len(report.purposes) > 1:
        yield "of that: " + ", ".join(f"{name} {money(part)}" for name, part in report.purposes.items())
    if context.deadline is not None and report.finish_at is not None:
        yield f"done by {_utc(report.finish_at)}; the deadline is {_utc(context.deadline)}"
    for name, seconds in plan.waits.items():
        yield f"waits {timedelta(seconds=round(seconds))} for the price of {name}"
    if report.labels_needed and report.labels_usd is not None and not context.scores_free:
        yield (
            f"certifying {context.job.quality.floor:g} will take about {report.labels_needed:,} scores, "
            f"{money(report.labels_usd)}, included"
        )


def _show_range(outlook: PlanOutlook, console: Console) -> None:
    """Print what all requests would cost on each endpoint, where a pilot must first measure quality."""
    cost = np.where(outlook.columns.allowed, outlook.market.by_endpoint(), np.nan)
    from rich.table import Column, Table

    table = Table("endpoint", Column("allowed for", justify="right"), Column("all of them", justify="right"))
    for e, endpoint in enumerate(outlook.context.endpoints):
        allowed = outlook.columns.allowed[:, e]
        usd = outlook.market.total_usd(np.nan_to_num(cost[:, e], posinf=np.inf))
        total = money(usd) if allowed.any() else "-"
        table.add_row(endpoint.name, f"{int(outlook.columns.weight[allowed].sum()):,}", total)
    console.print(table)
    count = outlook.context.pilots
    pilot = f"a pilot will tell: {count:,} requests, at most {money(outlook.pilot_usd)}"
    if outlook.judged_usd:
        pilot += f", {money(outlook.judged_usd)} of it for the judge"
    if not outlook.pilot_usd:  # it is the first of serving
        pilot = "the first answers will tell: every score is free, and what fails one is sent on to another"
    console.print(
        f"Which of them is good enough {pilot}.\nAn endpoint's quality_prior says what to believe before that."
    )
    if outlook.context.deadline is not None:
        console.print(f"the deadline is {_utc(outlook.context.deadline)}")


def _table(outlook: PlanOutlook, report: PlanReport) -> Table:
    from rich.table import Table

    starts = any(share.workers for share in report.endpoints.values())
    table = Table(
        "endpoint", "requests", "input tokens", "output tokens", "expected", *(["workers"] if starts else [])
    )
    for name, share in outlook.shares.items():
        table.add_row(
            name,
            f"{share.requests:,}",
            f"{share.input_tokens:,}",
            f"{share.output_tokens:,}",
            money(share.cost_usd),
            *([str(report.endpoints[name].workers or "")] if starts else []),
        )
    for column_ in table.columns[1:]:
        column_.justify = "right"
    return table


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _frontier(outlook: PlanOutlook) -> Table:
    """Return cost as a function of the floor, four points to a line of text."""
    from rich.table import Table

    table = Table(title="what a floor costs", show_header=False)
    cells = [f"{point.floor:.3f}  {money(point.cost_usd)}" for point in outlook.points]
    for start in range(0, len(cells), 4):
        table.add_row(*cells[start : start + 4])
    return table
