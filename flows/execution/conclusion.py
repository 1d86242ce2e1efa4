"""The last stage: results, certificate, verdicts, publication."""

from __future__ import annotations

from thirdshift.flows.dispatch.rows import worker_rows
from thirdshift.flows.errors import BrokeOff
from thirdshift.flows.execution import earlier_runs
from thirdshift.flows.execution.plan import PlannedRun
from thirdshift.flows.execution.run import Run
from thirdshift.flows.execution.serving import compose
from thirdshift.flows.planning.measured.throughput import keep_rates
from thirdshift.flows.quality import finishing
from thirdshift.flows.runs.summary import RunSummary, figures_of
from thirdshift.warehouse.journal.parts import of_shard
from thirdshift.warehouse.store import dispatch
from thirdshift.warehouse.store.ingest import ingest_parts


def finish(planned: PlannedRun) -> RunSummary:
    """Compose, certify and publish the results; return the run's summary.

    A request that was not sent has no result, every other one exactly one. Raises BrokeOff where the run was stopped by
    anything but its budget or its deadline: it can be resumed.
    """
    run = planned.run
    stopped = run.dispatcher.stopped
    run.dispatcher.close()
    with run.warehouse() as warehouse:
        _land_overhead(run)
        compose(planned)
        if unplanned := set(stopped) - finishing.STOPS.keys():
            raise BrokeOff(
                f"run {run.context.run_id} was stopped ({', '.join(sorted(unplanned))}); what was answered is kept: "
                f"thirdshift resume {run.context.run_id}"
            )
        unapproved = run.approval.denied
        left = planned.assignment.answerable(planned.prepared.columns.allowed).any()
        dispatch.name_shards(warehouse, run.context.run_id)
        summary = finishing.finish(
            warehouse,
            run.context,
            set(stopped) if unapproved or left else set(),
            out_of_reach=planned.out_of_reach,
            unapproved=unapproved,
        )
    run.publish(summary)
    run.notifier.ended(summary)
    run.telemetry.ended({"outcomes": summary.outcomes} | figures_of(summary))
    earlier_runs.forget(run.context, run.console.say)
    run.tidy()
    return summary


def _land_overhead(run: Run) -> None:
    """Take in what is journalled outside shards: workers' time, and the throughput they reached."""
    run.journal.seal("overhead")
    with run.warehouse() as warehouse:
        ingest_parts(warehouse, *of_shard(run.context.folder, "overhead"))
        if worker_lifetimes := run.dispatcher.worker_lifetimes():
            dispatch.save_workers(warehouse, worker_rows(run.context.run_id, worker_lifetimes))
        keep_rates(warehouse, run.context, run.dispatcher.engines)
