"""What all tests share: nothing leaves the machine or stays in the home folder; one Prefect API for all."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.patience import PATIENCE_SECONDS

os.environ.update(
    {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_OFFLINE_MODE": "true",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "900",
    }
)
_HOME = tempfile.TemporaryDirectory(prefix="thirdshift-prefect-", ignore_cleanup_errors=True)
os.environ["PREFECT_HOME"] = _HOME.name
os.environ["THIRDSHIFT_HOME"] = f"{_HOME.name}/thirdshift"

# two cores shared with whatever else runs: a slow example is no fault
settings.register_profile(
    "ours",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("ours")


@pytest.fixture(scope="session")
def prefect_of_session() -> Iterator[None]:
    """Prefect's real API on a database of its own, once per session: it takes 11 to 28 s to come up."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=int(PATIENCE_SECONDS)):
        yield


@pytest.fixture(scope="module")
def prefect_api(prefect_of_session: None) -> Iterator[None]:
    """That API, and no deployment left on it afterwards: `doctor` would find fault with one that nobody serves."""
    from prefect.client.orchestration import get_client

    yield
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)


@pytest.fixture(scope="session")
def demo_night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a demo's night, to be read only: played once, for all processes that test, with what it printed in
    `printed`."""
    from tests.support.nights import thirdshift

    among_workers = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if among_workers else base) / "demo-night"
    with open(place.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "printed").exists():
            done = thirdshift("demo", "--folder", place)
            assert done.returncode == 0, done.stderr
            (place / "printed").write_text(done.stdout, encoding="utf-8")
    return place
