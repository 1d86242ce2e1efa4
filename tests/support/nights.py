"""Whole nights for tests: a job over a small batch, run by the real command line against the emulated provider."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from rich.console import Console

from tests.support.patience import PATIENCE_SECONDS
from thirdshift.engines.emulator import Emulator, KnownRow
from thirdshift.flows.console import RunConsole
from thirdshift.flows.execution.sending import run_in_threads
from thirdshift.flows.execution.stopping import process_goes_on
from thirdshift.flows.formats import jsonable
from thirdshift.flows.runs.options import RunOptions
from thirdshift.world import REAL, World

PROGRAM = Path(sys.executable).parent / "thirdshift"


def write_sums(path: Path, count: int, *, tasks: Sequence[str] = ("easy", "hard")) -> list[KnownRow]:
    """Write `count` additions with references into a Parquet file; return what a provider must know to answer them."""
    known = known_sums(count)
    rows = [
        {
            "request_id": f"r{n:05d}",
            "task": tasks[n % len(tasks)],
            "prompt": row.prompt,
            "reference": row.reference,
        }
        for n, row in enumerate(known)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return known


def known_sums(count: int) -> list[KnownRow]:
    """What an emulated provider must know to answer the additions of `write_sums`."""
    return [KnownRow(prompt=f"What is {n} plus {n * 7}?", reference=str(n * 8)) for n in range(count)]


def write_job(
    folder: Path, emulator: Emulator, endpoints: Mapping[str, Mapping[str, Any]], **keys: Any
) -> Path:
    """A job over `requests.parquet` in `folder`. `endpoints`: emulated model's name to further keys of its endpoint."""
    job = {
        "name": "sums",
        "input": "requests.parquet",
        "warehouse": "warehouse.duckdb",
        "request": {"max_tokens": 32},
        "endpoints": [
            {"name": name, "model": f"openai/{name}", "api_base": emulator.api_base, **more}
            for name, more in endpoints.items()
        ],
        **keys,
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path


def environment() -> dict[str, str]:
    """For a child process: the session's Prefect API where there is one."""
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    return {**os.environ, **({"PREFECT_API_URL": url} if url else {})}


def unwatched() -> dict[str, str]:
    """For a child process that no Prefect server watches."""
    return {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}


def thirdshift(
    *words: str | Path, timeout: float = PATIENCE_SECONDS, cwd: Path | None = None, watched: bool = False
) -> subprocess.CompletedProcess[str]:
    """The command, as a user runs it; `watched`: by the session's Prefect server, which the test must have."""
    return subprocess.run(
        [PROGRAM, *map(str, words)],
        env=environment() if watched else unwatched(),
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        check=False,
    )


@dataclass(frozen=True, slots=True)
class Here:
    """How a night ended that was not run by the command."""

    code: int
    summary: dict[str, Any]
    said: str


def night_here(job: Path, run_id: str, *, world: World = REAL, **call: Any) -> Here:
    """A night in threads of this process, as the command runs it without a server. `call`: further options."""
    printed = io.StringIO()
    console = RunConsole(Console(file=printed, width=500))
    with process_goes_on():
        summary = run_in_threads(RunOptions(job=job, run_id=run_id, **call), console, world=world)
    return Here(
        summary.exit_code, json.loads(json.dumps(asdict(summary), default=jsonable)), printed.getvalue()
    )


def start(*words: str | Path) -> subprocess.Popen[str]:
    """The command in the background, to be killed."""
    return subprocess.Popen(
        [PROGRAM, *map(str, words)],
        env=unwatched(),
        stdout=subprocess.DEVNULL,
        text=True,
    )


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one JSON object on stdout."""
    assert done.stdout, done.stderr
    data: dict[str, Any] = json.loads(done.stdout)
    return data


def ask(warehouse: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(warehouse), read_only=True) as con:
        return con.execute(sql).fetchall()
