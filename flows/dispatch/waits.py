"""Endpoints that have asked to be left alone until an instant of this night: which, and until when."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Protocol, runtime_checkable

from thirdshift.router.interfaces import Engine

MOST_WAITS = 4
"""So often an endpoint that asks for a wait of hours is asked again in one run."""


@runtime_checkable
class HasWaits(Protocol):
    """An engine whose endpoint can ask to be left alone."""

    @property
    def out_until(self) -> float | None: ...


class Waits:
    """What the engines of one run have been told."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._times: Counter[str] = Counter()
        self.in_vain: set[str] = set()
        """Endpoints that want to be left alone for the rest of the night, or for nobody knows how long: what they have not
        answered has failed there."""

    def note(self, endpoint: str, engine: Engine, deadline: datetime | None) -> None:
        """Take in that a request has failed at `endpoint` for having to wait."""
        until = engine.out_until if isinstance(engine, HasWaits) else None
        if until is None or (deadline is not None and until >= deadline.timestamp()):
            self.in_vain.add(endpoint)
        elif until != self._until.get(endpoint):
            self._until[endpoint] = until
            self._times[endpoint] += 1
            if self._times[endpoint] > MOST_WAITS:
                self.in_vain.add(endpoint)

    def out_until(self, endpoint: str) -> float:
        """POSIX time from which the endpoint can be asked again; 0 where it can be asked now, or has been given up."""
        return 0.0 if endpoint in self.in_vain else self._until.get(endpoint, 0.0)
