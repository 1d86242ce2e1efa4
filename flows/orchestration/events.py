"""What a night tells Prefect's event log, for automations: docs/operating.md lists the names and shows one.

An event has names and figures, never a prompt. A temporary API has nobody who listens, and gets none.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prefect.events import emit_event

from thirdshift.flows.orchestration.server import temporary
from thirdshift.flows.runs.context import RunContext
from thirdshift.flows.runs.summary import RunSummary, figures_of
from thirdshift.flows.verdicts import Verdict, verdicts_of
from thirdshift.warehouse.store.store import Warehouse

AT_THE_END: dict[Verdict, str] = {
    Verdict.BUDGET: "thirdshift.budget-stop",
    Verdict.APPROVAL: "thirdshift.not-approved",
    Verdict.DEADLINE: "thirdshift.deadline-stop",
    Verdict.ERRORS: "thirdshift.errors",
    Verdict.FLOOR_MISSED: "thirdshift.floor-missed",
    Verdict.NOT_CERTIFIED: "thirdshift.not-certified",
}
"""How a night ended, to the event of it."""
DEADLINE_RISK = "thirdshift.deadline-risk"
MODEL_DRIFT = "thirdshift.model-drift"
PRICE_DRIFT = "thirdshift.price-drift"

PRICES_MOVED = """
-- the prices that the job's last night could choose among, where tonight's differ
with before as (
    select run_id from runs where job = $job and run_id <> $run_id order by started_at desc limit 1)
select now.endpoint, p.input_usd_per_mtok::double as input, q.input_usd_per_mtok::double as input_before,
       p.output_usd_per_mtok::double as output, q.output_usd_per_mtok::double as output_before
from run_prices now join prices p using (price_id)
join run_prices then_ on then_.endpoint = now.endpoint and then_.run_id in (select run_id from before)
join prices q on q.price_id = then_.price_id
where now.run_id = $run_id and now.price_id <> then_.price_id
qualify row_number() over (partition by now.endpoint order by q.valid_from desc) = 1
order by now.endpoint
"""


def tell(context: RunContext, name: str, **figures: Any) -> None:
    """One event about a run."""
    if temporary():
        return
    emit_event(
        event=name,
        resource={
            "prefect.resource.id": f"thirdshift.run.{context.run_id}",
            "prefect.resource.name": context.run_id,
            "thirdshift.job": context.job.name,
        },
        payload={"run_id": context.run_id, "job": context.job.name, **figures},
    )


def tell_end(context: RunContext, summary: RunSummary) -> None:
    """Emit the events of a run that is over: how it ended, models that got worse, prices that moved."""
    if temporary():
        return
    figures = figures_of(summary)
    for verdict in verdicts_of(summary.outcomes):
        if name := AT_THE_END.get(verdict):
            tell(context, name, **figures)
    for drift in summary.drift:
        tell(context, MODEL_DRIFT, **asdict(drift))
    with Warehouse.open(context.warehouse) as warehouse:
        moved = warehouse.query(PRICES_MOVED, run_id=context.run_id, job=context.job.name).to_pylist()
    for price in moved:
        tell(context, PRICE_DRIFT, **price)
