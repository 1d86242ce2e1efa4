"""A user's server as a process: start it with `up`, ask whether it answers, end it with `down`, which a guard runs
where this process is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
from collections import deque
from contextlib import suppress
from typing import IO

from thirdshift.engines.direct import opener
from thirdshift.router.values import Endpoint, ServerSpec

ASK_SECONDS = 5.0
DOWN_SECONDS = 300.0
"""A cloud takes minutes to give a machine back; until `down` has returned it may cost money."""
LOG_LINES = 200
DRAIN_SECONDS = 5.0
"""How long the output of a command that has ended is waited for: a child that it left behind may hold the pipe open."""

GUARD = """
import json, os, signal, subprocess, sys
facts = {}
for line in sys.stdin:
    facts.update(json.loads(line))
if not facts.get("stopped"):
    if facts["down"]:
        subprocess.run(facts["down"], shell=True, cwd=facts["folder"], stdin=subprocess.DEVNULL)
    if facts.get("group"):
        try:
            os.killpg(facts["group"], signal.SIGKILL)
        except ProcessLookupError:
            pass
"""


class ServerNotUp(Exception):
    """The server did not come up; the message says why."""


class ServerProcess:
    """One start of the server, from `up` to `down`."""

    def __init__(self, endpoint: Endpoint, startup_seconds: float) -> None:
        self._name, self._spec = endpoint.name, endpoint.server or ServerSpec()
        self._health = self._spec.health or f"{endpoint.api_base or ''}/models"
        self._startup_seconds = startup_seconds
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    @property
    def pid(self) -> int:
        return 0 if self._process is None else self._process.pid

    def start(self) -> None:
        """Run `up`, after starting the guard that runs `down` should this process be killed."""
        if self._spec.up is None:
            return
        self._guard = subprocess.Popen(
            (sys.executable, "-S", "-c", GUARD),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        self._tell_guard(down=self._spec.down, folder=self._spec.folder)
        self._process = subprocess.Popen(  # noqa: S602 - a command of the job's owner
            self._spec.up,
            shell=True,
            cwd=self._spec.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._tell_guard(group=self._process.pid)
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def await_health(self, seconds: float) -> bool:
        """Ask once whether the server answers; wait the rest of `seconds` where it does not.

        Raises ServerNotUp where `up` has ended with a status other than 0.
        """
        began = time.monotonic()
        if answers(self._health, any_reply=self._spec.health is None):
            return True
        status = None if self._process is None else self._process.poll()
        if status:
            self._drain()
            raise ServerNotUp(
                f"endpoint {self._name}: its `up` ended with status {status}; mend the command, or see the last lines "
                f"of its output: {self.last_lines()}"
            )
        time.sleep(max(0.0, seconds - (time.monotonic() - began)))
        return False

    def too_late(self) -> ServerNotUp:
        """Make the error for a server that did not answer in the time it was given."""
        if self._spec.up is None:
            return ServerNotUp(
                f"endpoint {self._name}: its server does not answer at {self._health}; start it, then resume"
            )
        return ServerNotUp(
            f"endpoint {self._name}: its server did not answer at {self._health} within {self._startup_seconds:.0f} s; "
            f"see `up` and `health`; the last lines of its output: {self.last_lines()}"
        )

    def stop(self) -> str | None:
        """Run `down`, then end what `up` left in the foreground. Returns what went wrong, or None."""
        trouble = None
        if self._guard is not None and self._spec.down is not None:
            trouble = self._run_down(self._spec.down)
        if self._process is not None:
            for sig in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, sig)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(10.0 if sig is signal.SIGTERM else None)
                    break
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # children that do not heed a SIGTERM
        self._drain()
        if self._guard is not None and self._guard.stdin is not None:
            self._tell_guard(stopped=True)
            with suppress(OSError):
                self._guard.stdin.close()
            self._guard.wait()
        return trouble

    def last_lines(self, lines: int = 6) -> str:
        """The last lines that `up` printed, joined in one."""
        return " | ".join([line for line in list(self._log) if line][-lines:]) or "(nothing was printed)"

    def _drain(self) -> None:
        """Wait until all that the ended process printed has been read."""
        if self._reader is not None:
            self._reader.join(DRAIN_SECONDS)

    def _run_down(self, command: str) -> str | None:
        try:
            done = subprocess.run(  # noqa: S602 - a command of the job's owner
                command,
                shell=True,
                cwd=self._spec.folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=DOWN_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"its `down` has not returned after {DOWN_SECONDS:.0f} s"
        if done.returncode:
            printed = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-1:]
            return f"its `down` ended with status {done.returncode}: {''.join(printed)[:300]}"
        return None

    def _tell_guard(self, **facts: object) -> None:
        if self._guard is not None and self._guard.stdin is not None:
            with suppress(OSError):
                self._guard.stdin.write(json.dumps(facts) + "\n")
                self._guard.stdin.flush()

    def _read(self, output: IO[bytes]) -> None:
        for line in output:
            self._log.append(line.decode(errors="replace").strip()[:400])
        output.close()


_OPENER = opener()


def answers(url: str, *, any_reply: bool) -> bool:
    """Ask whether a server answers there with a status of 200 to 299; `any_reply`: with any status below 500."""
    try:
        with _OPENER.open(url, timeout=ASK_SECONDS):
            return True
    except urllib.error.HTTPError as error:
        return any_reply and error.code < 500
    except (OSError, ValueError):
        return False
