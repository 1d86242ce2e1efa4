"""A night that Prefect started, on a schedule or from its UI: its run id, the dates in its params, whom it tells."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from prefect import runtime
from prefect.logging import get_run_logger

from thirdshift.flows.console import RunConsole
from thirdshift.flows.errors import UserError
from thirdshift.flows.runs.context import load
from thirdshift.flows.runs.ids import derive_run_id
from thirdshift.flows.runs.options import RunOptions

DATED = re.compile(r"\{(date|yesterday)(?::([A-Za-z0-9_+/-]+))?\}")
"""In a param of a served job: the night's date, or the day's before it, in UTC or in the time zone named."""
BEFORE = {"date": timedelta(0), "yesterday": timedelta(days=1)}


def with_schedule(call: RunOptions) -> RunOptions:
    """Return the options with the run id and the dates that a schedule gives.

    A flow run that is retried gets the same ones, and so resumes.
    """
    if runtime.deployment.id is None:
        return call
    begun: datetime = runtime.flow_run.scheduled_start_time or datetime.now(UTC)
    call = replace(call, params={name: dated(value, begun) for name, value in call.params.items()})
    if call.run_id is not None:
        return call
    job, _ = load(call)
    return replace(call, run_id=derive_run_id(job, now=begun, token=str(runtime.flow_run.id)[:6]))


def dated(value: str, begun: datetime) -> str:
    """`{date}`, `{date:Europe/Berlin}`, `{yesterday}` filled in; all else as it is."""
    return DATED.sub(
        lambda match: str((begun - BEFORE[match[1]]).astimezone(ZoneInfo(match[2] or "UTC")).date()), value
    )


def run_name() -> str:
    """What Prefect calls the flow run: its run id."""
    parameters: dict[str, Any] = runtime.flow_run.parameters
    try:
        return with_schedule(RunOptions.from_parameters(parameters)).run_id or "night"
    except UserError:
        return str(parameters.get("run_id") or "night")  # the run itself says what is wrong


def console() -> RunConsole:
    """Where a night speaks: the terminal, or for a run of a deployment Prefect's log."""
    return RunConsole() if runtime.deployment.id is None else _Logged()


class _Logged(RunConsole):
    def __init__(self) -> None:
        super().__init__()
        self._logger = get_run_logger()  # of the flow run; other threads speak too

    def say(self, text: str, style: str | None = None) -> None:
        self._logger.log(logging.WARNING if style else logging.INFO, "%s", text)
