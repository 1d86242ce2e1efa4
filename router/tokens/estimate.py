"""Input tokens per request: counted where there are few, else estimated from cheap columns calibrated on a
sample.

One pass over batches of `messages` (JSON text, as frozen) and `tools`. What is counted is the texts, not
their JSON; what a chat template adds comes on top. Tokenizers are handed in; see `thirdshift.engines.tokenizers`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from thirdshift.router.tokens.text_stats import FEATURES, features
from thirdshift.router.values import JSON

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]

EXACT_BELOW = 20_000
"""Inputs of fewer rows are counted: at 300 tokens a row that is 7 s on one core, less than a pilot takes."""

EXACT_BYTES = 40_000_000
"""Unless they are longer than this: some 10 million tokens, 10 s on one core."""

SAMPLE = 6_000
"""Rows counted to calibrate on: at 20 % error per request the total is still within 0.5 %, by the square
root."""

SAMPLE_BYTES = 12_000_000
"""Long documents are counted in part: some 3 million tokens, 3 s on one core."""

SAMPLE_LEAST = 100
"""But so many in any case."""


class Tokenizer(Protocol):
    @property
    def name(self) -> str: ...

    def count(self, texts: Sequence[str]) -> Ints:
        """Tokens of each text."""


class Blocks(Protocol):
    """Where columns of all requests are put as they are read, and read from again: a list, or what is like one on disk."""

    def append(self, block: NDArray[np.float32], /) -> None: ...

    def __iter__(self) -> Iterator[NDArray[np.float32]]: ...


@dataclass(frozen=True, slots=True)
class Template:
    """Tokens that a chat template adds."""

    per_message: int = 4
    """Role and marks: OpenAI's count, and that of ChatML but for the line break."""
    per_request: int = 3
    """The opening of the answer."""


@dataclass(frozen=True, slots=True)
class TokenColumn:
    """Input tokens per request, by one tokenizer."""

    tokens: Ints
    """int32[rows], template included."""
    tokenizer: str
    method: str
    """exact or calibrated."""
    counted: int
    """Requests counted exactly."""
    total_error: float = 0.0
    """The total is within this share of what counting would give, 95 times in 100."""
    median_error: float = 0.0
    """Half of the requests are within this share."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Tokens that a model's provider counted, relative to ours."""

    ratio: float = 1.0
    error: float = 0.0
    """Standard error of `ratio`."""
    requests: int = 0


def count_exactly(
    batches: Iterable[pa.RecordBatch], tokenizer: Tokenizer, template: Template | None = None
) -> TokenColumn:
    """Every request counted."""
    parts = [_counted(batch, tokenizer, template or Template()) for batch in batches]
    tokens = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    return TokenColumn(tokens, tokenizer.name, "exact", len(tokens))


def estimate(
    batches: Iterable[pa.RecordBatch],
    tokenizers: Sequence[Tokenizer],
    rows: int,
    rng: np.random.Generator,
    *,
    template: Template | None = None,
    exact_below: int = EXACT_BELOW,
    sample: int = SAMPLE,
    blocks: Blocks | None = None,
) -> dict[str, TokenColumn]:
    """Input tokens of all requests, by each tokenizer: name to column.

    `batches` hold `messages` (a JSON list) and may hold `tools`, in the order of `row`; they are read
    once. `rows` is how many there are in all, and decides between counting and estimating. `blocks`: where the cheap
    columns go, 40 bytes a row; memory where none is given.
    """
    used = template or Template()
    small = rows < exact_below
    drawn = _Sample(1.0 if small else min(sample / rows, 1.0), EXACT_BYTES if small else SAMPLE_BYTES)
    blocks = [] if blocks is None else blocks
    _read(batches, drawn, rng, blocks)
    if len(drawn.rows) == rows:
        return {t.name: _all_counted(drawn, t, used) for t in tokenizers}
    return {t.name: _calibrated(blocks, rows, drawn, t, used) for t in tokenizers}


def learn_ratio(
    estimated: Floats | NDArray[np.integer],
    actual: Floats | NDArray[np.integer],
    prior_requests: float = 2.0,
) -> Ratio:
    """What to multiply estimates by for a model, from requests whose usage came back.

    The ratio of sums, drawn towards 1 as if `prior_requests` average requests had matched exactly:
    vocabularies differ far more between models than requests of one job within a model.
    """
    n = len(estimated)
    if n == 0:
        return Ratio()
    guess, truth = np.asarray(estimated, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    mean = float(guess.mean()) or 1.0
    extra = prior_requests * mean
    ratio = float((truth.sum() + extra) / (guess.sum() + extra))
    spread = float(np.sqrt(np.mean((truth - ratio * guess) ** 2)))
    return Ratio(ratio, spread / mean * float(np.sqrt(n)) / (n + prior_requests), n)


# --- texts of a request -----------------------------------------------------------------------------------


def texts_of(messages: str, tools: str | None = None) -> list[str]:
    """The texts of a request, one or more per message: contents, text parts, tool calls; tools as their
    JSON.
    """
    texts: list[str] = []
    for message in json.loads(messages):
        texts.append("\n".join(_texts(message.get("content"))))
        texts += [_compact(call) for call in message.get("tool_calls") or ()]
    if tools:
        texts.append(tools)
    return texts


def _texts(content: JSON) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping):
        yield from _texts(content.get("text"))
    elif isinstance(content, Sequence):
        for part in content:
            yield from _texts(part)


def _compact(value: JSON) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _counted(batch: pa.RecordBatch, tokenizer: Tokenizer, template: Template) -> Ints:
    rows = [texts_of(m, t) for m, t in zip(batch.column("messages").to_pylist(), _tools(batch), strict=True)]
    bare = _count_rows(rows, tokenizer)
    return (bare + _overhead(batch.column("messages"), template)).astype(np.int32)


def _count_rows(rows: Sequence[Sequence[str]], tokenizer: Tokenizer) -> NDArray[np.int64]:
    counts = np.append(tokenizer.count([text for texts in rows for text in texts]), 0)
    ends = np.cumsum([len(texts) for texts in rows])
    sums = np.concatenate([[0], np.cumsum(counts)])
    starts = ends - [len(texts) for texts in rows]
    totals: NDArray[np.int64] = sums[ends] - sums[starts]
    return totals


def _tools(batch: pa.RecordBatch) -> list[str | None]:
    if "tools" not in batch.schema.names:
        return [None] * batch.num_rows
    tools: list[str | None] = batch.column("tools").to_pylist()
    return tools


def _overhead(messages: pa.Array, template: Template) -> NDArray[np.int32]:
    """What the template adds. A message is a `"role"` key; within texts its quotes are escaped, so none is
    there.
    """
    counted = pc.count_substring_regex(messages, '"role"').fill_null(
        0
    )  # in a third of `count_substring`'s time
    roles: NDArray[np.int64] = counted.to_numpy(zero_copy_only=False).astype(np.int64)
    return (roles * template.per_message + template.per_request).astype(np.int32)


# --- calibration --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sample:
    """A uniform sample of rows that fits a number of bytes: those whose random key is below a falling
    limit."""

    limit: float
    most_bytes: int
    keys: list[float] = field(default_factory=list)
    rows: list[NDArray[np.float32]] = field(default_factory=list)
    """The cheap columns of each."""
    texts: list[list[str]] = field(default_factory=list)
    size: int = 0

    @property
    def columns(self) -> NDArray[np.float32]:
        """[sampled, columns]"""
        return np.array(self.rows, np.float32).reshape(-1, len(FEATURES) + 1)

    def add(self, key: float, row: NDArray[np.float32], texts: list[str]) -> None:
        self.keys.append(key)
        self.rows.append(row)
        self.texts.append(texts)
        self.size += sum(map(len, texts))
        if self.size > self.most_bytes and len(self.rows) > 2 * SAMPLE_LEAST:
            self.thin()

    def thin(self) -> None:
        """Halve the limit's bytes: drop the rows with the highest keys, and let no such key in any more."""
        self.most_bytes = min(self.most_bytes, SAMPLE_BYTES)
        order = np.argsort(self.keys)
        sizes = np.cumsum([sum(map(len, self.texts[i])) for i in order])
        kept = max(int(np.searchsorted(sizes, self.most_bytes / 2)), SAMPLE_LEAST)
        self.limit = self.keys[order[kept]]
        chosen = np.sort(order[:kept])
        self.keys = [self.keys[i] for i in chosen]
        self.rows = [self.rows[i] for i in chosen]
        self.texts = [self.texts[i] for i in chosen]
        self.size = int(sizes[kept - 1])


def _read(
    batches: Iterable[pa.RecordBatch], drawn: _Sample, rng: np.random.Generator, blocks: Blocks
) -> None:
    """One pass: cheap columns of all rows into `blocks`, the last of them the number of messages; a sample into `drawn`."""
    for batch in batches:
        columns = _cheap(batch)
        blocks.append(columns)
        keys = rng.random(batch.num_rows)
        at = np.flatnonzero(keys < drawn.limit)
        some = batch if len(at) == batch.num_rows else batch.take(pa.array(at))
        for i, messages, tools in zip(at, some.column("messages"), _tools(some), strict=True):
            if keys[i] < drawn.limit:
                drawn.add(float(keys[i]), columns[i].copy(), texts_of(messages.as_py(), tools))


def _all_counted(drawn: _Sample, tokenizer: Tokenizer, template: Template) -> TokenColumn:
    bare = _count_rows(drawn.texts, tokenizer)
    tokens = bare + drawn.columns[:, -1] * template.per_message + template.per_request
    return TokenColumn(tokens.astype(np.int32), tokenizer.name, "exact", len(bare))


def _cheap(batch: pa.RecordBatch) -> NDArray[np.float32]:
    messages = batch.column("messages")
    stats = features(messages)
    if "tools" in batch.schema.names and batch.column("tools").null_count < batch.num_rows:
        stats = stats + features(batch.column("tools"))
    roles = _overhead(messages, Template(1, 0))
    return np.column_stack([stats, roles.astype(np.float32)])


def _calibrated(
    blocks: Blocks, rows: int, drawn: _Sample, tokenizer: Tokenizer, template: Template
) -> TokenColumn:
    shuffled = np.argsort(drawn.keys)
    truth = _count_rows(drawn.texts, tokenizer).astype(np.float64)[shuffled]
    known = drawn.columns[shuffled]
    weights = _fit(known, truth)
    held_out = _cross_predict(known, truth)
    share = np.abs(held_out - truth) / np.maximum(truth, 1)
    level = float(truth.sum() / max(_apply(known, weights).sum(), 1.0))
    tokens, begin = np.zeros(rows, np.int32), 0
    for some in blocks:
        bare = np.rint(_apply(some, weights) * level)
        tokens[begin : begin + len(some)] = bare + some[:, -1] * template.per_message + template.per_request
        begin += len(some)
    spread = float(np.std(held_out - truth) / np.sqrt(len(truth)))
    error = 1.96 * spread / max(float(truth.mean()), 1.0)
    return TokenColumn(tokens, tokenizer.name, "calibrated", len(truth), error, float(np.median(share)))


def _design(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.column_stack([columns, np.ones(len(columns), np.float32)])


def _fit(columns: NDArray[np.float32], truth: Floats) -> Floats:
    """Least squares on relative errors (rows divided by their tokens), slightly ridged."""
    scale = 1.0 / np.maximum(truth, 8.0)
    design = _design(columns).astype(np.float64) * scale[:, None]
    norms = np.sqrt((design**2).mean(axis=0)) + 1e-12
    design /= norms
    target = truth * scale
    gram = design.T @ design + 1e-4 * len(truth) * np.eye(design.shape[1])
    solution: Floats = np.linalg.solve(gram, design.T @ target) / norms
    return solution


def _apply(columns: NDArray[np.float32], weights: Floats) -> Floats:
    predicted: Floats = (_design(columns) @ weights.astype(np.float32)).astype(np.float64)
    return np.maximum(predicted, 1.0)


def _cross_predict(columns: NDArray[np.float32], truth: Floats, folds: int = 5) -> Floats:
    """Each row predicted from the others: what the error is on rows not counted."""
    predicted = np.zeros(len(truth))
    fold = np.arange(len(truth)) % folds
    for out in range(folds):
        held = fold == out
        if held.any() and not held.all():
            predicted[held] = _apply(columns[held], _fit(columns[~held], truth[~held]))
    return predicted
