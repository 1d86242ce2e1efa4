"""What a request's text says, as a few numbers: hashed n-grams folded into a handful of directions, and simple counts.

The directions are those in which the texts themselves differ most (a truncated singular value decomposition of a sample),
so they are found without a single score, and a million requests need no more memory than a chunk and this small table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy import sparse

DIRECTIONS = 16
"""More carry nothing that the few hundred scores of a pilot could tell apart."""
SAMPLE = 5_000
"""Texts that the directions are found on."""
CHARACTERS = 4_000
"""Characters read of each text, from its beginning and its end: what is asked stands at one of them."""
BUCKETS = 2**15

_WORD = re.compile(r"\w\w+")
_PAIR = np.uint32(2654435761)
"""Knuth's multiplicative hash: two words in a row fall into a bucket of their own."""
_DIGITS, _CJK = re.compile(r"\d"), re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_LATIN, _CODE = re.compile(r"[A-Za-z]"), re.compile(r"[{}\[\]();=<>_\\]")
_NUMBERS, _LINES = re.compile(r"\d+(?:\.\d+)?"), re.compile(r"\n")
COUNTS = 8


@dataclass(frozen=True, slots=True)
class TextMap:
    """Texts to columns, shape (n, width), each of mean 0 and spread 1 over the sample."""

    directions: NDArray[np.float32]
    """Shape (BUCKETS, at most DIRECTIONS)."""
    rarity: NDArray[np.float32]
    """Inverse document frequency of each bucket."""
    centre: NDArray[np.float32]
    scale: NDArray[np.float32]

    @property
    def width(self) -> int:
        return len(self.centre)

    def transform(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return ((self.columns(texts) - self.centre) / self.scale).astype(np.float32)

    def columns(self, texts: Sequence[str]) -> NDArray[np.float32]:
        words = _weighed(_ngrams(texts), self.rarity)
        return np.hstack([words @ self.directions, _counts(texts)]).astype(np.float32)


def learn(texts: Sequence[str], rng: np.random.Generator) -> TextMap:
    """The map for texts like these. A text given is a sample's: what exceeds SAMPLE is left out at random."""
    if len(texts) > SAMPLE:
        texts = [texts[i] for i in sorted(rng.choice(len(texts), SAMPLE, replace=False))]
    counts = _ngrams(texts)
    seen = np.bincount(counts.indices, minlength=BUCKETS)
    rarity = np.where(seen > 1, np.log((1 + len(texts)) / (1 + seen)), 0.0).astype(np.float32)
    directions = _directions(_weighed(counts, rarity), rng)
    nothing = np.zeros(directions.shape[1] + COUNTS, dtype=np.float32)
    raw = TextMap(directions, rarity, nothing, nothing + 1).columns(texts)
    scale = raw.std(axis=0)
    return TextMap(
        directions, rarity, raw.mean(axis=0), np.where(scale > 1e-6, scale, 1.0).astype(np.float32)
    )


def in_chunks(text_map: TextMap, chunks: Iterable[Sequence[str]]) -> NDArray[np.float32]:
    """The columns of all requests, a chunk's texts in memory at a time."""
    parts = [text_map.transform(chunk) for chunk in chunks]
    return np.vstack(parts) if parts else np.zeros((0, text_map.width), dtype=np.float32)


def clip(text: str) -> str:
    half = CHARACTERS // 2
    return text if len(text) <= CHARACTERS else f"{text[:half]} {text[-half:]}"


def _ngrams(texts: Sequence[str]) -> sparse.csr_matrix:
    """How often each bucket's words and pairs of words occur in each text, shape (n, BUCKETS)."""
    from scipy import sparse

    known: dict[str, int] = {}
    lists = [_WORD.findall(clip(text).lower()) for text in texts]
    for words in lists:
        for word in words:
            if word not in known:
                known[word] = crc32(word.encode("utf-8", "surrogatepass"))
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    codes = np.fromiter(map(known.__getitem__, chain.from_iterable(lists)), np.uint32, int(lengths.sum()))
    row = np.repeat(np.arange(len(lists)), lengths)
    follows = row[1:] == row[:-1]
    two = ((codes[:-1] * _PAIR) ^ codes[1:])[follows]
    bucket = np.concatenate([codes, two]) % BUCKETS
    rows = np.concatenate([row, row[1:][follows]])
    counts = sparse.coo_matrix((np.ones(len(rows), np.float32), (rows, bucket)), (len(lists), BUCKETS))
    return counts.tocsr()  # which adds up what falls into one bucket


def _directions(words: sparse.csr_matrix, rng: np.random.Generator) -> NDArray[np.float32]:
    """The right singular vectors of the largest singular values, shape (BUCKETS, at most DIRECTIONS)."""
    from scipy.sparse.linalg import ArpackError, svds

    rank = min(DIRECTIONS, max(1, min(words.shape) - 1))
    if not words.nnz or min(words.shape) == 1:
        return np.zeros((BUCKETS, rank), np.float32)
    start = rng.standard_normal(min(words.shape)).astype(words.dtype)
    try:
        _, value, right = svds(words, rank, v0=start, tol=1e-3)
    except ArpackError:  # it gives up on some texts that are nearly alike
        return _dense_directions(words, rank)
    return np.ascontiguousarray(right[np.argsort(-value)].T, dtype=np.float32)


def _dense_directions(words: sparse.csr_matrix, rank: int) -> NDArray[np.float32]:
    """Return the same as `_directions`, from the eigenvectors of the texts' inner products; 0 for singular values of 0."""
    products = np.asarray((words @ words.T).todense(), np.float64)
    value, left = np.linalg.eigh(products)
    value, left = value[::-1][:rank], left[:, ::-1][:, :rank]
    scale = np.where(value > 1e-6, 1.0 / np.sqrt(np.maximum(value, 1e-6)), 0.0)
    return np.ascontiguousarray((words.T @ left) * scale, dtype=np.float32)


def _weighed(counts: sparse.csr_matrix, rarity: NDArray[np.float32]) -> sparse.csr_matrix:
    """Counts times rarity, each text's row of length 1."""
    from scipy import sparse

    weighed = counts @ sparse.diags(rarity)
    norms = np.sqrt(np.asarray(weighed.multiply(weighed).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags(1.0 / np.maximum(norms, 1e-9)) @ weighed)


def _counts(texts: Sequence[str]) -> NDArray[np.float32]:
    """Length, and the shares of digits, code, Chinese-Japanese-Korean and Latin letters, numbers, lines."""
    return np.array([_count(clip(text), len(text)) for text in texts], dtype=np.float32).reshape(-1, COUNTS)


def _count(text: str, length: int) -> tuple[float, ...]:
    per = 1.0 / max(1, len(text))
    shares = tuple(len(kind.findall(text)) * per for kind in (_DIGITS, _CODE, _CJK, _LATIN))
    numbers = _NUMBERS.findall(text)
    digits = max((len(number) for number in numbers), default=0)
    return (
        np.log1p(length),
        *shares,
        np.log1p(len(numbers)),
        float(min(digits, 20)),
        np.log1p(len(_LINES.findall(text))),
    )
