"""Writing requests as the frozen input: Parquet files of `FROZEN`'s columns, with the figures of what they hold."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from thirdshift.warehouse.intake.messages import RENDERED
from thirdshift.warehouse.journal.files import private_dir

GROUP_ROWS = 8192
FILE_ROWS = GROUP_ROWS * 128
FROZEN = pa.schema(
    [("row", pa.int64()), *((f.name, f.type) for f in RENDERED if f.name != "flaw"), ("leader", pa.int64())]
)
REPEATED = [
    "task",
    "policy",
    "metadata",
    "tools",
    "max_tokens",
    "temperature",
    "sampling",
    "response_schema",
    "reference",
]
"""Columns worth a dictionary; texts and hashes are not."""
NUMBERS = ["row", "source_row", "leader"]
"""Columns whose least and largest value in a group of rows may spare reading it."""

NEWLINE = pa.scalar("\n", pa.string())
"""Its type is stated, as is that of the list it joins: to guess one, Arrow imports dateutil."""


class FrozenWriter:
    """Writes requests in their order; row groups are full but the last of each file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = private_dir(folder), 0
        self._digest = blake2b(digest_size=16)
        self._tasks: set[str] = set()
        self._held: list[pa.Table] = []
        self._held_rows = 0
        self._writer: pq.ParquetWriter | None = None

    @property
    def fingerprint(self) -> str:
        """What tells apart the ids, hashes and tasks written, in their order."""
        return self._digest.hexdigest()

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(sorted(self._tasks))

    def add(self, table: pa.Table) -> None:
        """Columns of `FROZEN`."""
        for name in ("request_id", "request_hash", "task"):
            texts = pc.fill_null(table[name], "").combine_chunks()  # a row that will be refused has no hash
            lines = pc.binary_join(
                pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts), NEWLINE
            )
            self._digest.update(lines[0].as_buffer())
        self._tasks.update(table["task"].unique().to_pylist())
        self._held.append(table)
        self._held_rows += table.num_rows
        if self._held_rows >= GROUP_ROWS:
            pending = pa.concat_tables(self._held)
            whole = pending.num_rows - pending.num_rows % GROUP_ROWS
            self._put(pending.slice(0, whole))
            self._held, self._held_rows = [pending.slice(whole)], pending.num_rows - whole

    def close(self) -> None:
        if self._held_rows or self._writer is None:
            self._put(pa.concat_tables(self._held) if self._held else FROZEN.empty_table())
        if self._writer is not None:
            self._writer.close()

    def _put(self, table: pa.Table) -> None:
        if self._writer is not None and self.rows % FILE_ROWS == 0:
            self._writer.close()
            self._writer = None
        if self._writer is None:
            path = self.folder / f"part-{self.rows // FILE_ROWS:05d}.parquet"
            self._writer = pq.ParquetWriter(
                path, FROZEN, compression="zstd", use_dictionary=REPEATED, write_statistics=NUMBERS
            )
        self._writer.write_table(table, row_group_size=GROUP_ROWS)
        self.rows += table.num_rows
