"""What stands on our own disk of a batch whose provider keeps nothing for us: written before it is made, named after."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from thirdshift.engines.core.json import dumps, loads
from thirdshift.world import REAL, World


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One batch's."""

    path: Path
    label: str
    count: int
    newest: str
    """The newest batch at the provider before it; empty where there was none."""
    made_at: float
    """Seconds since 1970."""
    ids: frozenset[bytes] = field(repr=False)
    """Custom ids, as hashes."""

    @property
    def name(self) -> str | None:
        """The batch's id at the provider; None where it was never heard of."""
        place = _name_path(self.path)
        return place.read_text() if place.exists() else None

    def give_name(self, batch_id: str, world: World = REAL) -> None:
        """Durable when this returns."""
        _replace(_name_path(self.path), [batch_id.encode()], world)

    def holds(self, custom_id: str) -> bool:
        return short(custom_id) in self.ids

    def forget(self) -> None:
        """The batch was never made."""
        self.path.unlink(missing_ok=True)


class BatchRecords:
    """All of one folder."""

    def __init__(self, folder: Path, world: World = REAL) -> None:
        self._folder, self._world = folder, world
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(self, label: str, custom_ids: list[str], newest: str) -> BatchRecord:
        """A batch about to be made. Durable when this returns."""
        path = self._folder / f"{hashlib.blake2b(label.encode(), digest_size=16).hexdigest()}.jsonl"
        _name_path(path).unlink(missing_ok=True)
        at = self._world.time()
        head = {"label": label, "count": len(custom_ids), "newest": newest, "made_at": at}
        _replace(
            path,
            [dumps(head) + b"\n", *(dumps({"custom_id": custom_id}) + b"\n" for custom_id in custom_ids)],
            self._world,
        )
        return BatchRecord(path, label, len(custom_ids), newest, at, frozenset(map(short, custom_ids)))

    def under(self, prefix: str) -> Iterator[BatchRecord]:
        """Those whose label begins so."""
        for path in sorted(self._folder.glob("*.jsonl")):
            with path.open("rb") as file:
                label = loads(file.readline())["label"]
            if label.startswith(prefix):
                yield read(path)

    def names(self, but: BatchRecord) -> set[str]:
        """The batches at the provider that are known to be of other records."""
        own = _name_path(but.path)  # a call that was cancelled may be writing it just now
        return {path.read_text() for path in self._folder.glob("*.name") if path != own}


def read(path: Path) -> BatchRecord:
    with path.open("rb") as file:
        head = loads(file.readline())
        ids = frozenset(short(loads(line)["custom_id"]) for line in file)
    return BatchRecord(path, head["label"], head["count"], head["newest"], head["made_at"], ids)


def short(custom_id: str) -> bytes:
    """Eight bytes in place of it: a batch has a hundred thousand."""
    return hashlib.blake2b(custom_id.encode(), digest_size=8).digest()


def _name_path(path: Path) -> Path:
    return path.with_suffix(".name")


def _replace(path: Path, pieces: list[bytes], world: World) -> None:
    """Whole or not at all, and on the disk when this returns."""
    unique = world.random_bytes(4).hex()  # a cancelled call's thread may be at it still
    temporary = path.with_suffix(f"{path.suffix}.{unique}.tmp")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.writelines(pieces)
        file.flush()
        world.sync(file.fileno())
    world.replace(temporary, path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        world.sync(handle)
    finally:
        os.close(handle)
