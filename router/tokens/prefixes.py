"""Shared prefixes: which requests begin alike, how far, and in which order a cache serves them best.

Hashes of the first 256, 512, … bytes of `messages` are kept per row; the longest that another row has too
is the row's shared prefix. That is a lower bound of what is shared, in steps of about a third. What a
provider then bills as cached is its own affair (a least length, whole blocks, how long it keeps them), so
`cached_tokens` is told these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from thirdshift.router.tokens.text_stats import string_buffers

NO_BEGINNINGS = np.zeros(0, np.uint64)
"""No two rows begin alike."""

LENGTHS = (256, 384, 512, 768, *range(1024, 4096, 512), 4096, 6144, 8192, 12288, 16384, 24576, 32768)
"""Bytes at which beginnings are compared, multiples of eight: 512 bytes are about the 128 tokens of a
cache block."""

_SEED = 20261122
"""Seed of the hash's multipliers. Any will do; a fixed one gives the same order every time."""

_NONE = np.uint64(0)


@dataclass(frozen=True, slots=True)
class Prefixes:
    """What rows share with others before them in `order`."""

    shared_bytes: NDArray[np.int32]
    """int32[rows]: at least so many bytes of messages are the same as another row's; 0: none known."""
    total_bytes: NDArray[np.int32]
    """int32[rows]: how long messages are that share any; 0 for the others."""
    sharers: NDArray[np.int32]
    """int32[rows]: rows that share them, this one included; 1 where none do."""
    order: NDArray[np.int64] | None = field(repr=False)
    """A permutation of the rows that puts those with long common beginnings side by side; None: as they come."""

    def part(self, rows: slice) -> Prefixes:
        """What some rows share, with whomever."""
        return Prefixes(self.shared_bytes[rows], self.total_bytes[rows], self.sharers[rows], None)

    def groups(self) -> NDArray[np.int64]:
        """int64[rows] a number per stretch of `order` that shares its beginning; rows that share nothing have one each."""
        if self.order is None:
            return np.arange(1, len(self.shared_bytes) + 1)
        alike = np.stack([self.shared_bytes, self.sharers], axis=1)[self.order]
        starts = np.ones(len(alike), bool)
        starts[1:] = (alike[1:] != alike[:-1]).any(axis=1) | (alike[1:, 0] == 0)
        groups = np.empty(len(alike), np.int64)
        groups[self.order] = np.cumsum(starts)
        return groups


class Beginnings:
    """The shortest beginning of every row as its texts are read: 8 bytes a row, until all are known."""

    def __init__(self, rows: int) -> None:
        self._hashes, self._count = np.zeros(rows, np.uint64), 0

    def add(self, messages: pa.Array) -> None:
        """Take in the next rows."""
        found, _ = _hashes(messages, 1)
        if found.shape[1]:
            self._hashes[self._count : self._count + len(messages)] = found[:, 0]
        self._count += len(messages)

    def repeated(self) -> NDArray[np.uint64]:
        """Hashes of beginnings that more than one row has, ascending. Afterwards nothing is held."""
        self._hashes.sort()
        found = _repeated(self._hashes)
        self._hashes = np.zeros(0, np.uint64)
        return found


def find(read: Callable[[], Iterable[pa.RecordBatch]], rows: int, repeated: NDArray[np.uint64]) -> Prefixes:
    """Compare the `messages` of all rows, which `read` gives, where they begin as several do
    (`Beginnings.repeated`). Nothing is read where none do.

    Of a row that begins like another 8 bytes are held for each length: 120 MB for a million longer than 32 KiB.
    """
    if not repeated.size:
        return Prefixes(_same(0, rows), _same(0, rows), _same(1, rows), None)
    total_bytes, shared_bytes, sharers = (np.full(rows, value, np.int32) for value in (0, 0, 1))
    alike, lengths, hashes = _those_alike(read(), repeated)
    order, shared_bytes[alike], sharers[alike] = _compared(hashes)
    total_bytes[alike] = lengths
    others = np.ones(rows, bool)
    others[alike] = False
    return Prefixes(
        shared_bytes, total_bytes, sharers, np.concatenate([np.flatnonzero(others), alike[order]])
    )


def _same(value: int, rows: int) -> NDArray[np.int32]:
    """One value for all rows, which takes no room and is not to be written to."""
    return np.broadcast_to(np.int32(value), rows)


def repeated(ordered: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """What an ascending array has more than once, each once. (`np.unique` imports numpy.ma: 1 % of a small plan.)"""
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    first = np.ones(len(again), np.bool_)
    first[1:] = again[1:] != again[:-1]
    each: NDArray[np.uint64] = again[first]
    return each


def _repeated(ordered: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return repeated(ordered[np.searchsorted(ordered, _NONE, "right") :])


def _those_alike(
    batches: Iterable[pa.RecordBatch], repeated: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
    """Rows whose shortest beginning is among those that are repeated, how long they are, and uint64[rows, levels] the
    hashes of all their beginnings."""
    rows: list[NDArray[np.int64]] = []
    lengths: list[NDArray[np.int64]] = []
    parts: list[NDArray[np.uint64]] = []
    first = 0
    for batch in batches:
        hashes, sizes = _hashes(batch.column("messages"), len(LENGTHS))
        if hashes.shape[1]:
            at = np.minimum(np.searchsorted(repeated, hashes[:, 0]), len(repeated) - 1)
            alike = np.flatnonzero(repeated[at] == hashes[:, 0])
            rows.append(first + alike)
            lengths.append(sizes[alike])
            parts.append(hashes[alike])
        first += batch.num_rows
    levels = max(part.shape[1] for part in parts)
    padded = [np.pad(part, ((0, 0), (0, levels - part.shape[1]))) for part in parts]
    return np.concatenate(rows), np.concatenate(lengths), np.concatenate(padded)


def _compared(
    hashes: NDArray[np.uint64],
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """An order that puts rows alike side by side, how many bytes each row shares, and how many rows share them."""
    shared, sharers = np.zeros(len(hashes), np.int32), np.ones(len(hashes), np.int32)
    for level in range(hashes.shape[1]):
        if not _repeated(
            np.sort(hashes[:, level])
        ).size:  # seen in a tenth of the time that it takes to tell which
            hashes = hashes[:, :level]
            break
        values, which, counts = np.unique(hashes[:, level], return_inverse=True, return_counts=True)
        common = (counts[which] > 1) & (values[which] != _NONE)
        shared[common] = LENGTHS[level]
        sharers[common] = counts[which][common]
        hashes[~common, level:] = _NONE
    order = np.lexsort(tuple(hashes[:, level] for level in reversed(range(hashes.shape[1]))))
    return order.astype(np.int64), shared, sharers


def cached_tokens(
    prefixes: Prefixes,
    input_tokens: NDArray[np.int32],
    *,
    least: int = 1024,
    step: int = 128,
    hit_rate: float = 1.0,
) -> NDArray[np.int32]:
    """int32[rows]: input tokens to expect at the cached price, if rows go in `order`.

    `least` and `step` are the provider's (OpenAI's by default: from 1,024 tokens on, in whole 128s).
    `hit_rate` is how often its cache is believed to hit; the first row of each group never does, and pays
    its part here.
    """
    tokens = _shared_tokens(prefixes, input_tokens, step)
    tokens[tokens < least] = 0
    again = (prefixes.sharers - 1) / np.maximum(prefixes.sharers, 1)
    return np.asarray(np.minimum(tokens, input_tokens) * again * hit_rate, dtype=np.int32)


def kept_tokens(
    input_tokens: NDArray[np.int32], *, least: int, step: int, of: Prefixes | None = None
) -> NDArray[np.int32]:
    """int32[rows]: input tokens that a provider keeps for later prompts: whole prompts in its steps from its least length
    on; with `of` only what each shares with others, where it shares something."""
    tokens = np.floor(input_tokens / step) * step
    if of is not None:
        tokens = np.where(of.shared_bytes > 0, _shared_tokens(of, input_tokens, step), tokens)
    tokens[tokens < least] = 0
    return np.asarray(np.minimum(tokens, input_tokens), dtype=np.int32)


def _shared_tokens(prefixes: Prefixes, input_tokens: NDArray[np.int32], step: int) -> NDArray[np.float64]:
    per_byte = input_tokens / np.maximum(prefixes.total_bytes, 1)
    return np.asarray(np.floor(prefixes.shared_bytes * per_byte / step) * step)


def _hashes(column: pa.Array, most: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """uint64[rows, levels] hashes of at most so many beginnings, 0 where a row is shorter; and the rows' lengths."""
    offsets, data = string_buffers(column)
    lengths = np.diff(offsets)
    longest = int(lengths.max()) if len(lengths) else 0
    levels = min(int(np.searchsorted(LENGTHS, longest, side="right")), most)
    hashes = np.zeros((len(lengths), levels), dtype=np.uint64)
    factors = np.random.default_rng(_SEED).integers(1, 2**63, LENGTHS[-1] // 8, dtype=np.uint64) | np.uint64(
        1
    )
    begin = 0
    for level in range(levels):
        end = LENGTHS[level]
        rows = np.flatnonzero(lengths >= end)
        pieces = np.lib.stride_tricks.sliding_window_view(data, end - begin)[offsets[rows] + begin]
        words = np.ascontiguousarray(pieces).view(np.uint64)
        words ^= words >> np.uint64(29)
        mixed = (words * factors[begin // 8 : end // 8]).sum(axis=1, dtype=np.uint64)
        before = hashes[rows, level - 1] if level else np.zeros(len(rows), np.uint64)
        hashes[rows, level] = (before + (mixed ^ (mixed >> np.uint64(32)))) | np.uint64(1)
        begin = end
    return hashes, lengths
