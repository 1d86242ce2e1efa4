"""What a run leaves in Prefect's UI: the plan and its frontier, progress and spend, the bill, the certificate, the report.

A key is the job's name and what it shows, so that Prefect keeps the nights of a job as one artifact's history. No prompts.
"""

from __future__ import annotations

import re
import threading
from base64 import b64encode
from collections.abc import Iterator, Sequence
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
from prefect.settings import PREFECT_UI_URL

from thirdshift.flows.console import ProgressCounts, money
from thirdshift.flows.orchestration.events import DEADLINE_RISK, tell
from thirdshift.flows.orchestration.server import temporary
from thirdshift.flows.runs.folder import OWNERS_ALONE, masked
from thirdshift.flows.runs.plan_file import load_plan
from thirdshift.flows.runs.summary import RunSummary, lines
from thirdshift.warehouse.store.store import Warehouse

if TYPE_CHECKING:
    from thirdshift.flows.dispatch.work import ShardWork
    from thirdshift.flows.execution.run import Run
    from thirdshift.flows.report.data import RunFacts
    from thirdshift.flows.runs.context import RunContext

SHOW_SECONDS = 5.0
"""How often progress is told to the API: 29 ms each, in a thread of its own."""
PICTURES = ("frontier", "spend", "timeline")
"""Figures of the report that are images in the UI too; the others are tables there."""

PLANNED = """
select endpoint, format('{:,}', count(*)) as requests, format('{:,}', sum(input_tokens)::bigint) as "input tokens",
       format('{:,}', sum(output_tokens)::bigint) as "output tokens",
       sum(predicted_usd)::double as "expected cost", format('{:.3f}', avg(predicted_quality)) as "expected score"
from assignments where run_id = $run_id group by endpoint order by count(*) desc
"""


def leave_plan(run: Run) -> None:
    """Leave which endpoint answers how much, and what other floors would cost."""
    planned = [row | {"expected cost": money(row["expected cost"])} for row in _rows(run, PLANNED)]
    _table(run, "plan", planned, "Who answers what, and what it should cost.")
    kept = load_plan(run.context.folder)
    if kept is not None and kept.points:
        rows = by_floor([(floor, kept.spent_usd + cost_usd) for floor, cost_usd in kept.points])
        about = (
            f"What other floors would cost, what is spent by now included; the plan's is {kept.floor:.4f}."
        )
        _table(run, "frontier", rows, about)


def by_floor(points: Sequence[tuple[float, float]]) -> list[dict[str, str]]:
    """Return what floors cost, as people read it; of those that come to the same the highest."""
    highest = {money(cost_usd): f"{floor:.3f}" for floor, cost_usd in sorted(points)}
    return [{"floor": floor, "cost": cost} for cost, floor in highest.items()]


def leave_end(run: Run, summary: RunSummary) -> None:
    """Leave the bill against every single endpoint alone, the certificate, and the end in words.

    A run of a deployment, which nobody sees end, leaves the report's page and pictures too. The log ends with a link to
    the report, so that it is one click from the flow run.
    """
    from thirdshift.flows.report import tables
    from thirdshift.flows.report.data import load_facts
    from thirdshift.flows.report.markdown import as_markdown, rows_of
    from thirdshift.flows.report.page import page_of

    context = run.context
    facts = load_facts(context.warehouse, context.run_id)
    bill = rows_of(tables.bill(facts))
    _table(run, "bill", bill, "What the night cost, and what each endpoint alone would have.")
    _table(run, "certificate", claims_of(facts), "What is claimed of the answers' quality.")
    text = [f"- {line}" for line in lines(summary)]
    ask = f"thirdshift report {context.run_id} --warehouse {context.warehouse} --output night.html"
    text += ["", f"The page with its drawings: `{ask}`"]
    if runtime.deployment.id is not None:
        try:
            text += ["", f"It is also at `{_pictures(context, facts)}`"]
        except Exception as error:  # noqa: BLE001 (the night is done; a picture must not undo it)
            run.console.say(f"the report could not be drawn: {type(error).__name__}: {error}", "yellow")
    report = create_markdown_artifact(
        key=_key(context, "report"),
        markdown="\n".join([*text, "", as_markdown(page_of(facts))]),
        description=_of(context, f"Ended with exit {summary.exit}."),
    )
    if (page := PREFECT_UI_URL.value()) and not temporary():
        run.console.say(f"the report: {page}/artifacts/artifact/{report}")


def claims_of(facts: RunFacts) -> list[dict[str, str]]:
    """Return what is claimed, a row per certificate; of one alone a row per fact, which any screen is wide enough for."""
    from thirdshift.flows.report import tables
    from thirdshift.flows.report.markdown import rows_of

    claims = rows_of(tables.certificates(facts))
    if len(claims) != 1:
        return claims
    return [{"claim": name, "value": value} for name, value in claims[0].items()]


def _pictures(context: RunContext, facts: RunFacts) -> Path:
    """The report in the run's folder, and its figures as images; where the page is."""
    from thirdshift.flows.report.figures import plots
    from thirdshift.flows.report.page import page_of, rendered

    place = context.folder / "report.html"
    with masked(OWNERS_ALONE):
        place.write_text(rendered(page_of(facts)), encoding="utf-8")
    for name, plot in plots(facts).items():
        if name in PICTURES:
            create_image_artifact(
                image_url=f"data:image/png;base64,{b64encode(plot.png()).decode()}",
                key=_key(context, f"picture-{name}"),
                description=_of(context, plot.description),
            )
    return place


class ProgressArtifacts:
    """Progress and spend of one run in the UI, and one warning when it will be late."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.warned = False

    @contextmanager
    def watching(self, shards: Sequence[ShardWork]) -> Iterator[None]:
        """Show progress while shards are under way; nobody looks at a temporary API."""
        counts = self.run.dispatcher.progress
        if temporary() or counts is None:
            yield
            return
        watch = _ProgressThread(self, shards[0].purpose.value, counts)
        watch.start()
        try:
            yield
        finally:
            watch.over.set()
            watch.join()

    def warn(self, counts: ProgressCounts) -> None:
        """Say, once a run, that what is under way seems to end after the deadline."""
        context, seconds = self.run.context, counts.seconds_left()
        if context.deadline is None or seconds is None or self.warned:
            return
        late = seconds - (context.deadline - context.clock()).total_seconds()
        if late > 0:
            self.warned = True
            self.run.console.say(f"this will end about {late / 60:,.0f} min after the deadline", "yellow")
            tell(context, DEADLINE_RISK, late_seconds=late, done=counts.done, total=counts.total)


class _ProgressThread(threading.Thread):
    """Tells progress now and then, beside the work and never in its way."""

    def __init__(self, artifacts: ProgressArtifacts, title: str, counts: ProgressCounts) -> None:
        super().__init__(name="progress", daemon=True)
        self.artifacts, self.title, self.counts = artifacts, title, counts
        self.context = artifacts.run.context
        self.over = threading.Event()
        self._artifact = self._created()

    def run(self) -> None:
        while not self.over.wait(SHOW_SECONDS):
            self._show()
            self.artifacts.warn(self.counts)
        self._show()

    def _created(self) -> UUID:
        created = create_progress_artifact(
            progress=0.0,
            key=_key(self.context, "progress"),
            description=_of(self.context, self.title),
        )
        return cast("UUID", created)  # no coroutine: nothing here is async

    def _show(self) -> None:
        counts = self.counts
        text = f"{self.title}: {counts.sent:,} of {counts.total:,}; {counts.line()}"
        update_progress_artifact(
            self._artifact,
            progress=round(100.0 * counts.done / max(counts.total, 1), 1),
            description=_of(self.context, text),
        )


def _table(run: Run, what: str, rows: list[dict[str, Any]], description: str) -> None:
    if rows:
        create_table_artifact(
            key=_key(run.context, what), table=rows, description=_of(run.context, description)
        )


def _of(context: RunContext, description: str) -> str:
    return f"{context.run_id}: {description}"


def _key(context: RunContext, what: str) -> str:
    """Prefect's keys are lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", f"{context.job.name}-{what}".lower()).strip("-")


def _rows(run: Run, sql: str) -> list[dict[str, Any]]:
    with Warehouse.open(run.context.warehouse) as warehouse:
        rows: list[dict[str, Any]] = warehouse.query(sql, run_id=run.context.run_id).to_pylist()
    return rows
