"""Publication of a run's results: `output:`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, datetime

from thirdshift.flows.runs.context import RunContext
from thirdshift.flows.runs.summary import RunSummary
from thirdshift.flows.verdicts import Verdict
from thirdshift.warehouse.exchange.publish import publish
from thirdshift.warehouse.store import runs
from thirdshift.warehouse.store.store import Warehouse

PUBLISHED = "published"
"""A file of this name in the run's folder: what was to be published is."""


_STOPPED = frozenset({Verdict.BUDGET, Verdict.APPROVAL, Verdict.DEADLINE})


HELD_BACK: dict[str, frozenset[Verdict]] = {
    "always": frozenset(),
    "complete": _STOPPED,
    "certified": _STOPPED | {Verdict.FLOOR_MISSED, Verdict.NOT_CERTIFIED},
}
"""`output.when` to the verdicts that keep a run's results back."""


def may_publish(context: RunContext, verdicts: Collection[Verdict]) -> bool:
    """Whether `output.when` lets a run that ended so be published."""
    output = context.job.output
    return output is not None and not HELD_BACK[output.when] & set(verdicts)


def publish_results(context: RunContext, summary: RunSummary, say: Callable[[str], None]) -> None:
    """Publish to the job's `output:`, where there is one and its `when` allows it."""
    output = context.job.output
    verdicts = [Verdict(name) for name in summary.outcomes if name != "done"]
    if output is None or context.job.output_path is None or not may_publish(context, verdicts):
        return
    if context.call.emulated:
        say(f"a rehearsal publishes nothing: {output.path} is left as it is")
        return
    marker = context.folder / PUBLISHED
    if marker.exists():
        return
    published = publish(context.warehouse, context.run_id, context.job.output_path, context.job.base, say=say)
    with Warehouse.open(context.warehouse, say=say) as warehouse:
        run = runs.get(warehouse, context.run_id)
        if run is not None and run["published_at"] is None:  # certified by people, after the run was over
            runs.update(warehouse, context.run_id, published_at=datetime.now(UTC))
    marker.touch(mode=0o600)  # published files are for others; what is in the run's folder is not
    say(f"published {published.rows:,} rows to {published.path}")
