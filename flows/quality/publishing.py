"""Publication of a run's results: `output:`, and the copy of the warehouse for dashboards."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, datetime

from thirdshift.flows.runs.context import RunContext
from thirdshift.flows.runs.summary import RunSummary
from thirdshift.flows.verdicts import Verdict, verdicts_of
from thirdshift.warehouse.errors import StoreError
from thirdshift.warehouse.exchange.publish import publish
from thirdshift.warehouse.store import runs
from thirdshift.warehouse.store.readers import copy_for_readers
from thirdshift.warehouse.store.store import Warehouse

COPY_SECONDS = 60.0
"""How long the copy for readers waits for another run that writes."""
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
    verdicts = verdicts_of(summary.outcomes)
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


def copy_warehouse(context: RunContext, say: Callable[[str], None]) -> None:
    """Swap in `warehouse_copy:`. Where that fails the run is done all the same, and it is said."""
    target = context.job.warehouse_copy_path
    if target is None or context.call.emulated:
        return
    try:
        copy_for_readers(context.warehouse, target, wait_seconds=COPY_SECONDS)
    except (StoreError, OSError) as error:
        reason = str(error) if isinstance(error, StoreError) else error.strerror
        say(f"warehouse_copy {target} could not be written ({reason}); what is there is as it was")
