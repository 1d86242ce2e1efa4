"""What a run leaves in Prefect's UI: the plan and its frontier, progress and spend, the bill, the certificate, the report.

A key is the job's name and what it shows, so that Prefect keeps the nights of a job as one artifact's history. No prompts.
"""

from __future__ import annotations

import re
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from prefect import runtime
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from thirdshift.flows.console import ProgressCounts
from thirdshift.flows.orchestration.events import DEADLINE_RISK, tell
from thirdshift.flows.orchestration.server import temporary
from thirdshift.flows.runs.folder import OWNERS_ALONE, masked
from thirdshift.flows.runs.plan_file import load_plan
from thirdshift.flows.runs.summary import lines
from thirdshift.warehouse.store.store import Warehouse

if TYPE_CHECKING:
    from thirdshift.flows.dispatch.work import ShardWork
    from thirdshift.flows.execution.run import Shift
    from thirdshift.flows.runs.context import RunContext

SHOW_SECONDS = 5.0
"""How often progress is told to the API: 29 ms each, in a thread of its own."""
PICTURES = ("frontier", "spend", "timeline")
"""Figures of the report that are images in the UI too; the others are tables there."""

PLANNED = """
select endpoint, count(*) as requests, sum(input_tokens)::bigint as input_tokens,
       sum(output_tokens)::bigint as output_tokens,
       sum(predicted_usd)::double as expected_usd, avg(predicted_quality) as expected_quality
from assignments where run_id = $run_id group by endpoint order by requests desc
"""
BILL = """
select endpoint, alone_usd::double as alone_usd, spent_usd::double as spent_usd, saved_usd::double as saved_usd
from savings where run_id = $run_id order by alone_usd
"""
CERTIFICATES = """
select coalesce(task, 'all') as task, floor, mean, lower_bound, certified, confidence, scorer, basis, method,
       population, scored
from certificates where run_id = $run_id order by task nulls first
"""


def leave_plan(shift: Shift) -> None:
    """Who answers what, and what other floors would have cost."""
    _table(shift, "plan", _rows(shift, PLANNED), "Who answers what, and what it should cost.")
    kept = load_plan(shift.context.folder)
    if kept is not None and kept.points:
        rows = [{"floor": floor, "cost_usd": cost_usd} for floor, cost_usd in kept.points]
        _table(shift, "frontier", rows, f"What other floors would cost; the plan's is {kept.floor:.4f}.")


def leave_end(shift: Shift, summary: Mapping[str, Any]) -> None:
    """The bill against every single endpoint alone, the certificate, and the end in words. A run of a deployment, which
    nobody sees end, leaves the report's page and pictures too."""
    context = shift.context
    _table(shift, "bill", _rows(shift, BILL), "What the night cost, and what each endpoint alone would have.")
    _table(shift, "certificate", _rows(shift, CERTIFICATES), "What is claimed of the answers' quality.")
    told = [f"- {line}" for line in lines(summary)]
    ask = f"thirdshift report {context.run_id} --warehouse {context.warehouse} --output night.html"
    told += ["", f"The whole page: `{ask}`"]
    if runtime.deployment.id is not None:
        try:
            told += ["", f"It is also at `{_pictures(context)}`"]
        except Exception as error:  # noqa: BLE001 (the night is done; a picture must not undo it)
            shift.console.say(f"the report could not be drawn: {type(error).__name__}: {error}", "yellow")
    create_markdown_artifact(
        key=_key(context, "report"),
        markdown="\n".join(told),
        description=_of(context, f"Ended with exit {summary['exit']}."),
    )


def _pictures(context: RunContext) -> Path:
    """The report in the run's folder, and its figures as images; where the page is."""
    from thirdshift.flows.report.data import night_of
    from thirdshift.flows.report.figures import plots
    from thirdshift.flows.report.page import page_of, rendered

    night, page = night_of(context.warehouse, context.run_id), context.folder / "report.html"
    with masked(OWNERS_ALONE):
        page.write_text(rendered(page_of(night)), encoding="utf-8")
    for name, plot in plots(night).items():
        if name in PICTURES:
            create_image_artifact(
                image_url=f"data:image/png;base64,{b64encode(plot.png()).decode()}",
                key=_key(context, f"picture-{name}"),
                description=_of(context, plot.told),
            )
    return page


@contextmanager
def watching(shift: Shift, works: Sequence[ShardWork]) -> Iterator[None]:
    """Progress and spend in the UI while shards are under way; a temporary API has nobody who looks."""
    tally = shift.dispatcher.tally
    if temporary() or tally is None:
        yield
        return
    watch = _Watch(shift, works[0].purpose.value, tally)
    watch.start()
    try:
        yield
    finally:
        watch.over.set()
        watch.join()


class _Watch(threading.Thread):
    """Tells progress now and then, beside the work and never in its way."""

    def __init__(self, shift: Shift, title: str, tally: ProgressCounts) -> None:
        super().__init__(name="progress", daemon=True)
        self.shift, self.title, self.tally = shift, title, tally
        self.over = threading.Event()
        self._artifact = self._made()

    def run(self) -> None:
        while not self.over.wait(SHOW_SECONDS):
            self._show()
            self._warn()
        self._show()

    def _made(self) -> UUID:
        made = create_progress_artifact(
            progress=0.0,
            key=_key(self.shift.context, "progress"),
            description=_of(self.shift.context, self.title),
        )
        return cast("UUID", made)  # no coroutine: nothing here is async

    def _show(self) -> None:
        tally = self.tally
        told = f"{self.title}: {tally.done:,} of {tally.total:,}; {tally.line(self.shift.budget.spent_usd)}"
        update_progress_artifact(
            self._artifact,
            progress=round(100.0 * tally.done / max(tally.total, 1), 1),
            description=_of(self.shift.context, told),
        )

    def _warn(self) -> None:
        """Once a run, when what is under way seems to end after the deadline."""
        context, left = self.shift.context, self.tally.seconds_left()
        if context.deadline is None or left is None or self.shift.warned:
            return
        late = left - (context.deadline - context.clock()).total_seconds()
        if late > 0:
            self.shift.warned = True
            self.shift.console.say(f"this will end about {late / 60:,.0f} min after the deadline", "yellow")
            tell(context, DEADLINE_RISK, late_seconds=late, done=self.tally.done, total=self.tally.total)


def _table(shift: Shift, what: str, rows: list[dict[str, Any]], description: str) -> None:
    if rows:
        create_table_artifact(
            key=_key(shift.context, what), table=rows, description=_of(shift.context, description)
        )


def _of(context: RunContext, description: str) -> str:
    return f"{context.run_id}: {description}"


def _key(context: RunContext, what: str) -> str:
    """Prefect's keys are lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", f"{context.job.name}-{what}".lower()).strip("-")


def _rows(shift: Shift, sql: str) -> list[dict[str, Any]]:
    with Warehouse.open(shift.context.warehouse) as warehouse:
        rows: list[dict[str, Any]] = warehouse.query(sql, run_id=shift.context.run_id).to_pylist()
    return rows
