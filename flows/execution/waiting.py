"""Waiting for a price window, or for an endpoint that has asked to be left alone."""

from __future__ import annotations

from datetime import UTC, datetime

from thirdshift.flows.execution.run import Run

LOOK_SECONDS = 30.0
"""How often a run that waits looks at the clock."""


def wait_until(opens_at: float, run: Run, why: str) -> None:
    """Wait, with nothing in flight. `opens_at`: POSIX time."""
    world = run.context.world
    if opens_at > world.time():
        run.dispatcher.rest()
        at = datetime.fromtimestamp(opens_at, UTC)
        run.console.say(f"waiting until {at:%H:%M} UTC, {why}; kill at will, `resume` goes on")
    while (seconds := opens_at - world.time()) > 0:
        world.sleep(min(seconds, LOOK_SECONDS))
