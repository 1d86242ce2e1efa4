"""Frames on a pipe: a line of JSON, then as many bytes as it says. Standard library only."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import IO, Any

Header = dict[str, Any]


class FrameWriter:
    """Writes whole frames, from any thread."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe, self._lock = pipe, threading.Lock()

    def write(self, header: Header, payload: bytes = b"") -> None:
        """Write one frame. Raises OSError or ValueError where nobody reads any more."""
        line = json.dumps({**header, "bytes": len(payload)}).encode() + b"\n"
        with self._lock:
            self._pipe.write(line)
            self._pipe.write(payload)
            self._pipe.flush()

    def close(self) -> None:
        """Tell the reader that no more will come."""
        with self._lock:
            self._pipe.close()


def frames(pipe: IO[bytes]) -> Iterator[tuple[Header, bytes]]:
    """Yield what comes until the pipe's end; half a frame at the end is dropped."""
    for line in pipe:
        header: Header = json.loads(line)
        payload = pipe.read(header["bytes"])
        if len(payload) == header["bytes"]:
            yield header, payload
