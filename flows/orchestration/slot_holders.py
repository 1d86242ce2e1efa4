"""Who holds a slot of Prefect's concurrency limit, by signs that outlive a server's restart.

A server that keeps its leases in memory, as it does unless told otherwise, forgets them when it is started anew, but not
how many slots are taken. A run that has a slot therefore says so in a label of its flow run, and shows that it is alive by
the progress it tells.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

HELD, FREE = "held", "free"
LEASE_STORAGE = "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect.server.concurrency.lease_storage.filesystem"
"""The server's setting by which its leases outlive it."""


def mark(flow_run: UUID | None, limit: str, *, held: bool) -> None:
    """Say in the flow run's labels whether it has a slot. What cannot be said is not: the slot counts, not the label."""
    if flow_run is None:
        return
    from prefect.client.orchestration import get_client

    with suppress(Exception), get_client(sync_client=True) as client:
        client.update_flow_run_labels(flow_run, {limit: HELD if held else FREE})


def unheld(limit: str, silence: timedelta) -> int:
    """How many of the limit's slots are taken by no run that has told anything within `silence`."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        taken = client.read_global_concurrency_limit_by_name(limit).active_slots
        if not taken:
            return 0
        alive = sum(_alive(client, run, silence) for run in _holders(client, limit))
    return max(taken - alive, 0)


def take_back(limit: str, slots: int) -> None:
    """Free slots that nobody holds."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        client.release_concurrency_slots([limit], slots, occupancy_seconds=1.0)


def _holders(client: SyncPrefectClient, limit: str) -> list[FlowRun]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType

    going_on = [StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED, StateType.PENDING]
    flow_runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=going_on)),
        ),
        limit=200,
    )
    return [run for run in flow_runs if run.labels.get(limit) == HELD]


def _alive(client: SyncPrefectClient, run: FlowRun, silence: timedelta) -> bool:
    """Whether it has told its progress lately; a night that has a slot does so every few seconds."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
    from prefect.client.schemas.sorting import ArtifactSort

    artifacts = client.read_artifacts(
        artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id])),
        sort=ArtifactSort.UPDATED_DESC,
        limit=1,
    )
    last = max(
        (at for at in (run.updated, *(artifact.updated for artifact in artifacts)) if at is not None),
        default=None,
    )
    return last is not None and datetime.now(UTC) - last < silence
