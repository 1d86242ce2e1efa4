"""Recorded outcomes: how a model did on a request, and what it answered, for an emulated one to do likewise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from thirdshift.engines.emulator.answer_key import Index, text_key

COLUMNS = ("request_id", "prompt", "model", "score", "input_tokens", "output_tokens")
ANSWER = "answer"
"""What was answered, where the file knows it: equal texts are equal answers, none agrees with nothing."""


@dataclass(frozen=True, slots=True)
class RecordedOutcome:
    score: float
    input_tokens: int
    output_tokens: int
    answer: str | None = None


class Recorded:
    """An outcomes file (Parquet; one row per request and model) for the models named, 56 bytes a row.

    Read a row group at a time, each distinct text once. Raises OSError or ValueError where it is no such file.
    """

    def __init__(self, path: Path, models: Iterable[str]) -> None:
        wanted = pa.array(sorted(set(models)), pa.string())
        with pq.ParquetFile(path, read_dictionary=["request_id", "prompt", "model"]) as file:
            missing = sorted(set(COLUMNS) - set(file.schema_arrow.names))
            if missing:
                raise ValueError(
                    f"{path}: no column {', '.join(missing)}; outcomes have {', '.join(COLUMNS)}"
                )
            self.has_answers = ANSWER in file.schema_arrow.names
            read = [*COLUMNS, *([ANSWER] if self.has_answers else [])]
            groups = [
                _columns(file.read_row_group(n, columns=read), wanted) for n in range(file.num_row_groups)
            ]
        names = np.concatenate([group.pop("model") for group in groups])
        columns = {name: np.concatenate([group[name] for group in groups]) for name in groups[0]}
        self._models = {
            name: _OfModel({key: column[names == place] for key, column in columns.items()})
            for place, name in enumerate(wanted.to_pylist())
        }

    def find(self, model: str, request_id: str | None, prompt: int) -> RecordedOutcome | None:
        """Look up by the request's id where it is known and recorded, else by its prompt's key."""
        return self._models[model].find(request_id, prompt)

    def score_of(self, answer: str, request_id: str | None, prompt: int) -> float | None:
        """Return what this answer to a request scored, whoever gave it; None where nobody is known to have given it."""
        records = (model.find(request_id, prompt) for model in self._models.values())
        return next((record.score for record in records if record and record.answer == answer), None)


class _OfModel:
    def __init__(self, columns: Mapping[str, NDArray[Any]]) -> None:
        self._by_id = Index(columns["request_id"])
        self._by_prompt = Index(columns["prompt"])
        self._columns = [columns[name] for name in ("score", "input_tokens", "output_tokens", ANSWER)]

    def find(self, request_id: str | None, prompt: int) -> RecordedOutcome | None:
        at = None if request_id is None else self._by_id.find(text_key(request_id))
        at = self._by_prompt.find(prompt) if at is None else at
        if at is None:
            return None
        score, input_tokens, output_tokens, answer = (column[at] for column in self._columns)
        return RecordedOutcome(float(score), int(input_tokens), int(output_tokens), answer)


def _columns(table: pa.Table, wanted: pa.Array) -> dict[str, NDArray[Any]]:
    """Return the rows of wanted models as columns of numbers: texts as keys, the model as its place in `wanted`."""
    places = pc.index_in(table.column("model").cast(pa.string()), wanted)
    table = table.append_column("place", places).filter(pc.is_valid(places))
    answer = table.column(ANSWER) if ANSWER in table.column_names else pa.nulls(len(table), pa.string())
    return {
        ANSWER: np.array(answer.to_pylist(), np.object_),
        "model": table.column("place").to_numpy(),
        "request_id": _keys(table.column("request_id")),
        "prompt": _keys(table.column("prompt")),
        "score": table.column("score").to_numpy().astype(np.float64),
        "input_tokens": table.column("input_tokens").to_numpy().astype(np.int64),
        "output_tokens": table.column("output_tokens").to_numpy().astype(np.int64),
    }


def _keys(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    parts = [np.zeros(0, np.uint64)]
    for chunk in column.chunks:
        texts = np.fromiter((text_key(text) for text in chunk.dictionary.to_pylist()), np.uint64)
        parts.append(texts[chunk.indices.to_numpy()])
    return np.concatenate(parts)
