"""Tokenizers that are at hand without a network: tiktoken's encodings, a local model's tokenizer.json,
DeepSeek's.

litellm's wheel carries tiktoken's encoding files under tiktoken's own cache names, so TIKTOKEN_CACHE_DIR
set to that folder makes them load offline. Nothing is downloaded: what is not at hand is an error that
says what to do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thirdshift.engines.pricemap import litellm_folder
from thirdshift.router.tokens.estimate import Tokenizer

ENCODINGS = ("o200k_base", "cl100k_base", "p50k_base")
"""What litellm's wheel carries."""


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
        os.environ["TIKTOKEN_CACHE_DIR"] = str(litellm_folder() / "litellm_core_utils" / "tokenizers")
        import tiktoken

        self.name = encoding
        self._encoding = tiktoken.get_encoding(encoding)
        self._threads = threads

    def count(self, texts: Sequence[str]) -> NDArray[np.int32]:
        return counted(self._count, list(texts))

    def _count(self, texts: list[str]) -> list[int]:
        encoded = self._encoding.encode_ordinary_batch(texts, num_threads=self._threads)
        return [len(tokens) for tokens in encoded]


class FileCounter:
    """Counts with a `tokenizer.json` of Hugging Face's format, without special tokens."""

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

    return Loaded.from_file(path)


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
    folder = litellm_folder() / "litellm_core_utils" / "tokenizers"
    return next(
        iter(sorted([*folder.glob("*deepseek*.json"), *folder.glob("*deepseek*/tokenizer.json")])), None
    )
