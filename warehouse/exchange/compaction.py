"""The folder of a run that is over: one part instead of one for each shard, and nothing that only a run under way needs.

What stays is what later commands read: the job and the plan, the frozen input, the rejects, every entry and reply.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from thirdshift.warehouse.journal import parts
from thirdshift.warehouse.journal.journal import open_journals
from thirdshift.warehouse.journal.run_folder import MARKER
from thirdshift.warehouse.store.ingest import ingest_parts, missing_parts, record_part
from thirdshift.warehouse.store.store import Warehouse

WHOLE = "all"
"""The name of the one part; no shard has it."""
OF_RUNS_UNDER_WAY = ("shards", "admitted")
"""Which requests are sent together, and that the input was found fit to be sent."""


def compact(warehouse: Warehouse, run_id: str, folder: Path) -> None:
    """Leave one part, and no shards and no empty journals, in the folder of a run that is over.

    A crash on the way leaves entries in two parts, which are ingested once all the same. A part that cannot be read is
    named in a StoreError, and all are left as they are.
    """
    if open_journals(folder):
        return
    ingest_parts(warehouse, *missing_parts(warehouse, run_id, folder))
    several = parts.of_run(folder)
    if len(several) > 1:
        whole = parts.free(folder / "parts", WHOLE)
        record_part(warehouse, run_id, whole.name)  # before it is there: what is in it is in the warehouse
        parts.put_all(_each_once(several), whole)
        for part in several:
            part.unlink()
    for name in OF_RUNS_UNDER_WAY:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    with suppress(OSError):
        (folder / "journal").rmdir()


def remove(folder: Path) -> None:
    """Remove a run's folder; what says that it is one goes last, so that a crash on the way leaves one to be removed."""
    for path in folder.iterdir():
        if path.name != MARKER:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / MARKER).unlink(missing_ok=True)
    folder.rmdir()


def _each_once(several: list[Path]) -> Iterator[pa.Table]:
    """Yield the rows of parts; what a crash has left in a whole part and in those it was made of, once."""
    known = pa.array([], pa.string())
    for part in sorted(several, key=lambda path: not path.stem.startswith(WHOLE)):
        table = parts.read(part)
        yield table.filter(pc.invert(pc.is_in(table["entry_id"], value_set=known)))
        if part.stem.startswith(WHOLE):
            known = pa.concat_arrays([known, *table["entry_id"].chunks])
