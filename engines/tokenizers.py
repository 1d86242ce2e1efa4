"""Tokenizers that are at hand without a network: tiktoken's encodings, a local model's tokenizer.json,
DeepSeek's.

litellm's wheel carries tiktoken's encoding files under tiktoken's own cache names, so TIKTOKEN_CACHE_DIR
set to that folder makes them load offline. Nothing is downloaded: what is not at hand is an error that
says what to do.
"""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from thirdshift.engines.pricemap import litellm_folder
from thirdshift.router.tokens.estimate import Tokenizer

ENCODINGS = ("o200k_base", "cl100k_base", "p50k_base")
"""What litellm's wheel carries."""


FEW_BYTES = 200_000
"""Texts of so many bytes in all are counted here in less time than tiktoken takes to load its tables (0.3 s)."""
LONG_WORD = 200
"""A word of more bytes is left to tiktoken: merging takes the square of them here."""

AT_ONCE = 200
"""Texts that a thread is given; tiktoken's own batches give one at a time, which takes longer than counting it."""

BYTES_PER_TOKEN = 4
"""What a text that its tokenizer cannot take is estimated by."""

OURS = (KeyboardInterrupt, SystemExit, GeneratorExit)


def counted(count: Callable[[list[str]], list[int]], texts: list[str]) -> NDArray[np.int32]:
    """Count texts together; a text that the tokenizer breaks at is estimated, and the others are counted all the same. A
    panic in Rust comes as a BaseException (tiktoken 0.14 on some valid texts)."""
    try:
        return np.asarray(count(texts), dtype=np.int32)
    except BaseException as error:
        if isinstance(error, OURS):
            raise
    if len(texts) == 1:
        return np.asarray([len(texts[0].encode("utf-8", "replace")) // BYTES_PER_TOKEN + 1], dtype=np.int32)
    half = len(texts) // 2
    return np.concatenate([counted(count, texts[:half]), counted(count, texts[half:])])


class TiktokenCounter:
    """Counts with one of tiktoken's encodings. Special tokens in a text are counted as the text they are."""

    def __init__(self, encoding: str, threads: int = 2) -> None:
        self.name = encoding
        self._threads = threads
        self._encoding: Any = None

    def count(self, texts: Sequence[str]) -> NDArray[np.int32]:
        if self._encoding is None and self.name == SHORT_TEXTS and sum(map(len, texts)) <= FEW_BYTES:
            lengths = short_text_counter().count(texts)
            if lengths is not None:
                return lengths
        return counted(self._count, list(texts))

    def _count(self, texts: list[str]) -> list[int]:
        if self._encoding is None:
            os.environ["TIKTOKEN_CACHE_DIR"] = str(encodings_folder())
            import tiktoken

            self._encoding = tiktoken.get_encoding(self.name)
        lots = [texts[begin : begin + AT_ONCE] for begin in range(0, len(texts), AT_ONCE)]
        with ThreadPoolExecutor(self._threads) as pool:
            return [length for lengths in pool.map(self._lengths, lots) for length in lengths]

    def _lengths(self, texts: list[str]) -> list[int]:
        return [len(self._encoding.encode_ordinary(text)) for text in texts]


SHORT_TEXTS = "o200k_base"
_O200K_FILE = "fb374d419588a4632f3f557e76b4b70aebbca790"
"""The name that tiktoken's cache gives the file of o200k_base: lines of a token in base64 and its rank, by rank."""
_O200K_WORD = re.compile(
    r"[^\r\nA-Za-z0-9]?[A-Z]*[a-z]+(?:'(?i:s|t|re|ve|m|ll|d))?|[^\r\nA-Za-z0-9]?[A-Z]+[a-z]*(?:'(?i:s|t|re|ve|m|ll|d))?"
    r"|[0-9]{1,3}| ?[^\sA-Za-z0-9]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    re.ASCII,
)
"""o200k_base's pattern of words as far as it concerns ASCII."""


HEAD = 4
"""Letters in base64 of a token's first three bytes, or of all that it has."""


def _written(token: bytes) -> bytes:
    return binascii.b2a_base64(token, newline=False)


def _heads(letters: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """[n, HEAD] letters as a number each."""
    return np.ascontiguousarray(letters).view(np.uint32).ravel()


def _column(heads: NDArray[np.uint32]) -> pa.Array:
    """What `pa.array` gives, which would import numpy.ma."""
    return pa.Array.from_buffers(pa.uint32(), len(heads), [None, pa.py_buffer(heads)])


class ShortTextCounter:
    """Counts ASCII texts as tiktoken does with o200k_base, without building tiktoken's tables."""

    def __init__(self, path: Path) -> None:
        self._lines = path.read_bytes()
        letters = np.frombuffer(self._lines, np.uint8)
        self._starts = np.flatnonzero(np.concatenate([[True], letters[:-1] == ord("\n")]))
        self._heads = _heads(np.lib.stride_tricks.sliding_window_view(letters, HEAD)[self._starts])
        self._ranks: dict[bytes, int] = {}
        self._known: dict[str, int] = {}

    def count(self, texts: Sequence[str]) -> NDArray[np.int32] | None:
        """Return the tokens of each text; None where one is not all ASCII, or has a very long word."""
        if not all(map(str.isascii, texts)):
            return None
        known, words = self._known, [_O200K_WORD.findall(text) for text in texts]
        new = {word for found in words for word in found} - known.keys()
        if any(len(word) > LONG_WORD for word in new):
            return None
        self._read([word.encode() for word in new])
        for word in new:
            known[word] = self._merged(word.encode())
        return np.array([sum(map(known.__getitem__, found)) for found in words], dtype=np.int32)

    def _read(self, words: Iterable[bytes]) -> None:
        """Read the ranks of all tokens that begin as a part of the words does: of few words a fraction of the file."""
        parts = {word[at : at + size] for word in words for at in range(len(word)) for size in (1, 2, 3)}
        heads = _heads(np.frombuffer(b"".join(map(_written, parts)), np.uint8).reshape(-1, HEAD))
        ranks = np.flatnonzero(pc.is_in(_column(self._heads), value_set=_column(heads)))
        for rank, start in zip(ranks.tolist(), self._starts[ranks].tolist(), strict=True):
            self._ranks[self._lines[start : self._lines.index(b" ", start)]] = rank

    def _rank(self, token: bytes) -> int | None:
        return self._ranks.get(_written(token))

    def _merged(self, word: bytes) -> int:
        """Count a word's tokens: the neighbours of lowest rank become one, as long as there are any."""
        if self._rank(word) is not None:
            return 1
        tokens = [word[at : at + 1] for at in range(len(word))]
        ranks = [self._rank(left + right) for left, right in pairwise(tokens)]
        while known := [(rank, at) for at, rank in enumerate(ranks) if rank is not None]:
            at = min(known)[1]
            tokens[at : at + 2] = [tokens[at] + tokens[at + 1]]
            del ranks[at]
            for pair in range(max(at - 1, 0), min(at + 1, len(ranks))):
                ranks[pair] = self._rank(tokens[pair] + tokens[pair + 1])
        return len(tokens)


@lru_cache(maxsize=1)
def short_text_counter() -> ShortTextCounter:
    """Return the one counter of short texts of this process."""
    return ShortTextCounter(encodings_folder() / _O200K_FILE)


def encodings_folder() -> Path:
    """Where litellm keeps tiktoken's files."""
    return litellm_folder() / "litellm_core_utils" / "tokenizers"


class FileCounter:
    """Counts whole texts with a `tokenizer.json` of Hugging Face's format, without special tokens."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._tokenizer: Any = _from_file(str(path))

    def count(self, texts: Sequence[str]) -> NDArray[np.int32]:
        return counted(self._count, list(texts))

    def _count(self, texts: list[str]) -> list[int]:
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [len(encoding.ids) for encoding in encoded]


@lru_cache(maxsize=8)
def _from_file(path: str) -> Any:
    from tokenizers import Tokenizer as Loaded

    tokenizer = Loaded.from_file(path)
    # A file keeps the length that texts were cut and filled up to when it was saved (transformers 5.24 writes that of the
    # last call, as a rule a training's), and tokenizers 0.23 goes on with it.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@lru_cache(maxsize=8)
def tiktoken_counter(encoding: str = "o200k_base") -> Tokenizer:
    """Return the counter of one of `ENCODINGS`. Raises ValueError for another: its file is not at hand."""
    if encoding not in ENCODINGS:
        raise ValueError(f"no encoding {encoding!r} at hand; there are {', '.join(ENCODINGS)}")
    return TiktokenCounter(encoding)


def tokenizer_for(model: str) -> Tokenizer:
    """Choose the nearest tokenizer at hand for a model: its own `tokenizer.json` where `model` is a folder that
    has one, DeepSeek's for DeepSeek, cl100k_base or o200k_base for OpenAI's, else o200k_base, the nearest
    to others' vocabularies that is at hand. A ratio learnt from returned usage
    (`thirdshift.router.tokens.estimate.learn_ratio`) takes the rest.
    """
    own = Path(model) / "tokenizer.json"
    if own.is_file():
        return FileCounter(own)
    if "deepseek" in model.casefold() and (path := _deepseek()) is not None:
        return FileCounter(path)
    tail = model.casefold().rpartition("/")[2]
    old = tail.startswith(("gpt-3.5", "gpt-4-", "text-embedding")) or tail == "gpt-4"
    return tiktoken_counter("cl100k_base" if old else "o200k_base")


def _deepseek() -> Path | None:
    """DeepSeek's tokenizer where this litellm carries it (some releases do)."""
    folder = encodings_folder()
    return next(
        iter(sorted([*folder.glob("*deepseek*.json"), *folder.glob("*deepseek*/tokenizer.json")])), None
    )
