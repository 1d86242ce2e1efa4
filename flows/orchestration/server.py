"""Prefect as we use it: quiet, offline, and its temporary server never outlives us."""

from __future__ import annotations

import os
import subprocess
import sys

SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # what goes wrong is told once, by the command, not as a trace of Prefect's
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
}
"""Defaults; whatever the user has set stands."""

DRAIN_SECONDS = 3.0
"""The temporary server loses task runs when the process ends before its recorder has drained; measured: 3 s are enough
for 100 task runs."""


ENDED_SECONDS = 2.0
"""A temporary server that was interrupted is gone by then."""


def settle_environment() -> None:
    """Before prefect is imported."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def temporary() -> bool:
    """Whether Prefect's API is the temporary server that this process starts."""
    from prefect.settings import PREFECT_API_URL

    return not PREFECT_API_URL.value()


def forget_ended_server() -> None:
    """Let Prefect start another temporary server: an interrupt of the process group has ended the one that it had."""
    from prefect.server.api.server import SubprocessASGIServer

    server = SubprocessASGIServer()
    if server.server_process is not None:
        try:
            server.server_process.wait(ENDED_SECONDS)
        except subprocess.TimeoutExpired:  # the interrupt was for this process alone
            return
        server.stop()


_GUARD = """
import os, signal, sys
sys.stdin.read()
for pid in map(int, sys.argv[1:]):
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
"""


_guards: list[subprocess.Popen[bytes]] = []
"""Kept: the pipe must stay open until this process ends."""
_guarded: set[int] = set()
"""Pids of servers that have a guard."""


def guard_server() -> None:
    """End Prefect's temporary server when this process is gone, kill -9 included: a guard waits at a pipe of ours.

    Prefect starts the server as a plain child and stops it at exit, so a killed run would leave it behind.
    """
    import psutil

    servers = [
        str(child.pid)
        for child in psutil.Process().children()
        if child.pid not in _guarded and _is_server(child)
    ]
    if servers:
        _guarded.update(map(int, servers))
        _guards.append(
            subprocess.Popen(
                [sys.executable, "-S", "-c", _GUARD, *servers], stdin=subprocess.PIPE, start_new_session=True
            )
        )


def _is_server(process: object) -> bool:
    import psutil

    try:
        return "prefect.server.api.server:create_app" in process.cmdline()  # type: ignore[attr-defined]
    except psutil.Error:
        return False
