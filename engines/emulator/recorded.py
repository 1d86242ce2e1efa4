"""Recorded outcomes: how a model of the past did on a request, for an emulated one to do likewise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engines.emulator.known import Index, text_key

COLUMNS = ("request_id", "prompt", "model", "score", "input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class Record:
    score: float
    input_tokens: int
    output_tokens: int


class Recorded:
    """An outcomes file (Parquet; one row per request and model) for the models named, 56 bytes a row."""

    def __init__(self, path: Path, models: Iterable[str]) -> None:
        self._models = {name: _of_model(path, name) for name in dict.fromkeys(models)}

    def find(self, model: str, request_id: str | None, prompt: int) -> Record | None:
        """By the request's id where it is known and recorded, else by its prompt's key."""
        return self._models[model].find(request_id, prompt)


class _OfModel:
    def __init__(self, table: pa.Table) -> None:
        self._by_id = Index(_keys(table.column("request_id")))
        self._by_prompt = Index(_keys(table.column("prompt")))
        self._scores = table.column("score").to_numpy().astype(np.float64)
        self._input = table.column("input_tokens").to_numpy().astype(np.int64)
        self._output = table.column("output_tokens").to_numpy().astype(np.int64)

    def find(self, request_id: str | None, prompt: int) -> Record | None:
        at = None if request_id is None else self._by_id.find(text_key(request_id))
        at = self._by_prompt.find(prompt) if at is None else at
        if at is None:
            return None
        return Record(float(self._scores[at]), int(self._input[at]), int(self._output[at]))


def _of_model(path: Path, name: str) -> _OfModel:
    return _OfModel(pq.read_table(path, columns=list(COLUMNS), filters=pc.field("model") == name))


def _keys(column: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    texts = (text for chunk in column.chunks for text in chunk.to_pylist())
    return np.fromiter((text_key(text) for text in texts), np.uint64, len(column))
