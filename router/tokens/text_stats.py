"""Cheap columns about text: counts per row that tokens depend on, read off an Arrow buffer near memory speed.

Every byte has a class; eight counters are defined on pairs of neighbouring classes and packed into one
64-bit word, a byte each. Adding words adds eight counters at once; no counter overflows, because a sum
runs over 255 bytes at most.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

COUNTERS = (
    "words",
    "letters",
    "numbers",
    "digits",
    "marks",
    "mark_runs",
    "wide",
    "breaks",
)
"""words: letters after another thing, or a capital after a small letter. numbers, mark_runs: likewise, of
digits and punctuation. wide: characters of three or more UTF-8 bytes (Chinese above all). breaks: line
breaks, indents and other runs of white space beyond a single space."""

FEATURES = ("bytes", *COUNTERS)

_SMALL, _CAPITAL, _DIGIT, _SPACE, _BREAK, _ESCAPE, _MARK, _TAIL, _NARROW, _WIDE = range(10)
_SEGMENT = 255
_CHUNK_BYTES = 1 << 17
"""128 KiB of text make a megabyte of words, which stays in a core's cache: 1.6 ns a byte here, 2.5 at 1
MiB."""


def _classes() -> NDArray[np.uint8]:
    table = np.full(256, _MARK, dtype=np.uint8)
    table[ord("a") : ord("z") + 1] = _SMALL
    table[ord("A") : ord("Z") + 1] = _CAPITAL
    table[ord("0") : ord("9") + 1] = _DIGIT
    table[:32] = _BREAK
    table[ord(" ")] = _SPACE
    table[ord("\\")] = _ESCAPE
    table[0x80:0xC0] = _TAIL
    table[0xC0:0xE0] = _NARROW
    table[0xE0:] = _WIDE
    return table


def _counts(before: int, now: int) -> tuple[bool, ...]:
    """The counters of `COUNTERS` that a byte of class `now` after one of class `before` adds to."""
    letter = now in (_SMALL, _CAPITAL, _NARROW)
    after_letter = before in (_SMALL, _CAPITAL, _NARROW, _TAIL)
    word = letter and (not after_letter or (now == _CAPITAL and before == _SMALL))
    return (
        word and before != _ESCAPE,
        letter and before != _ESCAPE,
        now == _DIGIT and before != _DIGIT,
        now == _DIGIT,
        now in (_MARK, _ESCAPE),
        now == _MARK and before not in (_MARK, _ESCAPE),
        now == _WIDE,
        (now == _SMALL and before == _ESCAPE)
        or now == _BREAK
        or (now == _SPACE and before in (_SPACE, _BREAK)),
    )


def _words() -> NDArray[np.uint64]:
    table = np.zeros((16, 16), dtype=np.uint64)
    for before in range(10):
        for now in range(10):
            packed = sum(1 << (8 * bit) for bit, counts in enumerate(_counts(before, now)) if counts)
            table[before, now] = packed
    return table.reshape(-1)


_CLASS = bytes(_classes())
_WORD = _words()


def features(column: pa.Array) -> NDArray[np.float32]:
    """float32[rows, len(FEATURES)] of a string column; a null row is all zeros."""
    offsets, data = string_buffers(column)
    lengths = np.diff(offsets)
    result = np.zeros((len(lengths), len(FEATURES)), dtype=np.float32)
    result[:, 0] = lengths
    full = np.flatnonzero(lengths)
    if full.size:
        pieces = -(-lengths[full] // _SEGMENT)
        first_piece = np.cumsum(pieces) - pieces
        within = np.arange(int(pieces.sum())) - np.repeat(first_piece, pieces)
        starts = np.repeat(offsets[full], pieces) + within * _SEGMENT
        sums = _sums(data, starts, int(offsets[-1])).view(np.uint8).reshape(-1, len(COUNTERS))
        result[full, 1:] = np.add.reduceat(sums, first_piece, axis=0, dtype=np.int64)
    return result


def _sums(data: NDArray[np.uint8], starts: NDArray[np.int64], end: int) -> NDArray[np.uint64]:
    """The packed counters of each segment: from its start to the next one's, the last to `end`."""
    sums = np.empty(len(starts), dtype=np.uint64)
    words = np.empty(_CHUNK_BYTES + _SEGMENT, dtype=np.uint64)
    bounds = np.append(starts, end)
    first = 0
    while first < len(starts):
        last = int(np.searchsorted(bounds, bounds[first] + _CHUNK_BYTES, side="right")) - 1
        begin, stop = int(bounds[first]), int(bounds[last])
        packed = words[: stop - begin]
        _pack(data[begin:stop], packed)
        sums[first:last] = np.add.reduceat(packed, starts[first:last] - begin)
        first = last
    return sums


def _pack(text: NDArray[np.uint8], out: NDArray[np.uint64]) -> None:
    """The packed counters that each byte adds, into `out`; the first byte counts as after a break."""
    pairs = np.frombuffer(bytearray(text).translate(_CLASS), dtype=np.uint8)
    shifted = pairs << 4
    pairs[1:] |= shifted[:-1]
    pairs[0] |= _BREAK << 4
    np.take(_WORD, pairs, out=out, mode="clip")


def string_buffers(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Offsets (rows + 1, from the start of the data buffer) and the bytes of a string column, nulls
    emptied.
    """
    if column.null_count:
        column = column.fill_null("")
    column = column.cast(pa.large_string())
    _, starts, data = column.buffers()
    offsets = np.frombuffer(starts, dtype=np.int64)[column.offset : column.offset + len(column) + 1]
    return offsets, np.frombuffer(data, dtype=np.uint8) if data is not None else np.zeros(0, np.uint8)
