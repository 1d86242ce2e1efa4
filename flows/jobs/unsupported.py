"""What the contract names and nobody has built: refused, never ignored. Delete a line when it works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from thirdshift.flows.jobs.parsing import Document, Loc

Refused = Callable[[Any], bool]
"""Whether a value is one that does not work yet."""


def anything(value: Any) -> bool:
    return value is not None


NOT_YET: dict[str, Refused] = {
    "cache": anything,
}
"""Place in a job (`[]`: any of a list) to the values of it that are refused. A default is never refused."""


def refused(document: Document) -> Iterator[tuple[Loc, str]]:
    """Everything in the job that does not work yet."""
    for place, refuses in NOT_YET.items():
        for loc, value in found(document.data, place.replace("[]", ".[]").split(".")):
            if refuses(value):
                yield loc, f"{_shown(value)}does not work yet; leave it out"


def found(value: Any, steps: list[str], loc: Loc = ()) -> Iterator[tuple[Loc, Any]]:
    """The values at a place, with where each is; a place that is not there has none."""
    if not steps:
        yield loc, value
    elif steps[0] == "[]" and isinstance(value, list):
        for number, one in enumerate(value):
            yield from found(one, steps[1:], (*loc, number))
    elif isinstance(value, dict) and steps[0] in value:
        yield from found(value[steps[0]], steps[1:], (*loc, steps[0]))


def _shown(value: Any) -> str:
    return f"{value} " if isinstance(value, str) and len(value) < 40 else "this "
