"""Requests that begin alike, found in texts that are at hand."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from thirdshift.router.tokens.prefixes import Beginnings, Prefixes, find


def prefixes_of(batches: Sequence[pa.RecordBatch]) -> Prefixes:
    """What the rows of these batches share, in the two passes that an input takes: every beginning, then those alike."""
    rows = sum(batch.num_rows for batch in batches)
    beginnings = Beginnings(rows)
    for batch in batches:
        beginnings.add(batch.column("messages"))
    return find(lambda: batches, rows, beginnings.repeated())
