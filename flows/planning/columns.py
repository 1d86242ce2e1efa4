"""What decisions read of a night's input: columns by leader.

Position k is the k-th request that is answered itself, `RequestColumns.rows[k]` its row; or the k-th lot of requests alike
(`thirdshift.flows.planning.lots`), by the row of its first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from thirdshift.flows.planning.input import PreparedInput, eligible, marked_requests, parts
from thirdshift.router.lots import Sent, Tokens, requests
from thirdshift.router.prediction.observations import Population
from thirdshift.router.pricing.caches import CacheableTokens, cache_rule, cacheable
from thirdshift.router.tokens.estimate import texts_of
from thirdshift.router.tokens.prefixes import find
from thirdshift.router.values import Endpoint
from thirdshift.warehouse.intake.frozen import batches


@dataclass(frozen=True, slots=True)
class RequestColumns:
    """What decisions read of a batch, by leader."""

    rows: NDArray[np.int64]
    weight: NDArray[np.int32]
    population: Population
    max_tokens: NDArray[np.int32]
    tokens: tuple[Tokens, ...] = field(repr=False)
    """Input tokens expected, for each endpoint; of a lot their mean."""
    allowed: NDArray[np.bool_] = field(repr=False)
    """[leaders, endpoints]"""
    caches: tuple[CacheableTokens, ...] = field(repr=False)
    """What each endpoint's provider may bill as cached, and as written to its cache."""
    prefix: NDArray[np.int64] = field(repr=False)
    """Requests with one number begin alike and are sent side by side."""
    tasks: tuple[str, ...] = ()

    @property
    def sent(self) -> Sent:
        """Requests of each lot; None: every one is by itself."""
        return self.population.sent

    @property
    def requests(self) -> int:
        """How many requests are answered themselves."""
        return int(requests(len(self.rows), self.sent))

    def positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where leaders' rows stand among the leaders."""
        return np.searchsorted(self.rows, rows)


@dataclass(frozen=True, slots=True)
class SomeLeaders:
    """Some of the requests that are answered themselves, in order."""

    rows: NDArray[np.int64]
    task: NDArray[np.int32]
    allowed: NDArray[np.bool_]
    weight: NDArray[np.int32]
    max_tokens: NDArray[np.int32]
    tokens: tuple[NDArray[np.int32], ...]
    """For each endpoint; those with one tokenizer share a column."""
    caches: tuple[CacheableTokens, ...]
    """For each endpoint; those under one rule share it."""


class LeaderReading:
    """The requests of an input that are answered themselves, some at a time."""

    def __init__(
        self, batch: PreparedInput, endpoints: Sequence[Endpoint], allowed: NDArray[np.bool_]
    ) -> None:
        self._batch, self._endpoints, self._allowed = batch, endpoints, allowed
        self.prefixes = find(partial(batches, batch.folder, ["messages"]), batch.rows, batch.beginnings)
        some_marked = any(cache_rule(endpoint).marked_only for endpoint in endpoints)
        self._marked = marked_requests(batch) if some_marked else None
        self._weight = self._for_all = None
        self.leaders = batch.rows
        if batch.led_by is not None:
            self._weight = batch.weight
            self._for_all = for_all_of_them(eligible(batch, endpoints, allowed), batch.led_by)
            self.leaders = int(np.count_nonzero(self._weight))

    def __iter__(self) -> Iterator[SomeLeaders]:
        return map(self.part, parts(self._batch.rows))

    def part(self, part: slice) -> SomeLeaders:
        """Those among these rows; where each row is answered itself, the columns are the input's and no copies."""
        batch, at = self._batch, slice(None) if self._weight is None else np.flatnonzero(self._weight[part])
        may = (
            eligible(batch, self._endpoints, self._allowed, part)
            if self._for_all is None
            else self._for_all[part]
        )
        tokens = {id(column): column[part] for column in batch.input_tokens}
        first = tokens[id(batch.input_tokens[0])]
        marked = None if self._marked is None else self._marked[part]
        chosen = {name: column[at] for name, column in tokens.items()}
        rows = np.arange(part.start, part.stop)[at]
        return SomeLeaders(
            rows,
            batch.task[part][at],
            may[at],
            np.ones(len(rows), np.int32) if self._weight is None else self._weight[part][at],
            batch.max_tokens[part][at],
            tuple(chosen[id(column)] for column in batch.input_tokens),
            cacheable(self._endpoints, self.prefixes.part(part), first, marked, at),
        )


def request_columns(
    batch: PreparedInput, endpoints: Sequence[Endpoint], allowed: NDArray[np.bool_], *, texts: bool
) -> RequestColumns:
    """`texts`: read the prompts too, for predictions from what they say."""
    reading = LeaderReading(batch, endpoints, allowed)
    every = reading.part(slice(0, batch.rows))
    rows = every.rows
    text = _text_columns(batch)[rows] if texts else np.zeros((len(rows), 0), np.float32)
    return RequestColumns(
        rows=rows,
        weight=every.weight,
        population=Population(every.task, text, len(batch.intake.tasks), every.weight.astype(np.float64)),
        max_tokens=every.max_tokens,
        tokens=every.tokens,
        allowed=every.allowed,
        caches=every.caches,
        prefix=reading.prefixes.groups()[rows],
        tasks=batch.intake.tasks,
    )


def for_all_of_them(allowed: NDArray[np.bool_], leader: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[rows, endpoints] by leader: allowed for every request that its answer serves, whatever policy each is under."""
    if allowed.all():
        return allowed
    refused = [np.bincount(leader, ~column, len(leader)) > 0 for column in allowed.T]
    return ~np.stack(refused, axis=1)


def _text_columns(batch: PreparedInput) -> NDArray[np.float32]:
    from thirdshift.router.prediction import features  # a plan before a night reads no texts

    rng = np.random.default_rng(0)
    picked = np.sort(rng.choice(batch.rows, min(batch.rows, features.SAMPLE), replace=False))
    sample: list[str] = []
    seen = 0
    for part in batches(batch.folder, ["messages"]):
        first, last = np.searchsorted(picked, [seen, seen + part.num_rows])
        some = part.take(pa.array(picked[first:last] - seen))
        sample += _texts(some)
        seen += part.num_rows
    text_map = features.learn(sample, rng)
    return features.in_chunks(text_map, (_texts(part) for part in batches(batch.folder, ["messages"])))


def _texts(batch: pa.RecordBatch) -> list[str]:
    return ["\n".join(texts_of(messages)) for messages in batch.column("messages").to_pylist()]
