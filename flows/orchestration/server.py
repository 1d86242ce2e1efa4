"""Prefect as we use it: quiet and offline, and only where a server is named that watches."""

from __future__ import annotations

import os
from pathlib import Path

from thirdshift.flows.errors import UserError

SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # of a flow of the user's own, without a server
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # what goes wrong is told once, by the command, not as a trace of Prefect's
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
}
"""Defaults; whatever the user has set stands."""

ASK_SECONDS = 60.0
"""How long a server that is named may take to say that it is there."""
DRAIN_SECONDS = 3.0
"""The temporary server loses task runs when the process ends before its recorder has drained; measured: 3 s are enough
for 100 task runs."""


def settle_environment() -> None:
    """Before prefect is imported."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def temporary() -> bool:
    """Whether Prefect's API is a temporary server that Prefect starts, for a flow that no server is named for."""
    from prefect.settings import PREFECT_API_URL

    return not PREFECT_API_URL.value()


def server_named() -> bool:
    """Whether a Prefect server is named to watch runs: by a variable, a profile or a file that Prefect reads.

    Prefect's settings take a second to import, so they are asked only where something could name one.
    """
    if not (
        "PREFECT_API_URL" in os.environ
        or "PREFECT_PROFILE" in os.environ
        or any(map(_names_prefect, _files()))
    ):
        return False
    settle_environment()
    return not temporary()


def _files() -> tuple[Path, ...]:
    """The files in which Prefect looks for settings."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    return profiles, Path("prefect.toml"), Path("pyproject.toml"), Path(".env")


def _names_prefect(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return path.name == "prefect.toml" or "PREFECT_" in text or "[tool.prefect" in text


def answering() -> None:
    """Raises UserError where PREFECT_API_URL is one that nobody answers."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    with get_client(httpx_settings={"timeout": ASK_SECONDS}, sync_client=True) as client:
        failed = client.api_healthcheck()
    if failed is not None:
        raise UserError(
            f"no Prefect server answers at PREFECT_API_URL={PREFECT_API_URL.value()}; start it, or unset the variable "
            "(`prefect config unset PREFECT_API_URL` where a profile has it): a run then goes without one"
        )
