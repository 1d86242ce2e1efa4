"""What a run asks of an endpoint's concurrency slots; without a Prefect server they are unlimited."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


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
        """Nobody waits."""
