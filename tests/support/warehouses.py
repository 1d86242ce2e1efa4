"""What the tests of files and tables share: attempts, their outcomes, and a run whose text can be looked for."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from thirdshift.router.values import (
    Answer,
    Failure,
    FailureKind,
    Intent,
    LedgerStatus,
    Mode,
    Outcome,
    Purpose,
    Usage,
)
from thirdshift.warehouse.intake.intake import InputSpec, freeze
from thirdshift.warehouse.journal.journal import FileJournal
from thirdshift.warehouse.journal.run_folder import MARKER, run_folder
from thirdshift.warehouse.store import requests, results, runs
from thirdshift.warehouse.store.ask import ask
from thirdshift.warehouse.store.ingest import ingest_parts
from thirdshift.warehouse.store.store import Warehouse

NOW = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)
COUNT = 4
"""Requests of a `secret_run`."""
WHAT = ("prompt", "output", "reasoning", "reference", "customer", "message", "logprobs")
"""What is secret of each."""


def intent(n: int, shard_id: str | None = "s1") -> Intent:
    """The intent of request `n`'s first attempt, entry `e{n}`."""
    return Intent(
        f"e{n}", "run", shard_id, n, f"r{n}", "small", "lab/small", "lab", Mode.REALTIME, Purpose.MAIN, 1,
        Decimal("0.000123456"), NOW,
    )  # fmt: skip


def outcome(n: int, text: str = "yes") -> Outcome:
    """The settled outcome of entry `e{n}`, answered with `text`."""
    reply = Answer(n, f"r{n}", text, "stop")
    return Outcome(
        f"e{n}", LedgerStatus.SETTLED, Decimal("0.0001"), NOW, Usage(3, 2, 1, 1), "small-0611", reply=reply
    )


def secret(what: str, n: int) -> str:
    """Text that compression leaves alone, so that a search of the bytes would find it."""
    return f"{what}-of-{n}-" + "".join(chr(33 + (ord(c) * (n + 7)) % 90) for c in what) + f"-{n * 7919}"


def secret_attempt(run_id: str, n: int, at: datetime, attempt: int = 1, shard: str = "s") -> Intent:
    return Intent(
        f"{run_id}-{n}-{attempt}", run_id, shard, n, f"r{n}", "small", "lab/small", "lab", Mode.REALTIME, Purpose.MAIN,
        attempt, Decimal("0.5"), at,
    )  # fmt: skip


def secret_answer(run_id: str, n: int, at: datetime) -> Outcome:
    reply = Answer(
        n, f"r{n}", secret("output", n), "stop", secret("reasoning", n), logprobs=secret("logprobs", n)
    )
    return Outcome(f"{run_id}-{n}-1", LedgerStatus.SETTLED, Decimal("0.25"), at, Usage(3, 2), reply=reply)


def secret_run(path: Path, run_id: str, at: datetime) -> Path:
    """A finished run of COUNT requests, all of whose texts are secrets: one shard answered, another one failed.

    Returns the run's folder.
    """
    source = pa.table(
        {
            "request_id": [f"r{n}" for n in range(COUNT)],
            "prompt": [secret("prompt", n) for n in range(COUNT)],
            "reference": [secret("reference", n) for n in range(COUNT)],
            "metadata": [{"who": secret("customer", n)} for n in range(COUNT)],
        }
    )
    pq.write_table(source, path.parent / "in.parquet")
    folder = run_folder(path, run_id)
    folder.mkdir(parents=True)
    (folder / MARKER).touch(0o600)
    freeze(InputSpec("in.parquet", path.parent), folder)
    (path.parent / "in.parquet").unlink()
    with FileJournal(folder) as journal:
        for n in range(COUNT):
            journal.sent([secret_attempt(run_id, n, at)])
            journal.settled([secret_answer(run_id, n, at)])
        part = journal.seal("s")
        failed = [secret_attempt(run_id, n, at, 2, "left behind") for n in range(COUNT)]
        journal.sent(failed)
        failures = [Failure(n, f"r{n}", FailureKind.REFUSED, secret("message", n)) for n in range(COUNT)]
        journal.settled(
            Outcome(i.entry_id, LedgerStatus.VOID, Decimal(0), at, reply=f)
            for i, f in zip(failed, failures, strict=True)
        )
    assert part is not None
    with Warehouse.open(path) as warehouse:
        runs.start(warehouse, {"run_id": run_id, "job": "j", "status": "running", "started_at": at})
        requests.save(warehouse, run_id, folder)
        ingest_parts(warehouse, part)
        served = pa.table({"row": range(COUNT), "endpoint": ["small"] * COUNT})
        results.compose(warehouse, run_id, served)
        runs.finish(warehouse, run_id, status="done")
    return folder


def traces(folder: Path, n: int) -> set[str]:
    """Which secrets of request `n` are in any file: raw, and as the files' own readers give them."""
    found: set[str] = set()
    for file in folder.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            texts = [data]
            if file.suffix == ".parquet":
                texts.append(str(pq.read_table(file, partitioning=None).to_pylist()).encode())
            if file.suffix == ".duckdb":
                tables = [r["name"] for r in ask(file, "show tables").to_pylist()]
                texts += [str(ask(file, f"from {table}").to_pylist()).encode() for table in tables]
            text = b"".join(_unescaped(text) for text in texts)
            found |= {what for what in WHAT if secret(what, n).encode() in text}
    return found


def _unescaped(data: bytes) -> bytes:
    """JSON and repr write a backslash and quotes twice or with one before them."""
    return data + data.replace(b"\\\\", b"\\").replace(b'\\"', b'"').replace(b"\\'", b"'")
