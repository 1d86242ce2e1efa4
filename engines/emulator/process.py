"""The emulator as its user sees it: started, asked for its bills, stopped."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.request import ProxyHandler

from thirdshift.engines.direct import opener
from thirdshift.engines.emulator.answer_key import KnownRow, write_known
from thirdshift.engines.emulator.models import BatchHabits, EmulatedModel

ROOT = Path(__file__).parents[3]
"""Where our packages lie, for an interpreter started elsewhere."""
STOP_SECONDS = 5.0
_open = opener(ProxyHandler({})).open


class EmulatorError(Exception):
    """The emulated provider could not be started, or has ended."""


@dataclass(frozen=True, slots=True)
class EmulatorSettings:
    """What the process gets on stdin at its start."""

    models: tuple[EmulatedModel, ...]
    seed: int
    known: Path
    outcomes: Path | None
    batches: BatchHabits
    port: int
    folder: Path
    """Its own, to be removed when it ends."""


class Emulator:
    """A provider on loopback, from `with` to its end.

    `items`: what is known of the requests, as rows or as the file that `write_known` made of them.
    `outcomes`: a Parquet of recorded outcomes; a request found there is answered as the model that
    `recorded_as` names answered it. Everything else is drawn from `seed`. Raises EmulatorError.
    """

    def __init__(
        self,
        models: Sequence[EmulatedModel],
        *,
        items: Path | Iterable[KnownRow] | None = None,
        outcomes: Path | None = None,
        seed: int = 0,
        batches: BatchHabits | None = None,
        port: int = 0,
    ) -> None:
        names = [model.name for model in models]
        if len(set(names)) < len(names):
            raise EmulatorError(f"two emulated models have one name: {', '.join(sorted(names))}")
        self.models = tuple(models)
        self._items = items
        self._settings = (seed, outcomes, batches or BatchHabits(), port)
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.root = ""
        """http://127.0.0.1:<port>, where both wires begin."""

    @property
    def api_base(self) -> str:
        """For OpenAI's wire."""
        return f"{self.root}/v1"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> str:
        """Start the process. Returns api_base once the server listens."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "thirdshift.engines.emulator"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the run, which may still want answers to what is in flight
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        )
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise EmulatorError("the emulated provider's process has no pipes")
        pickle.dump(self._start_settings(), stdin)
        stdin.flush()
        line = stdout.readline().decode().strip()
        if not line.isdigit():
            self.stop()
            raise EmulatorError(f"the emulated provider did not start: {line.lstrip('! ') or 'see stderr'}")
        self.root = f"http://127.0.0.1:{line}"
        return self.api_base

    def _start_settings(self) -> EmulatorSettings:
        seed, outcomes, batches, port = self._settings
        self._folder = Path(tempfile.mkdtemp(prefix="thirdshift-emulator-"))
        known = self._folder / "known.arrow"
        if isinstance(self._items, Path):
            known = self._items
        else:
            write_known(known, self._items or ())
        return EmulatorSettings(self.models, seed, known, outcomes, batches, port, self._folder)

    def books(self) -> list[dict[str, Any]]:
        """Return what it billed, an entry per answer (real time and batch); amounts as decimal strings."""
        return [json.loads(line) for line in self._get("/emulator/books").splitlines()]

    def totals(self) -> dict[str, dict[str, Any]]:
        """Return totals per model: requests, statuses, troubles, billed, right, tokens, cost_usd, most_in_flight."""
        totals: dict[str, dict[str, Any]] = json.loads(self._get("/emulator/totals"))
        return totals

    def _get(self, path: str) -> bytes:
        try:
            with _open(f"{self.root}{path}", timeout=60) as response:
                return bytes(response.read())
        except OSError as error:
            raise EmulatorError(f"the emulated provider does not answer: {error}") from error

    def stop(self) -> None:
        """End the process, if it runs."""
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
