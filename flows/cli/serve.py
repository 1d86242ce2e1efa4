"""Serve a job as a deployment of a Prefect server: its nights run from this process, its params are a form."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from inspect import Parameter, Signature
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, ValidationError, create_model

from thirdshift.flows.console import RunConsole, money
from thirdshift.flows.errors import UserError, nearest
from thirdshift.flows.jobs.sql import typed
from thirdshift.flows.orchestration.clock_changes import EarlyNight, early_night
from thirdshift.flows.orchestration.schedules import await_upcoming
from thirdshift.flows.orchestration.server import settle_environment
from thirdshift.flows.runs.ids import FORM_PATTERN
from thirdshift.flows.runs.options import RunOptions

if TYPE_CHECKING:
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.deployments.runner import RunnerDeployment
    from prefect.runner import Runner

    from thirdshift.flows.jobs.job import Job

START_A_SERVER = (
    "start one with `prefect server start`, and say where it is: "
    "export PREFECT_API_URL=http://127.0.0.1:4200/api"
)

BANNED = re.compile(r"[/%&<>]")
"""Characters that Prefect refuses in a name."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When nights begin."""

    cron: str
    timezone: str


def serve_job(call: RunOptions, schedule: Schedule | None) -> int:
    """Serve the job until SIGTERM or SIGINT; return 0. Raises UserError before anything is served."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")  # a night's lines go to its log in the UI
    settle_environment()
    console = RunConsole()
    crons = None if schedule is None else checked(schedule)
    early = None if crons is None else early_night(crons, datetime.now(UTC))
    if schedule is not None:
        check_dates(early, call.params, schedule)
        call = replace(call, params=in_zone(call.params, schedule.timezone))
    job = checked_job(call, scheduled=schedule is not None)
    check_server()
    deployment = deployment_of(job, call, crons)
    _serve(deployment, console, crons, early)
    return 0


def checked(schedule: Schedule) -> CronSchedule:
    """Return the schedule as Prefect's. Raises UserError: no such time zone, or no cron line."""
    from prefect.client.schemas.schedules import CronSchedule

    if schedule.timezone not in (zones := available_timezones()):
        raise UserError(
            f"--timezone {schedule.timezone}: no such time zone{nearest(schedule.timezone, sorted(zones))}"
        )
    try:
        return CronSchedule(cron=schedule.cron, timezone=schedule.timezone)
    except ValidationError:
        raise UserError(
            f"--cron {schedule.cron!r} is no cron line; write minute, hour, day, month and weekday, "
            "for example --cron '0 22 * * mon-fri'"
        ) from None


def check_dates(early: EarlyNight | None, params: Mapping[str, str], schedule: Schedule) -> None:
    """Raise UserError where a night would be given the date of the day before, which that day's own night has."""
    from thirdshift.flows.orchestration.invocation import DATED

    if early is not None and early.day_before and any(DATED.search(value) for value in params.values()):
        raise UserError(
            f"--cron {schedule.cron!r}, --timezone {schedule.timezone}: {early}, whose date it is given; "
            "take an hour that every day has, such as 3"
        )


def in_zone(params: Mapping[str, str], timezone: str) -> dict[str, str]:
    """Return the params with the schedule's time zone put into `{date}` and the like."""
    from thirdshift.flows.orchestration.invocation import DATED

    return {
        name: DATED.sub(lambda match: f"{{{match[1]}:{match[2] or timezone}}}", value)
        for name, value in params.items()
    }


def checked_job(call: RunOptions, *, scheduled: bool) -> Job:
    """Load the job as a night would now. Raises UserError, JobError with every mistake in it."""
    from thirdshift.flows.jobs.parsing import read
    from thirdshift.flows.orchestration.invocation import DATED, dated
    from thirdshift.flows.runs.context import context_for, ready

    declared = read(call.job, {}).data.get("params") or {}
    now = datetime.now(UTC)
    params = {name: dated(value, now) for name, value in call.params.items()}
    if scheduled and declared and not any(DATED.search(value) for value in call.params.values()):
        name = next(iter(declared))
        raise UserError(
            f"{call.job} has params, and with the same params every night is the same run; give one the night's date: "
            f"--param {name}={{date}} (or {{yesterday}})"
        )
    if not scheduled:  # what has no default is asked for by the form
        params = {**{name: f"{now:%Y-%m-%d}" for name, value in declared.items() if value is None}, **params}
    context = context_for(replace(call, params=params), "served")
    ready(context)
    return context.job


def deployment_of(job: Job, call: RunOptions, crons: CronSchedule | None) -> RunnerDeployment:
    """Return the job's deployment, `night/<job>`."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.types.entrypoint import EntrypointType

    from thirdshift.flows.night import night

    night = night.with_options(description=_described(job))
    night.__signature__ = form(job, call)  # type: ignore[attr-defined]  # what Prefect makes the form of
    made = night.to_deployment(
        name=BANNED.sub("-", job.name),
        parameters={
            "job": str(call.job),
            "params": {name: value for name, value in values(job, call).items() if value is not None},
        }
        | ({} if call.warehouse is None else {"warehouse": str(call.warehouse)}),
        schedules=[] if crons is None else [DeploymentScheduleCreate(schedule=crons, active=True)],
        tags=tags_of(job),
        description=_described(job),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return cast("RunnerDeployment", made)  # no coroutine: nothing here is async


def form(job: Job, call: RunOptions) -> Signature:
    """Return the flow's parameters as this job has them: typed params, then run id, cap and deadline."""
    defaults = values(job, call)
    fields: dict[str, Any] = {
        name: (
            str if value is None else type(value),
            Field(... if defaults[name] is None else defaults[name], title=name),
        )
        for name, value in job.params.items()
    }
    params = create_model("Params", **fields)
    fixed = {"job": str(call.job)} | ({} if call.warehouse is None else {"warehouse": str(call.warehouse)})
    parameters: list[tuple[str, Any, Any]] = [
        *((name, _fixed(name, value), value) for name, value in fixed.items()),
        *([("params", params, Parameter.empty)] if fields else []),
        (
            "run_id",
            _described_field(
                Annotated[str, Field(pattern=FORM_PATTERN)],
                "An unfinished run goes on. Empty: named after the job and its params.",
            ),
            "",
        ),
        (
            "cap",
            _described_field(Annotated[float, Field(ge=0)] | None, "USD, instead of budget.cap_usd."),
            None,
        ),
        (
            "deadline",
            _described_field(str, 'Instead of the job\'s: "06:00 Europe/Berlin", 8h, an instant.'),
            "",
        ),
    ]
    return Signature(
        [
            Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
            for name, annotation, default in parameters
        ]
    )


def values(job: Job, call: RunOptions) -> dict[str, Any]:
    """The params' values with the types that the job file gives them; None: the form asks."""
    return {
        name: typed(call.params[name], default) if name in call.params else default
        for name, default in job.params.items()
    }


def _fixed(name: str, value: str) -> Any:
    extra: dict[str, Any] = {"readOnly": True, "enum": [value]}
    return Annotated[str, Field(title=name, json_schema_extra=extra)]


def _described_field(kind: Any, description: str) -> Any:
    field = Field(
        json_schema_extra={"description": description}
    )  # a plain one, Prefect takes from docstrings
    return Annotated[kind, field]


def tags_of(job: Job) -> list[str]:
    """Return the job's own tags and the names of its endpoints, sorted."""
    return sorted(
        {*(f"{name}:{value}" for name, value in job.tags.items()), *(e.name for e in job.endpoints)}
    )


def _described(job: Job) -> str:
    cap = "no cap" if job.budget.cap_usd is None else f"a cap of {money(job.budget.cap_usd)}"
    floor = f"floor {job.quality.floor:g} by {job.quality.scorer}" if job.quality.scorer else "no scorer"
    return f"{job.name}: {floor}, {cap}, {len(job.endpoints)} endpoints; {job.path}"


def _next(crons: CronSchedule) -> datetime:
    from prefect.server.schemas.schedules import CronSchedule as Dates

    zone = crons.timezone or "UTC"
    (first,) = asyncio.run(Dates(cron=crons.cron, timezone=zone).get_dates(1))
    return first.astimezone(ZoneInfo(zone))


def check_server() -> None:
    """Raise UserError where no Prefect server answers."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    from thirdshift.flows.orchestration.server import temporary

    if temporary():
        raise UserError(f"serve needs a Prefect server; {START_A_SERVER}")
    with get_client(sync_client=True) as client:
        failed = client.api_healthcheck()
    if failed is not None:
        raise UserError(f"no Prefect server answers at {PREFECT_API_URL.value()}; {START_A_SERVER}")


def _serve(
    deployment: RunnerDeployment, console: RunConsole, crons: CronSchedule | None, early: EarlyNight | None
) -> None:
    """Register, say so, and run its nights, one at a time, until told to stop."""
    from prefect.runner import Runner
    from prefect.utilities.urls import url_for

    runner = Runner(name="thirdshift", limit=1)
    made = cast("UUID", runner.add_deployment(deployment))
    first = None if crons is None else _next(crons)
    when = (
        "" if first is None or crons is None else f"next night {first:%a %Y-%m-%d %H:%M} {crons.timezone}; "
    )
    console.say(
        f"serving {deployment.full_name}: {url_for('deployment', obj_id=made)}\n{when}"
        "stop with ctrl-C: the schedule is paused then, a night under way cancelled, to be gone on with by resume"
    )
    if early is not None:
        console.say(f"{early}: choose another hour where its input may not be there by then")
    asyncio.run(_serve_until_signal(runner, None if first is None else partial(await_upcoming, made, first)))
    console.say("stopped serving; its schedule is paused")


async def _serve_until_signal(runner: Runner, checked: Callable[[Event], None] | None) -> None:
    """Serve until SIGTERM or ctrl-C. Prefect's own handler of SIGTERM does not stop a runner in its own loop.

    `checked`: raises UserError where the schedule does not fire; then nothing is served any more.
    """
    serving = asyncio.create_task(runner.start())
    stopping = asyncio.Event()
    await asyncio.sleep(0)  # by then it has set its own
    for signal_number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(signal_number, stopping.set)
    over = Event()
    fires = None if checked is None else asyncio.create_task(asyncio.to_thread(checked, over))
    if fires is not None:
        fires.add_done_callback(lambda check: stopping.set() if check.exception() is not None else None)
    stop_requested = asyncio.create_task(stopping.wait())
    await asyncio.wait({serving, stop_requested}, return_when=asyncio.FIRST_COMPLETED)
    over.set()
    while stopping.is_set() and not runner.started and not serving.done():  # noqa: ASYNC110 (a runner has no event for it)
        await asyncio.sleep(0.05)
    if stopping.is_set() and not serving.done():
        await runner.astop()
    stop_requested.cancel()
    await serving
    if fires is not None:
        await fires
