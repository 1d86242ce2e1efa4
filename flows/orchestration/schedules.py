"""Whether a schedule fires: a Prefect server makes the upcoming runs of a deployment, or says nothing and makes none."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from threading import Event
from typing import TYPE_CHECKING, Any
from uuid import UUID

from thirdshift.flows.errors import UserError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import DeploymentResponse

UPCOMING_SECONDS = 120.0
"""How long a server may take to make the first run: it looks at new deployments every 5 s, at all of them every 60 s."""
LOOK_SECONDS = 1.0
FAR = timedelta(days=90)
"""A server makes no run that is further off than 100 days, unless told otherwise."""
LATE = timedelta(minutes=2)
"""A run that nobody has taken for as long has nobody to take it."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def upcoming(client: SyncPrefectClient, deployment: UUID) -> FlowRun | None:
    """The deployment's next run; None where there is none."""
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    scheduled = FlowRunFilterStateType(any_=[StateType.SCHEDULED])
    flow_runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=scheduled)),
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
        sort=FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC,
        limit=1,
    )
    return flow_runs[0] if flow_runs else None


def await_upcoming(deployment: UUID, first: datetime, over: Event) -> None:
    """Return once the deployment has an upcoming run, or when it is over. `first`: when its schedule says that it begins.

    Raises UserError, naming the cause, where the server makes none.
    """
    from prefect.client.orchestration import get_client

    if first - datetime.now(UTC) > FAR:
        return
    with get_client(sync_client=True) as client:
        last = time.monotonic() + UPCOMING_SECONDS
        while upcoming(client, deployment) is None:
            if time.monotonic() > last:
                known = client.read_deployment(deployment)
                raise UserError(
                    f"the schedule of {known.name} will never begin a night: {why_none(client, known)}"
                )
            if over.wait(LOOK_SECONDS):
                return


def why_none(client: SyncPrefectClient, deployment: DeploymentResponse) -> str:
    """Why a deployment has no upcoming run, and what to do."""
    if deployment.paused:
        return (
            "the deployment is paused, as `thirdshift serve` leaves it when it stops: "
            "serve the job anew, or switch it on in the UI"
        )
    if not any(schedule.active for schedule in deployment.schedules):
        return "its schedule is not active: switch it on in the UI, or serve the job anew"
    services = _server_settings(client).get("services") or {}
    if not (services.get("scheduler") or {}).get("enabled", True):
        return "the server's scheduler is switched off: start it without PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED=false"
    here = any(name in str(client.api_url) for name in LOOPBACK)
    version_note = f" (here: {version('sqlalchemy')})" if here else ""
    return (
        "the server's scheduler has made no run; with SQLAlchemy 2.1 it fails at every turn and tells its log alone: "
        f"where the server runs, pip install 'sqlalchemy<2.1'{version_note} and start it anew, without --no-services"
    )


def leases_outlive(client: SyncPrefectClient) -> bool | None:
    """Whether the server keeps leases of concurrency slots when it is started anew; None: it does not say."""
    kept = (_server_settings(client).get("concurrency") or {}).get("lease_storage")
    return None if kept is None else not str(kept).endswith(".memory")


def _server_settings(client: SyncPrefectClient) -> dict[str, Any]:
    """What the server says of its settings; nothing where it does not (Prefect Cloud)."""
    with suppress(Exception):
        settings: dict[str, Any] = client.request("GET", "/admin/settings").json()["server"]
        return settings
    return {}


def nights(client: SyncPrefectClient) -> list[DeploymentResponse]:
    """The deployments of nights."""
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    return client.read_deployments(flow_filter=FlowFilter(name=FlowFilterName(any_=["night"])), limit=200)


def state_of(client: SyncPrefectClient, deployment: DeploymentResponse, now: datetime) -> tuple[bool, str]:
    """Whether a scheduled deployment of nights will begin one, in words."""
    following = upcoming(client, deployment.id)
    if following is None or following.next_scheduled_start_time is None:
        return False, why_none(client, deployment)
    begins = following.next_scheduled_start_time
    if now - begins > LATE:
        return False, (
            f"its run of {begins:%Y-%m-%d %H:%M} UTC was taken by nobody: start `thirdshift serve`, or a worker of its pool"
        )
    return True, f"next night {begins:%Y-%m-%d %H:%M} UTC"
