"""How a worker ends otherwise than by being told to."""

from __future__ import annotations

from thirdshift.engines.vllm.engine_log import EngineLog, FaultKind
from thirdshift.engines.vllm.process import ProcessEnded


class BudgetExhausted(Exception):
    """The cap leaves no more time."""


class WorkerDied(Exception):
    """A worker ended by itself, or had to be ended; the message says how and what its log says."""

    final = False
    """The next one would end in the same way."""


class NeverReady(WorkerDied):
    """A worker was not ready in the time that a start may take."""

    final = True


class NoPlace(Exception):
    """There is nowhere to run a worker, and none to be waited for; the message says why."""


class WorkerLost(ProcessEnded):
    """What a worker ran on is gone: that says nothing of the worker, which may be started elsewhere."""


def death(endpoint: str, how: str, log: EngineLog, *, was_ready: bool) -> WorkerDied:
    """Return what is raised for a worker that ended by itself; `how`: as `process.ending` says."""
    when = "at work" if was_ready else "while it started"
    died = WorkerDied(
        f"endpoint {endpoint}: its worker {how} {when}; `thirdshift doctor` checks its interpreter; {log.told()}"
    )
    fault = log.fault()
    died.final = not was_ready and fault is not None and fault.kind is FaultKind.CERTAIN
    return died
