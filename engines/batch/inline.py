"""Batches whose requests travel inline, and whose answers come inside the batch's own object: read from disk, as both
may be as large as a file."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from thirdshift.engines.batch.http import BatchCalls
from thirdshift.engines.batch.provider import CallError
from thirdshift.engines.core.json import dumps, loads
from thirdshift.router.values import FailureKind


async def whole(http: BatchCalls, path: str, name: str) -> dict[str, Any]:
    """The JSON object at `path`, however large. `name`: the endpoint's, for messages."""
    with tempfile.TemporaryDirectory(prefix="thirdshift-inline-") as folder:
        place = Path(folder) / "reply.json"
        await http.fetch(path, place)
        value = await asyncio.to_thread(_read, place)
    if not isinstance(value, dict):
        words = f"endpoint {name}: what came of {path.partition('?')[0]} is no JSON object"
        raise CallError(FailureKind.BROKEN_REPLY, words, passing=True, lost=True)
    return value


def _read(place: Path) -> Any:
    try:
        return loads(place.read_bytes())
    except ValueError:
        return None


def write_lines(path: Path, items: Iterable[Any], *, more: bool = False) -> None:
    """Items as lines; `more`: after those that are there."""
    with path.open("ab" if more else "wb") as file:
        file.writelines(dumps(item) + b"\n" for item in items)
