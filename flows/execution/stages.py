"""A night from its first line to its last: the stations of `thirdshift.flows.execution.run` in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from thirdshift.flows.dispatch.work import ShardWork
from thirdshift.flows.execution.run import Shift


def run_stages(
    shift: Shift, send: Callable[[Sequence[ShardWork]], None], planned: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """The night's summary. `send`: has shards answered and their parts landed; `planned`: called once there is a plan."""
    shift.prepare()
    while works := shift.pilot():
        send(works)
    shift.plan()
    planned()
    shift.approve()
    while works := shift.serve():
        send(works)
    while works := shift.score() or shift.repair():
        send(works)
    return shift.close()
