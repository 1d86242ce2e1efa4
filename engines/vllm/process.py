"""One worker process: started and pinned to its devices, written to, read from, ended."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from thirdshift.engines.core.json import dumps, loads
from thirdshift.engines.devices import width
from thirdshift.engines.devices.allocation import Allocation
from thirdshift.engines.devices.energy import joules
from thirdshift.engines.vllm.engine_log import EngineLog
from thirdshift.engines.vllm.keys import without_secrets
from thirdshift.engines.vllm.reasoners import REASONERS
from thirdshift.engines.vllm.shared_memory import SharedMemory
from thirdshift.router.values import JSON, WorkerSpec

PROGRAM = Path(__file__).with_name("worker.py")
READ_BYTES = 1 << 20
END_SECONDS = 3.0
"""What a dead worker has said is waited for so long."""
CPU_CACHE_GIB = 1
"""vLLM asks for a size on CPUs; a job may say another by `kv_cache_memory_bytes`, and the environment overrides both."""
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""OpenMP's threads wait for each other spinning, and where another process wants the core they spin against it: 300
short answers of the tiny model took 24 to 28 s beside four busy processes on two cores, with sleeping threads 3.5 to
3.9 s, and the same 0.5 s on an idle machine (2026-11-22, load 18.6)."""
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "TQDM_DISABLE": "1", "PYTHONUNBUFFERED": "1"}
"""Nothing is reported to anybody, and no progress bars in the log."""


class WorkerProcess(Protocol):
    """A worker that is up, wherever it runs."""

    pid: int
    """The worker's process id, on the machine that it runs on."""

    def send(self, messages: Iterable[Mapping[str, JSON]]) -> None:
        """Send messages without waiting for the worker's engine. Raises ProcessEnded."""

    def receive(self, seconds: float) -> list[dict[str, Any]]:
        """Return the messages that have come, waiting at most so long. Raises ProcessEnded when none will come any more."""

    def wake_reader(self) -> None:
        """Let `receive` return at once."""

    def end(self, seconds: float = 0.0) -> str:
        """Ask it to stop, wait so long, then kill it and all that it started. Returns how it ended: `was killed`."""


class Place(Protocol):
    """Where one worker of several can run: the devices are its own from now on, until it ends or the place is released."""

    @property
    def node(self) -> str:
        """The machine's name."""

    @property
    def hardware(self) -> str:
        """What the worker runs on there, as in the table `rates`."""

    @property
    def rented(self) -> tuple[str, ...]:
        """What names the devices or the machine that are paid for; empty: any other of the endpoint is as good."""

    @property
    def found_at(self) -> float | None:
        """Since when its time is paid, on the monotonic clock; None: from the worker's start on."""

    def start(self, model: str, options: Mapping[str, JSON], log: EngineLog) -> WorkerProcess:
        """Start the worker. What it logs goes to `log`."""

    def joules(self) -> float | None:
        """Return what its devices have drawn so far, by their counters; None where they tell nothing."""

    def release(self) -> None:
        """Give the place back: no worker was started."""


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """Devices or cores of this machine."""

    python: str
    environment: Mapping[str, str]
    cores: tuple[int, ...] = ()
    hardware: str = ""
    node: str = platform.node()
    found_at: float | None = None
    device: str | None = None
    """What its vLLM must be built for."""
    allocation: Allocation | None = None
    """The devices, until the worker has ended."""

    @property
    def rented(self) -> tuple[str, ...]:
        """Cores are no rental: any are as good."""
        devices = () if self.allocation is None else self.allocation.devices
        return tuple(device.lock_name for device in devices if device.kind != "cpu")

    def start(self, model: str, options: Mapping[str, JSON], log: EngineLog) -> WorkerProcess:
        return Process(self, model, options, log)

    def joules(self) -> float | None:
        cards = () if self.allocation is None else self.allocation.devices
        return joules([card.uuid for card in cards if card.kind == "cuda"])

    def release(self) -> None:
        if self.allocation is not None:
            self.allocation.release()


def cpu_environment(spec: WorkerSpec, own_cores: Iterable[int]) -> dict[str, str]:
    """Return the variables of a worker on the processor; those that are set here stand."""
    variables = {
        "VLLM_CPU_KVCACHE_SPACE": str(CPU_CACHE_GIB),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, own_cores)),
        "VLLM_TARGET_DEVICE": "cpu",
        **PATIENT,
    }
    if "kv_cache_memory_bytes" in spec.options:
        del variables["VLLM_CPU_KVCACHE_SPACE"]  # which would override it
    if width(spec.options) == 1:
        variables["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # ready after 5 s instead of 32 (FACTS)
    else:
        del variables["VLLM_CPU_OMP_THREADS_BIND"]  # one set per rank: vLLM's own choice
    return {name: os.environ.get(name, value) for name, value in variables.items()}


class ProcessEnded(Exception):
    """The worker's process has ended."""


class Process:
    """A worker on this machine. Made on a thread that outlives it: it dies with the thread that made it."""

    def __init__(self, where: LocalPlace, model: str, options: Mapping[str, JSON], log: EngineLog) -> None:
        self._log, self._where = log, where
        self._received: SimpleQueue[list[dict[str, Any]] | None] = SimpleQueue()
        self._ended: str | None = None
        (asked, to), (answers, out), (errors, err) = os.pipe(), os.pipe(), os.pipe()
        self._popen = subprocess.Popen(
            (where.python, str(PROGRAM)),
            stdin=asked,
            stdout=out,
            stderr=err,
            env={**without_secrets(os.environ, model), **QUIET, **where.environment},
            pass_fds=() if where.allocation is None else where.allocation.descriptors,
            start_new_session=True,
        )
        for theirs in (asked, out, err):
            os.close(theirs)
        self._to, self._answers, self._errors = os.fdopen(to, "wb"), answers, os.fdopen(errors, "rb")
        self.pid = self._popen.pid
        self._shared = SharedMemory(self.pid)
        self._readers = [
            threading.Thread(target=read, name=f"worker {self.pid} {read.__name__}", daemon=True)
            for read in (self._read_answers, self._read_log)
        ]
        for reader in self._readers:
            reader.start()
        hello = {
            "model": model,
            "options": dict(options),
            "parent": os.getpid(),
            "cores": where.cores,
            "device": where.device,
            "reasoners": REASONERS,
        }
        with suppress(ProcessEnded):  # whoever reads finds out
            self.send((hello,))

    def send(self, messages: Iterable[Mapping[str, JSON]]) -> None:
        """Send messages. The worker reads on a thread of its own, so this does not wait for its engine.

        Raises ProcessEnded.
        """
        try:
            self._to.write(b"".join(dumps(message) + b"\n" for message in messages))
            self._to.flush()
        except (OSError, ValueError) as error:
            raise ProcessEnded from error

    def receive(self, seconds: float) -> list[dict[str, Any]]:
        """Return the messages that have come, waiting at most so long. Raises ProcessEnded when none will come any more."""
        received = []
        with suppress(Empty):
            received.append(self._received.get(timeout=seconds))
            while received[-1] is not None:
                received.append(self._received.get_nowait())
        messages = [message for lot in received if lot is not None for message in lot]
        if any(message["op"] == "ready" for message in messages):
            self._shared.look()
        if received and received[-1] is None:
            self._received.put(None)
            if not messages:
                raise ProcessEnded
        return messages

    def wake_reader(self) -> None:
        """Let `receive` return at once."""
        self._received.put([])

    def end(self, seconds: float = 0.0) -> str:
        """Ask it to stop, wait so long, then kill it and all that it started. Returns how it ended."""
        if self._ended is not None:  # its number may be another's by now
            return self._ended
        if seconds:
            with suppress(ProcessEnded, subprocess.TimeoutExpired):
                self.send(({"op": "stop"},))
                self._popen.wait(seconds)
        self._shared.look()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        status = self._popen.wait()
        self._shared.unlink()
        give_up = time.monotonic() + END_SECONDS
        for reader in self._readers:
            reader.join(max(0.0, give_up - time.monotonic()))
        with suppress(OSError):
            self._to.close()
        self._where.release()
        self._ended = ending(status)
        return self._ended

    def _read_answers(self) -> None:
        rest = b""
        while data := os.read(self._answers, READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            if messages := list(messages_in(lines, self._log)):
                self._received.put(messages)
        os.close(self._answers)
        self._received.put(None)

    def _read_log(self) -> None:
        with (
            self._errors
        ):  # closed here: who closes it beside a read waits for whatever has the log open still
            for line in self._errors:
                self._log.add(line.decode(errors="replace"))


def messages_in(lines: Iterable[bytes], log: EngineLog) -> Iterator[dict[str, Any]]:
    """Read a worker's messages. What is none (the banner that an image's Python begins with) goes to the log."""
    for line in lines:
        try:
            message = loads(line)
        except ValueError:
            message = None
        if isinstance(message, dict) and "op" in message:
            yield message
        else:
            log.add(line.decode(errors="replace"))


def ending(status: int) -> str:
    """Say how a process ended: `was killed (SIGKILL)`, `ended with status 1`."""
    if status < 0:
        known = -status in set(signal.Signals)
        return f"was killed ({signal.Signals(-status).name if known else f'signal {-status}'})"
    return f"ended with status {status}"
