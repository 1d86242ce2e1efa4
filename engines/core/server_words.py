"""What servers said of failures, whole, in the run's folder and for its owner's eyes only: it may quote a prompt."""

from __future__ import annotations

import os
import re
from pathlib import Path
from threading import Lock

from thirdshift.engines.core.json import dumps
from thirdshift.engines.core.transport import Reply
from thirdshift.router.values import Intent
from thirdshift.world import REAL, World

FILE = "server-errors.jsonl"
BYTES_MAX = 16 << 20
"""The most that one engine writes: ten thousand failures say the same things."""
SAME_MAX = 20
"""So often is one and the same text kept."""
SECRET = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)
"""Environment variables that hold what nobody may read: a server may repeat the key that it refuses."""
SECRET_LETTERS = 8
"""What is shorter is no key, and would blot out words."""
HIDDEN = "***"


class ServerWords:
    """Appends to one run's file. What cannot be written is left out: the night goes on."""

    def __init__(self, folder: Path, key_variable: str | None = None, world: World = REAL) -> None:
        """`key_variable`: the environment variable that holds the endpoint's key."""
        self._path, self._world = folder / FILE, world
        values = [value for name, value in os.environ.items() if SECRET.search(name) or name == key_variable]
        self._secrets = sorted({v for v in values if len(v) >= SECRET_LETTERS}, key=len, reverse=True)
        self._left = BYTES_MAX
        self._times: dict[str, int] = {}
        self._lock = Lock()

    def keep(self, intent: Intent, reply: Reply) -> None:
        words, message = self._without_secrets(reply.said or ""), self._without_secrets(reply.message)
        with self._lock:
            times = self._times[words] = self._times.get(words, 0) + 1
            if times > SAME_MAX:
                return
            line = dumps(
                {
                    "at": self._world.now().isoformat(timespec="seconds"),
                    "endpoint": intent.endpoint,
                    "request_id": intent.request_id,
                    "entry_id": intent.entry_id,
                    "kind": reply.kind,
                    "message": message,
                    "said": words,
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

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text
