"""Blocks of numbers on disk: put down one after the other, and read again in their order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray


class Spool:
    """Tables of single-precision numbers, in a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._shapes = file, list[tuple[int, int]]()

    def append(self, block: NDArray[np.float32]) -> None:
        """Put a table after those that are there."""
        self._file.write(np.ascontiguousarray(block, np.float32).data)
        self._shapes.append((block.shape[0], block.shape[1]))

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        self._file.seek(0)
        for rows, columns in self._shapes:
            data = self._file.read(4 * rows * columns)
            yield np.frombuffer(data, np.float32).reshape(rows, columns)


@contextmanager
def spool(folder: Path) -> Iterator[Spool]:
    """Give a spool in a file without a name in `folder`, which is gone with it."""
    with TemporaryFile(dir=folder) as file:
        yield Spool(cast("BinaryIO", file))
