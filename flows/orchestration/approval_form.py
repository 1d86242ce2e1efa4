"""Approval in Prefect's UI: a run of a deployment waits, with a form, before it spends more than it may unasked."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import runtime
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput

from thirdshift.flows.execution.approval import Ask, ask_nobody
from thirdshift.flows.runs.context import RunContext

WAIT_SECONDS = 24 * 3600.0
"""How long a run without a deadline waits for an answer."""
POLL_SECONDS = 2
"""A question to the API, of a few milliseconds."""


class Approval(RunInput):
    """The form."""

    approve: bool = False


def asker() -> Ask:
    """Return who is asked: people in the UI where the flow run is of a deployment; else nobody, the command has --yes."""
    return ask_nobody if runtime.deployment.id is None else ask_in_prefect


def ask_in_prefect(context: RunContext, why: str) -> bool:
    """Pause the flow run with a form; whether somebody approves."""
    form = Approval.with_initial_data(description=f"{why}. Approve, and it goes on; else it ends here.")
    try:
        answer = pause_flow_run(
            wait_for_input=form,
            timeout=round(patience(context.deadline, datetime.now(UTC))),
            poll_interval=POLL_SECONDS,
        )
    except FlowPauseTimeout:
        return False
    return answer.approve


def patience(deadline: datetime | None, now: datetime) -> float:
    """Return the seconds that an answer is waited for: until the deadline, and a day at most."""
    if deadline is None:
        return WAIT_SECONDS
    return min(max((deadline - now).total_seconds(), 2.0 * POLL_SECONDS), WAIT_SECONDS)
