"""What a judge's shard asks: one question per answer, read from the warehouse."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from thirdshift.router.certification.judge import VERDICT, VERDICT_TOKENS, Judge, Question
from thirdshift.router.values import Request
from thirdshift.warehouse.store.judgements import answers
from thirdshift.warehouse.store.store import Warehouse

WINDOW = 512
"""Answers that a judge's shard holds in memory at once."""


def pairs(row: Sequence[int] | NDArray[np.int64], endpoint: Sequence[str]) -> pa.Table:
    """Return a table of answers, by request's row and endpoint."""
    return pa.table({"row": pa.array(row, pa.int64()), "endpoint": pa.array(endpoint, pa.string())})


@dataclass(frozen=True, slots=True)
class Questions:
    """The requests of a judge's shard, read from the warehouse each time, so that no answer lies on disk a second time."""

    warehouse: Path
    run_id: str
    judge: Judge
    rows: NDArray[np.int64]
    subject: str
    temperature: float | None

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Request]:
        for start in range(0, len(self.rows), WINDOW):
            wanted = self.rows[start : start + WINDOW]
            with Warehouse.open(self.warehouse) as warehouse:
                table = answers(
                    warehouse, self.run_id, pairs(wanted, [self.subject] * len(wanted)), unscored=False
                )
            by_row = {answer["row"]: answer for answer in table.to_pylist()}
            yield from (self._request(by_row[row]) for row in wanted.tolist())

    def _request(self, answer: Mapping[str, Any]) -> Request:
        question = question_of(answer)
        return Request(
            row=answer["row"],
            request_id=answer["request_id"],
            request_hash=self.judge.key(question),
            task=answer["task"],
            messages=self.judge.messages(question),
            max_tokens=VERDICT_TOKENS,
            temperature=self.temperature,
            response_schema=VERDICT,
        )


def question_of(answer: Mapping[str, Any]) -> Question:
    return Question(tuple(json.loads(answer["messages"])), answer["output"] or "", answer["reference"])
