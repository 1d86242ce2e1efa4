"""Refuse keys of the contract that are not built yet, rather than ignore them; delete a line when it works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from thirdshift.flows.jobs.parsing import Document, Loc

Refused = Callable[[Any], bool]
"""Whether a value is one that does not work yet."""


def anything(value: Any) -> bool:
    """Refuse every value but null."""
    return value is not None


NOT_YET: dict[str, Refused] = {
    "cache": anything,
}
"""Place in a job (`[]`: any of a list) to the values of it that are refused. A default is never refused."""


def refused(document: Document) -> Iterator[tuple[Loc, str]]:
    """Yield everything in the job that does not work yet."""
    for place, refuses in NOT_YET.items():
        for loc, value in values_at(document.data, place.replace("[]", ".[]").split(".")):
            if refuses(value):
                yield loc, f"{_shown(value)}does not work yet; leave it out"


def values_at(value: Any, steps: list[str], loc: Loc = ()) -> Iterator[tuple[Loc, Any]]:
    """Yield the values at a place (`[]`: each of a list), with where each is; none where the place is not there."""
    if not steps:
        yield loc, value
    elif steps[0] == "[]" and isinstance(value, list):
        for number, item in enumerate(value):
            yield from values_at(item, steps[1:], (*loc, number))
    elif isinstance(value, dict) and steps[0] in value:
        yield from values_at(value[steps[0]], steps[1:], (*loc, steps[0]))


def _shown(value: Any) -> str:
    return f"{value} " if isinstance(value, str) and len(value) < 40 else "this "
