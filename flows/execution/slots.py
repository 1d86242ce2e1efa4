"""Concurrency slots at endpoints, as a run uses them; without a Prefect server they are unlimited."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from thirdshift.flows.runs.context import RunContext


class Slots(Protocol):
    """Slots that runs of one server share."""

    def of(self, endpoint: str) -> AbstractContextManager[None]:
        """Wait for a slot at the endpoint, and hold it."""

    def stop(self) -> None:
        """Wait for no slot any more."""


class UnlimitedSlots:
    """Slots of a run that shares its endpoints with nobody."""

    def of(self, endpoint: str) -> AbstractContextManager[None]:  # noqa: ARG002 - the protocol's
        return nullcontext()

    def stop(self) -> None:
        """Do nothing: nobody waits."""


SlotsFor = Callable[[RunContext, Callable[[str], None]], Slots]
"""Makes a run's slots; the second argument is told what is waited for."""


def unlimited(context: RunContext, say: Callable[[str], None]) -> Slots:  # noqa: ARG001 - a `SlotsFor`
    """Return slots of a run that no Prefect server knows of."""
    return UnlimitedSlots()
