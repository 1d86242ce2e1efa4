"""Read the text of the slowest and dearest requests, which only `--texts` shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from thirdshift.flows.report import queries
from thirdshift.flows.report.data import RunFacts
from thirdshift.warehouse.errors import InputError
from thirdshift.warehouse.intake.frozen import RowSource
from thirdshift.warehouse.journal.run_folder import run_folder
from thirdshift.warehouse.store.read_only import reading

MOST_CHARACTERS = 2_000
"""Characters shown of one text: enough to see why a request was slow."""


@dataclass(frozen=True, slots=True)
class TextSample:
    """The prompt and the answer of one request."""

    request_id: str
    parts: tuple[tuple[str, str], ...] = field(repr=False)
    """(what it is, its text)."""


def samples(facts: RunFacts, warehouse: Path) -> tuple[TextSample, ...]:
    """Return prompts and answers in the order of the tables; text that was purged is said to be gone."""
    request_ids = list(dict.fromkeys(row["request_id"] for row in (*facts.slowest, *facts.dearest)))
    run_id = facts.run["run_id"]
    with reading(warehouse) as ask:
        by_id = {
            row["request_id"]: row for row in ask(queries.TEXTS, run_id=run_id, ids=request_ids).to_pylist()
        }
    prompts = _prompts(run_folder(warehouse, run_id), sorted(row["row"] for row in by_id.values()))
    return tuple(
        TextSample(request_id, tuple(_parts(by_id[request_id], prompts.get(by_id[request_id]["row"]))))
        for request_id in request_ids
        if request_id in by_id
    )


def _prompts(folder: Path, rows: list[int]) -> dict[int, str]:
    if not rows:
        return {}
    try:
        source = RowSource(folder, np.array(rows, np.int64))
        return {request.row: "\n\n".join(map(_message, request.messages)) for request in source}
    except (InputError, OSError):  # the frozen input may have been cleared away
        return {}


def _message(message: Mapping[str, Any]) -> str:
    return f"{message.get('role', '')}: {message.get('content', '')}"


def _parts(row: Mapping[str, Any], prompt: str | None) -> list[tuple[str, str]]:
    parts = [("Request", _cut(prompt) if prompt else "not kept")]
    if row["error"] is not None:
        return [*parts, ("Error", _cut(row["error"]))]
    return [*parts, ("Answer", _cut(row["output"]) if row["output"] is not None else "not kept")]


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}… ({len(text):,} characters)"
