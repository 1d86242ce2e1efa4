"""Columns for the plan of many requests: those alike make lots, so that planning takes as long for ten million as for one.

Alike are requests of one task, allowed on the same endpoints, and of one size to some per cent: input, ceiling, and what a
cache may find of it. A lot's figures are the means of its requests, so that sums stay what they are. A plan gives a lot to
one option as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.planning.columns import LeaderReading, RequestColumns, SomeLeaders, request_columns
from thirdshift.flows.planning.input import PreparedInput
from thirdshift.router.lots import Tokens
from thirdshift.router.planning.aggregation import Kinds, Numbering
from thirdshift.router.prediction.observations import Population
from thirdshift.router.pricing.caches import CacheableTokens
from thirdshift.router.values import Endpoint

Floats = NDArray[np.float64]
Column = TypeVar("Column")

FEW = 20_000
"""Up to so many requests each is planned by itself."""
LOTS = 5_000
"""About so many lots there are; a plan is then as fine as a fiftieth of a per cent."""
MOST_KINDS = 20_000
STEPS = (1.02, 1.1, 1.5, 4.0)
"""Sizes within such a factor are alike: the next one where requests are of more than `MOST_KINDS`."""
CODES = 2048
"""More than there are sizes of any column by the finest step."""
ROOM = 1 << 50
"""A number of a kind that is larger has no room for one more column's code."""


def plan_columns(
    batch: PreparedInput, endpoints: Sequence[Endpoint], allowed: NDArray[np.bool_], lots: int | None = None
) -> RequestColumns:
    """What a plan reads of the requests that are answered themselves: each by itself, or about so many lots of them; 0: no
    lots, None: as many as are usual."""
    count = (LOTS if batch.rows > FEW else 0) if lots is None else lots
    if not count:
        return request_columns(batch, endpoints, allowed, texts=False)
    read = LeaderReading(batch, endpoints, allowed)
    for step in STEPS:
        made = _Lots(_Shared.of(read.part(slice(0, 0))), len(batch.intake.tasks), step, read.leaders // count)
        for some in read:
            made.add(some)
        if made.kinds <= MOST_KINDS:
            break
    return made.columns(batch)


class _Lots:
    """Requests summed by lots; lots are numbered as they come, and none has more than `most` requests."""

    def __init__(self, shared: _Shared, tasks: int, step: float, most: int) -> None:
        self._shared, self._log, self._most = shared, np.log(step), max(most, 1)
        self._tasks, self._kinds, self._lots = Kinds(tasks), Numbering(), Numbering()
        self._shortened: list[Numbering] = []
        self._in_kind = np.zeros(0, np.int64)
        self._first: list[tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.bool_]]] = []
        self._sums: list[Floats] = []
        """By lot, of each column of `_figures`."""

    @property
    def kinds(self) -> int:
        return len(self._kinds)

    def add(self, some: SomeLeaders) -> None:
        """Put each request to those that are like it."""
        kind = self._kinds.of(self._keys(some))
        self._in_kind = np.pad(self._in_kind, (0, self.kinds - len(self._in_kind)))
        place = (self._in_kind[kind] + _turns(kind)) // self._most
        self._in_kind += np.bincount(kind, minlength=self.kinds)
        known = len(self._lots)
        lot = self._lots.of(kind.astype(np.int64) * (1 << 32) + place)
        distinct, first = np.unique(lot, return_index=True)
        new = first[distinct >= known]
        self._first.append((some.rows[new], some.task[new], some.allowed[new]))
        sums = [np.bincount(lot, figure, len(self._lots)).astype(np.float64) for figure in _figures(some)]
        for column, before in zip(sums, self._sums, strict=False):
            column[:known] += before
        self._sums = sums

    def _keys(self, some: SomeLeaders) -> NDArray[np.int64]:
        """A number for each request that those alike have in common."""
        sizes: list[Tokens] = [some.max_tokens, some.tokens[0]]
        for cache in _distinct(some.caches):
            sizes += [cache.found] if cache.kept is None else [cache.found, cache.kept]
        key, shortened = self._tasks.of(some.task, some.allowed), 0
        for size in sizes:
            if key.max(initial=0) >= ROOM:
                if shortened == len(self._shortened):
                    self._shortened.append(Numbering())
                key, shortened = self._shortened[shortened].of(key).astype(np.int64), shortened + 1
            key = key * CODES + np.floor(np.log1p(size) / self._log).astype(np.int64)
        return key

    def columns(self, batch: PreparedInput) -> RequestColumns:
        """The lots in the order of their first requests."""
        rows, task, allowed = (np.concatenate(column) for column in zip(*self._first, strict=True))
        order = np.argsort(rows)
        sent, weight, max_tokens, *counted = (column[order] for column in self._sums)
        tokens, caches = self._shared.apart([column / sent for column in counted])
        no_text = np.zeros((len(rows), 0), np.float32)
        return RequestColumns(
            rows=rows[order],
            weight=np.rint(weight).astype(np.int32),
            population=Population(task[order], no_text, len(batch.intake.tasks), weight, sent),
            max_tokens=np.rint(max_tokens / sent).astype(np.int32),
            tokens=tokens,
            allowed=allowed[order],
            caches=caches,
            prefix=np.arange(len(rows)),
            tasks=batch.intake.tasks,
        )


@dataclass(frozen=True, slots=True)
class _Shared:
    """Which columns of requests are those of several endpoints."""

    tokens: tuple[int, ...]
    """[endpoints] the place of each one's column among those that differ."""
    caches: tuple[int, ...]
    kept: tuple[bool, ...]
    """Whether keeping has a price, for each of the caches that differ."""

    @classmethod
    def of(cls, some: SomeLeaders) -> _Shared:
        kept = tuple(cache.kept is not None for cache in _distinct(some.caches))
        return cls(_places(some.tokens), _places(some.caches), kept)

    def apart(self, columns: Sequence[Floats]) -> tuple[tuple[Floats, ...], tuple[CacheableTokens, ...]]:
        """The columns of tokens and of caches for each endpoint, from those that differ (`_figures`)."""
        left = iter(columns)
        tokens = [next(left) for _ in range(max(self.tokens) + 1)]
        found = [next(left) for _ in self.kept]
        caches = [
            CacheableTokens(column, next(left) if kept else None)
            for column, kept in zip(found, self.kept, strict=True)
        ]
        return tuple(tokens[at] for at in self.tokens), tuple(caches[at] for at in self.caches)


def _figures(some: SomeLeaders) -> list[Tokens]:
    """What is summed: requests, weights, ceilings, then each column of tokens that is not another endpoint's as well."""
    caches = _distinct(some.caches)
    found, kept = (
        [cache.found for cache in caches],
        [cache.kept for cache in caches if cache.kept is not None],
    )
    one = np.ones(len(some.rows), np.int32)
    return [one, some.weight, some.max_tokens, *_distinct(some.tokens), *found, *kept]


def _turns(kind: NDArray[np.int32]) -> NDArray[np.int64]:
    """Which of its kind each is, from 0."""
    order = np.argsort(kind, kind="stable")
    starts = np.flatnonzero(np.diff(kind[order], prepend=-1))
    turns = np.empty(len(kind), np.int64)
    turns[order] = np.arange(len(kind)) - np.repeat(starts, np.diff(np.append(starts, len(kind))))
    return turns


def _distinct(columns: Sequence[Column]) -> list[Column]:
    return list({id(column): column for column in columns}.values())


def _places(columns: Sequence[object]) -> tuple[int, ...]:
    known: dict[int, int] = {}
    return tuple(known.setdefault(id(column), len(known)) for column in columns)
