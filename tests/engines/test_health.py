"""When an endpoint that has answered is left alone: nobody listens, or nothing comes back any more."""

from __future__ import annotations

from typing import Any

import pytest

from thirdshift.engines.core.health import LOST_IN_A_ROW, EndpointHealth
from thirdshift.engines.core.transport import Reply, lost, not_sent
from thirdshift.router.values import FailureKind

ANSWER = Reply(text="yes")
NOBODY = not_sent(FailureKind.CONNECTION, "nobody listens")
LOST = [
    lost(kind, "lost") for kind in (FailureKind.CONNECTION, FailureKind.TIMEOUT, FailureKind.BROKEN_REPLY)
]


class Clock:
    """A world whose seconds are set."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    time = monotonic


def health_of(clock: Any, *, elsewhere: bool = True, deadline: float | None = None) -> EndpointHealth:
    health = EndpointHealth(
        "near",
        patience_seconds=300.0,
        first_wait_seconds=0.5,
        elsewhere=elsewhere,
        deadline=deadline,
        world=clock,
    )
    assert health.hear(0, ANSWER) is None
    return health


def given_up_at(health: EndpointHealth, clock: Clock, reply: Reply) -> float:
    """When an endpoint is given up that says so each second."""
    for second in range(2000):
        clock.seconds = float(second)
        if health.hear(second, reply) is not None:
            return clock.seconds
    raise AssertionError


@pytest.mark.parametrize(
    ("deadline", "elsewhere", "expected"), [(None, True, 300.0), (60.0, True, 15.0), (60.0, False, 300.0)]
)
@pytest.mark.parametrize("reply", [NOBODY, *LOST], ids=lambda reply: f"{reply.kind} {reply.unbilled}")
def test_one_that_is_away_is_waited_for_while_others_have_time_for_the_rest(
    reply: Reply, deadline: float | None, expected: float, *, elsewhere: bool
) -> None:
    """A quarter of the time: then three times as long is left. What may be billed is borne a few times at least."""
    clock = Clock()
    found = given_up_at(health_of(clock, elsewhere=elsewhere, deadline=deadline), clock, reply)
    assert found == max(expected, 0.0 if reply is NOBODY else LOST_IN_A_ROW - 1.0)


@pytest.mark.parametrize("reply", LOST, ids=lambda reply: str(reply.kind))
def test_calls_that_are_lost_one_after_the_other_are_made_ever_more_seldom(reply: Reply) -> None:
    """Each may be billed at the most that it can cost: a provider that closes every connection took a whole cap."""
    clock, pauses = Clock(), []
    health = health_of(clock)
    for second in range(100):
        clock.seconds = float(second)
        assert health.hear(second, reply) is None
        pauses.append(health.pause_seconds)
    assert not any(pauses[: LOST_IN_A_ROW - 1]), "bad luck"
    assert pauses[LOST_IN_A_ROW:] == sorted(pauses[LOST_IN_A_ROW:])
    assert pauses[-1] > 20.0
    assert health.hear(0, ANSWER) is None
    assert health.hear(0, reply) is None
    assert health.pause_seconds == 0.0
