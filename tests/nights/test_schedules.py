"""A cron on a real Prefect server: its runs are made and begun; where none is, serve and doctor name the cause."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

from tests.support.nights import PROGRAM, answer, ask, environment, write_job, write_sums
from tests.support.patience import PATIENCE_SECONDS
from tests.support.servers import cheap, emulated
from thirdshift.flows.errors import UserError
from thirdshift.flows.orchestration import schedules
from thirdshift.flows.orchestration.schedules import (
    await_upcoming,
    leases_outlive,
    nights,
    state_of,
    why_none,
)


def until(is_so: Callable[[], Any], what: str) -> Any:
    """What `is_so` finds, as soon as it finds something."""
    last = time.monotonic() + PATIENCE_SECONDS
    while not (found := is_so()):
        assert time.monotonic() < last, what
        time.sleep(0.5)
    return found


@contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """`prefect server start`, as a user does; the URL of its API."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    process = subprocess.Popen(
        [PROGRAM.with_name("prefect"), "server", "start", "--port", str(port), "--no-ui"],
        env={**os.environ, "PREFECT_HOME": str(home), "PREFECT_API_URL": url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:

        def there() -> bool:
            try:
                return httpx.get(f"{url}/health").status_code == 200
            except httpx.TransportError:
                return False

        until(there, "the server did not come up")
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(PATIENCE_SECONDS)


def test_a_cron_run_is_made_and_begun_on_a_real_server_and_doctor_says_when_the_next_is(
    tmp_path: Path,
) -> None:
    items = write_sums(tmp_path / "requests.parquet", 20)
    with emulated([cheap()], items=items) as emulator, prefect_server(tmp_path / "prefect") as url:
        job = write_job(
            tmp_path,
            emulator,
            {"cheap": {"price": {"input": 0.1, "output": 0.4}}},
            name="every-minute",
            params={"ds": None},
        )
        env = {**environment(), "PREFECT_API_URL": url, "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
        serving = subprocess.Popen(
            [PROGRAM, "serve", job, "--cron", "* * * * *", "--param", "ds={date}"],
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            found: list[dict[str, Any]] = until(lambda: runs_at(url, "SCHEDULED"), "no run was made")
            assert all(run["auto_scheduled"] for run in found)
            until(lambda: runs_at(url, "COMPLETED"), "no scheduled run was begun and done")
            assert ask(tmp_path / "warehouse.duckdb", "select count(*) from results") == [(20,)]
            doctor = subprocess.run(
                [PROGRAM, "doctor", "--json"],
                env=env,
                capture_output=True,
                text=True,
                check=False,
                cwd=tmp_path,
            )
            data = {finding["what"]: finding for finding in answer(doctor)["findings"]}
            assert data["prefect API"]["state"] == "ok"
            assert data["schedule every-minute"]["told"].startswith("next night 20")
            assert "LEASE_STORAGE" in data["prefect leases"]["told"]
        finally:
            serving.send_signal(signal.SIGTERM)
            _, printed = serving.communicate(timeout=PATIENCE_SECONDS)
        assert serving.returncode == 0, printed


def runs_at(url: str, state: str) -> list[dict[str, Any]]:
    asked = {"flow_runs": {"state": {"type": {"any_": [state]}}}}
    response: list[dict[str, Any]] = httpx.post(f"{url}/flow_runs/filter", json=asked).json()
    return response


def deployed(name: str, *, active: bool, paused: bool) -> Any:
    """A deployment with a cron, as the client has it; nobody serves it."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("night")
        cron = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 22 * * *"), active=active)
        made = client.create_deployment(flow, name, schedules=[cron], paused=paused)
        return client.read_deployment(made)


def test_where_the_server_makes_no_run_serve_ends_and_names_the_cause(
    prefect_api: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A temporary server has no scheduler: a deployment there never gets a run."""
    from prefect.client.orchestration import get_client

    monkeypatch.setattr(schedules, "UPCOMING_SECONDS", 0.1)
    monkeypatch.setattr(schedules, "LOOK_SECONDS", 0.05)
    soon = datetime.now(UTC) + timedelta(hours=1)
    idle = deployed("idle", active=True, paused=False)
    with pytest.raises(UserError, match=r"(?s)idle will never begin a night: .*sqlalchemy<2.1"):
        await_upcoming(idle.id, soon, Event())
    await_upcoming(
        idle.id, datetime.now(UTC) + timedelta(days=365), Event()
    )  # further off than a server looks
    with get_client(sync_client=True) as client:
        # `prefect deployment schedule resume` switches schedules, and this one is on
        assert "serve the job anew" in why_none(client, deployed("stopped", active=True, paused=True))
        assert "not active" in why_none(client, deployed("off", active=False, paused=False))
        assert state_of(client, idle, datetime.now(UTC))[0] is False
        assert {"idle", "stopped", "off"} <= {deployment.name for deployment in nights(client)}
        assert leases_outlive(client) is False
        client.create_flow_run_from_deployment(idle.id)
        assert state_of(client, idle, datetime.now(UTC))[0] is True
        well, told = state_of(client, idle, datetime.now(UTC) + timedelta(hours=1))
        assert (well, "taken by nobody" in told) == (False, True)
