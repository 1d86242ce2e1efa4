"""What a run can come to, and the exit code each means. The first that applies is the code; all of them are told."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import StrEnum


class Verdict(StrEnum):
    """What applies to a run once it is over; stored in `runs.outcomes`, or DONE where nothing does."""

    BUDGET = "budget"
    APPROVAL = "approval"
    DEADLINE = "deadline"
    ERRORS = "errors"
    FLOOR_MISSED = "floor_missed"
    NOT_CERTIFIED = "not_certified"


EXIT: dict[Verdict, int] = {
    Verdict.BUDGET: 4,
    Verdict.APPROVAL: 4,
    Verdict.DEADLINE: 5,
    Verdict.ERRORS: 6,
    Verdict.FLOOR_MISSED: 3,
    Verdict.NOT_CERTIFIED: 3,
}
"""In the order in which they decide: the contract's table, read downwards."""

STATUS: dict[Verdict, str] = {
    Verdict.BUDGET: "budget",
    Verdict.APPROVAL: "budget",
    Verdict.DEADLINE: "deadline",
}
"""`runs.status` of a run that a limit stopped; any other finished run is `done`."""


def floor_words(floor: float, *, certified: bool) -> str:
    """Say whether a floor is certified; a floor of 0 is none, and whatever is answered reaches it."""
    return f"floor {floor:g} {'' if certified else 'not '}certified" if floor else "no floor was asked"


DONE = "done"
"""The one outcome of a run to which no verdict applies."""


def outcomes_of(verdicts: Iterable[Verdict]) -> list[str]:
    """Return what is told of a run that is over, in its summary and in the warehouse."""
    return [verdict.value for verdict in verdicts] or [DONE]


def verdicts_of(outcomes: Iterable[str]) -> list[Verdict]:
    """Return the verdicts that a run's outcomes name."""
    return [Verdict(name) for name in outcomes if name != DONE]


def exit_code(verdicts: Collection[Verdict]) -> int:
    """0 where nothing applies."""
    return next((code for verdict, code in EXIT.items() if verdict in verdicts), 0)


def status(verdicts: Collection[Verdict]) -> str:
    return next((name for verdict, name in STATUS.items() if verdict in verdicts), "done")
