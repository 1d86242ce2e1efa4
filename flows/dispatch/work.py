"""A shard to be sent, and where its rows are written down."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.interfaces import RequestSource
from thirdshift.router.values import Purpose


@dataclass(frozen=True, slots=True)
class ShardWork:
    """A shard to be done."""

    shard_id: str
    endpoint: str
    purpose: Purpose
    rows: NDArray[np.int64]
    begun: datetime
    left: NDArray[np.int64] | None = None
    """The rows of an adopted shard that have no answer yet. None: all."""
    subject: str | None = None
    """The endpoint whose answers a judge's shard is about."""
    requests: RequestSource | None = field(default=None, repr=False)
    """What is sent, where it is not the frozen input's requests."""
    first_attempt: int = 1
    """One more than a dead process has made at its requests, in an adopted shard."""
    barred: frozenset[int] = frozenset()
    """Rows of an adopted shard that a policy keeps from its endpoint by now."""

    @property
    def unanswered(self) -> NDArray[np.int64]:
        return self.rows if self.left is None else self.left


def rows_file(folder: Path, shard_id: str) -> Path:
    """Where a shard's rows are written down before it is sent."""
    return folder / "shards" / f"{shard_id}.npy"
