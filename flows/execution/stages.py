"""The stages of one run, in their order. Each does what is missing, so that a resumed run goes the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from thirdshift.flows.dispatch.work import ShardWork
from thirdshift.flows.execution.conclusion import finish
from thirdshift.flows.execution.pilot import pilot
from thirdshift.flows.execution.plan import approve, plan
from thirdshift.flows.execution.preparation import prepare
from thirdshift.flows.execution.run import Run
from thirdshift.flows.execution.serving import repair, score, serve
from thirdshift.flows.runs.summary import RunSummary


def run_stages(
    run: Run, send: Callable[[Sequence[ShardWork]], None], on_plan: Callable[[], None] = lambda: None
) -> RunSummary:
    """Run every stage and return the run's summary.

    `send` has shards answered and landed (`Run.sending`, `Dispatcher.answer`, `Run.land`); `on_plan` is called once
    there is a plan.
    """
    station = run.telemetry.station
    with station("prepare"):
        prepared = prepare(run)
    with station("pilot"):
        while shards := pilot(prepared):
            send(shards)
    with station("plan"):
        planned = plan(prepared)
        on_plan()
    with station("approve"):
        approve(planned)
    with station("serve"):
        while shards := serve(planned):
            send(shards)
    with station("audit and repair"):
        while shards := score(planned) or repair(planned):
            send(shards)
    with station("finish"):
        return finish(planned)
