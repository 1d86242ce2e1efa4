"""Right answers and difficulties, looked up by what a request says.

The caller writes the file (`write_known`); the emulator maps it, keeps 32 bytes a row in memory, and looks a
request up by its messages, else by the text of its last user message. Of rows with one text the first stands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from thirdshift.engines.emulator.generation import right_json

SCHEMA = pa.schema(
    [
        ("messages_key", pa.uint64()),
        ("prompt_key", pa.uint64()),
        ("reference", pa.large_string()),
        ("difficulty", pa.float64()),
        ("request_id", pa.large_string()),
    ]
)
ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, slots=True)
class KnownRow:
    prompt: str | None = None
    """The only message; or give `messages`, as they will be sent."""
    reference: str | None = None
    difficulty: float | None = None
    """On the scale of the models' abilities; None: drawn."""
    request_id: str | None = None
    """By which the outcomes file knows it, where it does not know it by its text."""
    messages: Sequence[Mapping[str, Any]] | None = None
    schema: Mapping[str, Any] | None = None
    """What the answer's JSON has to look like: where there is no reference, one is made up, for a judge to know too."""


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    reference: str | None
    difficulty: float | None
    request_id: str | None


def text_key(text: str) -> int:
    """Hash a text, without space around it, to 64 bits."""
    digest = hashlib.blake2b(text.strip().encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def messages_key(messages: Sequence[Mapping[str, Any]]) -> int:
    """Hash roles and texts of a conversation to 64 bits."""
    return text_key("\0".join(f"{m.get('role')}\0{content_text(m.get('content'))}" for m in messages))


def content_text(content: Any) -> str:
    """Return a message's text: content is a string, or parts of which some are text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        return ""
    return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))


def last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of the last user message; empty where there is none."""
    for message in reversed(messages):
        if message.get("role") == "user":
            return content_text(message.get("content"))
    return ""


def write_known(path: Path, rows: Iterable[KnownRow]) -> int:
    """Write the look-up file; returns how many rows. Streams: a batch is in memory at a time."""
    count = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for lot in _lots(rows):
            writer.write_batch(pa.RecordBatch.from_pylist(lot, schema=SCHEMA))
            count += len(lot)
    return count


def _lots(rows: Iterable[KnownRow]) -> Iterator[list[dict[str, Any]]]:
    iterator = iter(rows)
    while lot := [_record(row) for row in islice(iterator, ROWS_AT_ONCE)]:
        yield lot


def _record(row: KnownRow) -> dict[str, Any]:
    messages = row.messages or ({"role": "user", "content": row.prompt or ""},)
    key, reference = messages_key(messages), row.reference
    if reference is None and row.schema is not None:
        reference = right_json(row.schema, key)
    return {
        "messages_key": key,
        "prompt_key": text_key(last_user_text(messages)),
        "reference": reference,
        "difficulty": row.difficulty,
        "request_id": row.request_id,
    }


class Index:
    """Map keys to the first position that has them."""

    def __init__(self, keys: NDArray[np.uint64]) -> None:
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    def find(self, key: int) -> int | None:
        # where nothing is known, numpy's search would cost as much as the rest of the answer
        if not len(self._sorted):
            return None
        at = int(self._sorted.searchsorted(np.uint64(key)))
        return int(self._order[at]) if at < len(self._sorted) and self._sorted[at] == key else None


class AnswerKey:
    """The file of `write_known`, mapped."""

    def __init__(self, path: Path) -> None:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._columns = [table.column(name) for name in ("reference", "difficulty", "request_id")]
        self._by_messages = Index(table.column("messages_key").to_numpy())
        self._by_prompt = Index(table.column("prompt_key").to_numpy())

    def find(self, messages: int, prompt: int) -> KnownAnswer | None:
        """Return what is known of the request with these two keys."""
        at = self._by_messages.find(messages)
        at = self._by_prompt.find(prompt) if at is None else at
        return None if at is None else KnownAnswer(*(column[at].as_py() for column in self._columns))
