"""What decisions read of a night's input: columns by leader.

Position k is the k-th request that is answered itself, `RequestColumns.rows[k]` its row; or the k-th lot of requests alike
(`thirdshift.flows.planning.lots`), by the row of its first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from thirdshift.flows.planning.input import PreparedInput, eligible, marked_requests
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


def request_columns(
    batch: PreparedInput, endpoints: Sequence[Endpoint], allowed: NDArray[np.bool_], *, texts: bool
) -> RequestColumns:
    """`texts`: read the prompts too, for predictions from what they say."""
    rows = batch.leaders
    every = len(rows) == batch.rows  # then the columns are those of the batch, and no copies

    def of(column: NDArray[Any]) -> NDArray[Any]:
        return column if every else column[rows]

    text = _text_columns(batch)[rows] if texts else np.zeros((len(rows), 0), np.float32)
    prefixes = find(partial(batches, batch.folder, ["messages"]), batch.rows, batch.beginnings)
    marked = marked_requests(batch) if any(cache_rule(end).marked_only for end in endpoints) else None
    weight = of(batch.weight)
    tokens = {id(column): of(column) for column in batch.input_tokens}  # one for each tokenizer
    return RequestColumns(
        rows=rows,
        weight=weight,
        population=Population(of(batch.task), text, len(batch.intake.tasks), weight.astype(np.float64)),
        max_tokens=of(batch.max_tokens),
        tokens=tuple(tokens[id(column)] for column in batch.input_tokens),
        allowed=of(for_all_of_them(eligible(batch, endpoints, allowed), batch.leader)),
        caches=cacheable(endpoints, prefixes, batch.input_tokens[0], marked, rows),
        prefix=of(prefixes.groups()),
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
