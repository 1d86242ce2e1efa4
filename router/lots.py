"""Columns whose rows may be lots: requests alike that are planned together. A row's figures are those of one of its
requests, and `sent` says how many it has; None: one each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Tokens = NDArray[np.int32] | NDArray[np.float64]
"""[n] tokens of one request of each row."""
Sent = NDArray[np.float64] | None
"""[n]"""


def total(values: NDArray[np.floating] | NDArray[np.integer], sent: Sent) -> Floats:
    """The sum over all requests. `values`: [n, …] of one request of each row."""
    if sent is None:
        return np.asarray(values.sum(axis=0, dtype=np.float64))
    return np.asarray(sent @ values)


def mean(values: NDArray[np.floating] | NDArray[np.integer], sent: Sent) -> Floats:
    """The mean over all requests; NaN where there is none."""
    return total(values, sent) / requests(len(values), sent)


def requests(rows: int, sent: Sent) -> float:
    """How many requests so many rows have."""
    return float(rows) if sent is None else float(sent.sum())


def sent_of(sent: Sent, rows: slice | NDArray[np.int64]) -> Sent:
    """The requests of some of the rows."""
    return None if sent is None else sent[rows]
