"""What a provider's batch tier is to us, whatever its wire: placed, looked at, cancelled, read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from thirdshift.engines.core.transport import Reply
from thirdshift.router.values import FailureKind, Request


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one batch may hold, and how many there may be at once."""

    requests: int
    bytes: int
    line_bytes: int | None = None
    batches: int | None = None


class RemoteState(StrEnum):
    RUNNING = "running"
    ENDED = "ended"
    """It has results, perhaps not for all requests."""
    UNKNOWN = "unknown"
    """It tells a status that nobody here knows: it may be running, or over."""
    FAILED = "failed"
    """It was never run, and nothing was billed."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A batch at the provider."""

    id: str
    label: str
    """Which part of which shard it is: what is looked for before anything is sent twice."""
    state: RemoteState
    created_at: datetime
    cut_short: bool = False
    """It expired or was cancelled: what has no result was not run."""
    emptied: bool = False
    """It ended before its time and kept nothing; whether anything was billed for it is not known."""
    queue_full: bool = False
    """It failed because too much is enqueued already."""
    fault: str = ""
    """Why it failed: the provider's codes, not its prose."""
    done: int = 0
    doubtful: bool = False
    """It may be ours or not; `BatchWire.claim` tells when it is over. It must not be cancelled."""
    source: str | None = None
    """The provider's name for what was uploaded, and may be used again."""
    results: tuple[str, ...] = ()
    unnamed: bool = False
    """It is over and has done requests, by its own count, and does not name the file of their answers: perhaps not yet."""
    status: str = ""
    """As the provider has it, for messages."""


class CallError(Exception):
    """A call about a batch went wrong. `passing`: trying again may help; `lost`: it may have had its effect."""

    def __init__(
        self, kind: FailureKind, message: str, *, passing: bool, lost: bool = False, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.passing = passing
        self.lost = lost

    def add(self, words: str) -> None:
        """Say more of it."""
        self.args = (f"{self}{words}",)


class BatchWire(Protocol):
    """One endpoint's batch tier. Used from the event loop but for `line` and `read`. Calls raise CallError."""

    limits: BatchLimits

    def line(self, custom_id: str, request: Request) -> bytes:
        """A request as it is written to the file, with the line's end."""

    async def upload(self, path: Path, label: str) -> str:
        """Send a file of lines, streamed; its name at the provider. Nothing runs yet. The file stays until its batch
        is made."""

    async def create(self, source: str, label: str) -> Remote:
        """Start a batch. Sent once: whoever calls it again looks for the label first."""

    def find(self, prefix: str) -> AsyncIterator[Remote]:
        """The batches whose label begins so."""

    async def look(self, remote: Remote) -> Remote:
        """Ask the provider how a batch stands now."""

    async def claim(self, remote: Remote) -> bool:
        """Whether a doubtful batch that is over is the one that was looked for."""

    async def cancel(self, batch_id: str) -> None:
        """Ask for its end. Raises UnknownBatchError where the provider has no such thing."""

    async def fetch(self, name: str, path: Path) -> None:
        """Write a file of the provider's to `path`, streamed."""

    def custom_id(self, line: bytes) -> str | None:
        """Return the id of a line that was uploaded, or of a result; None where it cannot be read."""

    def read(self, line: bytes) -> Reply:
        """What a result line says. Never raises, whatever stands in it."""

    def adapt(self, parameter: str, request: Request) -> bool:
        """Leave out from now on what was refused in a line of this request; whether it would now be another line."""

    async def delete(self, name: str) -> None:
        """Remove a file at the provider."""

    async def close(self) -> None: ...
