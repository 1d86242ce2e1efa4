"""A seat: what a Ray actor does that holds one vLLM worker. Standard library only: nodes need nothing of ours.

The class, what it calls of other modules and the worker's program travel to the node with the actor. The worker is a child
of the actor's process, tied to it (`worker.tie_to`): whatever ends the actor, kill -9 included, ends the worker. Ray ends
the actor with the process that asked for it; should Ray itself be cut off from that process, the seat ends when nobody has
polled it for a while, and at once where the Ray of its node is gone.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any

from thirdshift.engines.devices.energy import joules
from thirdshift.engines.vllm.keys import without_secrets

LINGER_SECONDS = 0.02
"""Answers that come so soon after each other travel in one block."""
LOOK_SECONDS = 0.5
LOG_LINES = 200
READ_BYTES = 1 << 20
PROBE_SECONDS = 60.0


def look(python: str | None, model: str, probe: str) -> dict[str, Any]:
    """Return what a worker would find here: the machine's name, cores and devices, its interpreter's vLLM, the model."""
    path = sys.executable if python is None else shutil.which(python)
    is_path = model.startswith((".", "/", "~")) or model.count("/") > 1
    here = Path(model).expanduser() / "config.json"
    return {
        "node": platform.node(),
        "cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
        "visible": {
            name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES")
        },
        "nvidia": _printed(
            "nvidia-smi",
            "--query-gpu=index,uuid,name,memory.total,memory.free,mig.mode.current",
            "--format=csv,noheader,nounits",
        ),
        "nvidia_parts": _printed("nvidia-smi", "-L"),
        "ascend": _printed("npu-smi", "info"),
        "python": path,
        "packages": None if path is None else _printed(path, "-c", probe),
        "model": not is_path or here.is_file(),
    }


def _printed(program: str, *arguments: str) -> str:
    path = shutil.which(program)
    if path is None:
        return ""
    try:
        done = subprocess.run(
            (path, *arguments), capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


class Seat:
    """Starts one worker, passes lines to it and keeps what it says until it is polled."""

    def __init__(
        self,
        program: str,
        silence_seconds: float,
        counters: Callable[[Sequence[str]], float | None] = joules,
    ) -> None:
        """`program`: the worker's text. `silence_seconds`: after so long without a poll the seat ends. `counters` tell what
        cards have drawn in all."""
        self._program, self._counters = program, counters
        self._cards: Sequence[str] = ()
        self._drawn_before: float | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        self._said: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        """What has come of the worker: ("data", bytes), ("log", a line), ("ended", status)."""
        self._polled = time.monotonic()
        threading.Thread(target=self._watch, args=(silence_seconds,), daemon=True).start()

    def look(self, python: str | None, model: str, probe: str) -> dict[str, Any]:
        """See the function of this name."""
        self._polled = time.monotonic()
        return look(python, model, probe)

    def start(
        self, python: str, hello: dict[str, Any], environment: dict[str, str], cards: Sequence[str] = ()
    ) -> int:
        """Start the worker and return its process id. `cards`: UUIDs of those whose energy is to be told of."""
        self._cards, self._drawn_before = cards, self._counters(cards) if cards else None
        begun: SimpleQueue[int | BaseException] = SimpleQueue()
        keeper = threading.Thread(target=self._keep, args=(python, hello, environment, begun), daemon=True)
        keeper.start()  # the worker dies with the thread that started it
        pid = begun.get()
        if isinstance(pid, BaseException):
            raise pid
        return pid

    def send(self, block: bytes) -> None:
        """Pass lines on to the worker; one that has ended is told of by `poll`."""
        pipe = self._popen.stdin if self._popen is not None else None
        if pipe is None:
            return
        with suppress(OSError, ValueError):
            pipe.write(block)
            pipe.flush()

    def poll(self, seconds: float) -> tuple[bytes, list[str], int | None, float | None]:
        """Return what the worker has said: whole lines, lines of its log, its exit status once it has ended; and the joules
        that its cards have drawn since it was started, None where they do not tell."""
        self._polled = time.monotonic()
        data: list[Any] = []
        log: list[Any] = []
        status: int | None = None
        with suppress(Empty):
            kind, what = self._said.get(timeout=seconds)
            until = time.monotonic() + LINGER_SECONDS
            while kind != "ended":
                (data if kind == "data" else log).append(what)
                kind, what = self._said.get(timeout=max(0.0, until - time.monotonic()))
            status = what
        self._polled = time.monotonic()
        return b"".join(data), log[-LOG_LINES:], status, self._drawn()

    def _drawn(self) -> float | None:
        now = None if self._drawn_before is None else self._counters(self._cards)
        return None if now is None or self._drawn_before is None else now - self._drawn_before

    def end(self) -> None:
        """Kill the worker and all that it started."""
        if self._popen is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait()

    # --- threads ---

    def _watch(self, silence_seconds: float) -> None:
        node = os.getppid()  # Ray's own process there, without which nobody would end this one
        while time.monotonic() - self._polled < silence_seconds and os.getppid() == node:
            time.sleep(min(LOOK_SECONDS, silence_seconds / 10))
        os._exit(1)

    def _keep(
        self,
        python: str,
        hello: dict[str, Any],
        environment: dict[str, str],
        begun: SimpleQueue[int | BaseException],
    ) -> None:
        folder = Path(tempfile.mkdtemp(prefix="thirdshift-seat-"))
        try:
            path = folder / "worker.py"
            path.write_text(self._program, encoding="utf-8")
            self._popen = popen = subprocess.Popen(
                (python, path),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**without_secrets(os.environ, str(hello.get("model", ""))), **environment},
                start_new_session=True,
            )
        except BaseException as error:  # noqa: BLE001 - raised where it was asked
            shutil.rmtree(folder, ignore_errors=True)
            begun.put(error)
            return
        pipes = (self._read_answers, popen.stdout), (self._read_log, popen.stderr)
        readers = [threading.Thread(target=read, args=(pipe,), daemon=True) for read, pipe in pipes]
        for reader in readers:
            reader.start()
        self.send(json.dumps({**hello, "parent": os.getpid()}).encode() + b"\n")
        begun.put(popen.pid)
        status = popen.wait()
        for reader in readers:
            reader.join(5.0)
        shutil.rmtree(folder, ignore_errors=True)
        self._said.put(("ended", status))

    def _read_answers(self, pipe: IO[bytes]) -> None:
        rest = b""
        while data := os.read(pipe.fileno(), READ_BYTES):
            whole, newline, rest = (rest + data).rpartition(b"\n")
            if newline:
                self._said.put(("data", whole + newline))

    def _read_log(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            text = line.decode(errors="replace").strip()
            if text:
                sys.stderr.write(f"{text}\n")  # Ray's dashboard shows it
                self._said.put(("log", text[:400]))
