"""Whether an endpoint is there, and whether it is worth asking: what its replies say of itself, not of single requests.

A request that fails goes elsewhere whatever this says. An endpoint is given up for what meets everybody: nobody listens,
it has never said anything but errors, its key or account is at fault, or it wants to be left alone for longer than the
night can wait.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from thirdshift.engines.core.transport import Reply, not_sent
from thirdshift.router.values import FailureKind
from thirdshift.world import World

NEVER_ANSWERED_IN_A_ROW = 3
"""So many failures of the endpoint's own (no key, no such model) in a row, and no more is sent."""

IN_DOUBT_IN_A_ROW = 8
"""So many such failures in a row where only a status tells of them, and no more is sent: the first prompts of an input
may all be such as a filter stops."""

ANSWERED_IN_A_ROW = 10
"""After it has answered, so many of different requests, and only where the words leave no doubt (see `Reply.decided`):
a prompt that a filter stops is told with the same status as a key that is not taken."""

NEVER_A_WORD = 20
"""An endpoint that has answered nothing yet and is overloaded or times out so often in a row, for so many first
waits, is given up: every request of a pilot would else try it eight times, for minutes."""

NEVER_THERE_SECONDS = 30.0
"""An endpoint that has answered nothing yet is waited for no longer than this: its address is likelier wrong than its
server on its way back."""

LONG_WAIT_SECONDS = 120.0
"""Asked to wait for longer, its requests go elsewhere, where there is an elsewhere. A limit by the minute asks for less."""

LONGEST_WAIT_SECONDS = 86_400.0
"""Waited for where there is no other endpoint and no deadline."""

LIMITED_SECONDS = 75.0
"""Nothing but 429 for longer than any minute's window: the limit is a day's, or the budget's."""

LIMITED_ALONE_SECONDS = 1800.0
"""Nothing but 429 for so long ends it where there is no other endpoint to go to."""

LIMITED_AT_LEAST = 3

LOST_IN_A_ROW = 20
"""So many calls in a row of which nothing came back that can be read, each of which may be billed, are no bad luck: the
endpoint is asked ever more seldom, as one where nobody listens."""

LEFT_TO_OTHERS = 3.0
"""Where others may answer, an endpoint that is away is waited for while so many times as long is left to the deadline."""

ENDPOINTS_OWN = frozenset({FailureKind.AUTH, FailureKind.NOT_FOUND})
LOST = frozenset({FailureKind.CONNECTION, FailureKind.TIMEOUT, FailureKind.BROKEN_REPLY})
NO_WORD = frozenset(
    {FailureKind.OVERLOADED, FailureKind.CONNECTION, FailureKind.TIMEOUT, FailureKind.RATE_LIMITED}
)


class EndpointHealth:
    """One endpoint's. `elsewhere`: another endpoint may answer what this one will not."""

    def __init__(
        self,
        name: str,
        *,
        patience_seconds: float,
        first_wait_seconds: float,
        elsewhere: bool,
        deadline: float | None,
        world: World,
    ) -> None:
        self._name, self._patience, self._first_wait = name, patience_seconds, first_wait_seconds
        self._elsewhere, self._deadline, self._world = elsewhere, deadline, world
        self.answers = 0
        """Replies with an answer so far."""
        self._at_fault: set[int] = set()
        """Rows that failed by the endpoint's own fault since it last did anything else."""
        self._errors: tuple[int, float] | None = (0, 0.0)
        """How many it gave and when the first came; None once it has said anything else."""
        self._unreachable_since: float | None = None
        self._lost = 0
        """Calls in a row of which nothing came back."""
        self._limited: tuple[int, float] = (0, 0.0)
        self.pause_seconds = 0.0
        """For how long nothing should be sent, after the reply that was heard last."""
        self.out_until: float | None = None
        """POSIX time until which it has asked to be left alone, where nobody waits for that here."""

    def hear(self, row: int, reply: Reply) -> Reply | None:
        """Take a reply in. What every request gets from now on, where the endpoint is given up."""
        self.pause_seconds = 0.0
        if reply.kind is None:
            self._answered()
            return None
        return (
            self._at_fault_for_all(row, reply)
            or self._unreachable(reply)
            or self._limited_for_long(reply)
            or self._never_a_word(reply)
        )

    def is_back(self) -> bool:
        """Whether the wait that it asked for, and was given up for, is over; it is then asked again like a new one."""
        if self.out_until is None or self._world.time() < self.out_until:
            return False
        self.out_until, self._limited = None, (0, 0.0)
        return True

    def _answered(self) -> None:
        self.answers += 1
        if self._at_fault:
            self._at_fault.clear()
        self._errors, self._unreachable_since, self._lost = None, None, 0
        if self._limited[0]:
            self._limited = (0, 0.0)

    def _at_fault_for_all(self, row: int, reply: Reply) -> Reply | None:
        if reply.kind not in ENDPOINTS_OWN:
            self._at_fault.clear()
            return None
        if self.answers and not reply.decided:
            return None
        self._at_fault.add(row)
        never = NEVER_ANSWERED_IN_A_ROW if reply.decided else IN_DOUBT_IN_A_ROW
        enough = ANSWERED_IN_A_ROW if self.answers else never
        return _for_everybody(reply, reply.message) if len(self._at_fault) >= enough else None

    def _unreachable(self, reply: Reply) -> Reply | None:
        """Nobody listens for too long, or nothing comes back any more."""
        nobody = reply.kind is FailureKind.CONNECTION and reply.unbilled
        lost = reply.kind in LOST and reply.usage is None and not reply.unbilled
        if not nobody and not lost:
            self._unreachable_since, self._lost = None, 0
            return None
        now = self._world.monotonic()
        if self._unreachable_since is None:
            self._unreachable_since = now
        self._lost += lost
        if not nobody and self._lost < LOST_IN_A_ROW:
            return None
        away = now - self._unreachable_since
        patience = self._patience if self._errors is None else min(self._patience, NEVER_THERE_SECONDS)
        if away >= self._in_time(patience):
            message = f"endpoint {self._name}: unreachable for {away:.0f} s; is it up?"
            return not_sent(FailureKind.CONNECTION, message)
        self.pause_seconds = min(30.0, away / 4.0)
        return None

    def _in_time(self, patience: float) -> float:
        """So much of it that others have time for what is left, where they may answer."""
        if self._deadline is None or not self._elsewhere:
            return patience
        return min(patience, max(0.0, self._deadline - self._world.time()) / LEFT_TO_OTHERS)

    def _limited_for_long(self, reply: Reply) -> Reply | None:
        """It asks for a wait that the night cannot make, or has asked for nothing but waits for too long."""
        if reply.kind is not FailureKind.RATE_LIMITED:
            if reply.kind not in NO_WORD:
                self._limited = (0, 0.0)
            return None
        now, wait = self._world.monotonic(), reply.retry_after or 0.0
        count, since = self._limited[0] + 1, self._limited[1] or now
        self._limited = (count, since)
        if wait > self._longest_wait():
            self.out_until = self._world.time() + wait
            return _for_everybody(
                reply,
                f"endpoint {self._name}: out until {until(wait, self._world.now())}, as it asks{self._goes_on()}",
            )
        patience = LIMITED_SECONDS if self._elsewhere else LIMITED_ALONE_SECONDS
        if count >= LIMITED_AT_LEAST and now - since >= self._in_time(min(patience, self._patience)):
            words = f"said nothing but 429 for {now - since:.0f} s and is given up for the night"
            return _for_everybody(reply, f"endpoint {self._name}: {words}{self._goes_on()}")
        return None

    def _longest_wait(self) -> float:
        """The longest wait that is worth it: the deadline and the other endpoints weighed."""
        longest = LONG_WAIT_SECONDS if self._elsewhere else LONGEST_WAIT_SECONDS
        return (
            longest if self._deadline is None else min(longest, max(0.0, self._deadline - self._world.time()))
        )

    def _goes_on(self) -> str:
        return "; what it has not answered goes to the others" if self._elsewhere else ""

    def _never_a_word(self, reply: Reply) -> Reply | None:
        """It has never said anything but that it cannot."""
        if reply.kind not in (FailureKind.OVERLOADED, FailureKind.TIMEOUT):
            self._errors = self._errors if reply.kind in NO_WORD else None
            return None
        if self._errors is None:
            return None
        count, now = self._errors[0] + 1, self._world.monotonic()
        first = self._errors[1] or now
        self._errors = count, first
        if count < NEVER_A_WORD or now - first < NEVER_A_WORD * self._first_wait:
            return None
        return _for_everybody(reply, f"{reply.message}; it has answered nothing so far and is given up")


def _for_everybody(reply: Reply, message: str) -> Reply:
    return reply._replace(
        message=message, unbilled=True, usage=None, said=None, note=None, adapted=False, parameter=None
    )


def until(seconds: float, now: datetime) -> str:
    """An instant so many seconds from `now`, for people."""
    try:
        at = now + timedelta(seconds=seconds)
    except OverflowError:
        return "the end of time"
    return f"{at:%H:%M} UTC" if seconds < 72_000 else f"{at:%Y-%m-%d %H:%M} UTC"
