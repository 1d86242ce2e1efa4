"""What servers said of failures, whole, in the run's folder and for its owner's eyes only: it may quote a prompt."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from thirdshift.engines.core.json import dumps
from thirdshift.engines.core.transport import Reply
from thirdshift.router.values import Intent

FILE = "server-errors.jsonl"
BYTES_MAX = 16 << 20
"""The most that one engine writes: ten thousand failures say the same things."""
SAME_MAX = 20
"""So often is one and the same text kept."""


class ServerWords:
    """Appends to one run's file. What cannot be written is left out: the night goes on."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._left = BYTES_MAX
        self._times: dict[str, int] = {}
        self._lock = Lock()

    def keep(self, intent: Intent, reply: Reply) -> None:
        said = reply.said or ""
        with self._lock:
            times = self._times[said] = self._times.get(said, 0) + 1
            if times > SAME_MAX:
                return
            line = dumps(
                {
                    "at": datetime.now(UTC).isoformat(timespec="seconds"),
                    "endpoint": intent.endpoint,
                    "request_id": intent.request_id,
                    "entry_id": intent.entry_id,
                    "kind": reply.kind,
                    "message": reply.message,
                    "said": said,
                }
            )
            if len(line) >= self._left:
                return
            self._left -= len(line)
            try:
                handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                with os.fdopen(handle, "ab") as file:
                    file.write(line + b"\n")
            except OSError:
                self._left = 0
