"""Endpoints on this machine for tests: the tiny model on vLLM's CPU backend."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.support.engines import MemoryJournal, request, shard
from tests.support.paths import ROOT, TESTS
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.vllm.engine import VllmEngine
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.values import Answer, Endpoint, Failure, Price, PriceSchedule, WorkerSpec

MODEL = str(TESTS / "tiny_model")
USD_PER_HOUR = Decimal(36)
"""Of a pool of stand-in workers."""
VLLM_PYTHON = os.environ.get("THIRDSHIFT_VLLM_PYTHON", str(ROOT / ".venv-vllm/bin/python"))


def worker_endpoint(
    model: str = MODEL, *, usd_per_hour: Decimal | None = None, window: int | None = None, **workers: Any
) -> Endpoint:
    """The endpoint `house`, one worker on the CPU; `workers` are WorkerSpec's fields."""
    price = PriceSchedule(Price(Decimal(0), Decimal(0)), usd_per_hour=usd_per_hour)
    spec = replace(WorkerSpec("cpu", 1, VLLM_PYTHON), **workers)
    return Endpoint("house", model, price, context_window=window, workers=spec)


def stand_in_python(folder: Path) -> Path:
    """Make what a job names as the Python that has vLLM: it says that it has, and runs the stand-in worker."""
    python = folder / "stand-in-python"
    probe = """if [ "$1" = -c ]; then echo '{"vllm": true, "plugins": ["ascend"]}'; exit; fi"""
    python.write_text(
        f'#!/bin/sh\n{probe}\nexec "{sys.executable}" "{TESTS / "support" / "stand_in_worker.py"}"\n'
    )
    python.chmod(0o700)
    return python


def pool(
    folder: Path, journal: MemoryJournal, budget: RunBudget, *, workers: int = 1, **options: Any
) -> VllmEngine:
    """A pool whose workers are the stand-in; `options` are its own, besides `startup_seconds`, `device`, and
    what the night lends: `keep`, `say`, `elsewhere`."""
    startup, keep = options.pop("startup_seconds", 60.0), options.pop("keep", None)
    device, say = options.pop("device", "cpu"), options.pop("say", list[str]().append)
    elsewhere = options.pop("elsewhere", False)
    end = worker_endpoint(
        device=device,
        usd_per_hour=USD_PER_HOUR,
        accounting_usd_per_hour=USD_PER_HOUR / 2,
        python=str(stand_in_python(folder)),
        workers=workers,
        options=options,
    )
    return VllmEngine(
        end, EngineContext(journal, budget, keep=keep, say=say, elsewhere=elsewhere), startup_seconds=startup
    )


def ask(made: VllmEngine, count: int, key: str = "key") -> list[Answer | Failure]:
    """Ask so many requests of a pool; each has one reply."""
    replies = list(
        made.collect(made.submit(shard("house", [request(n, f"add {n} 1") for n in range(count)]), key))
    )
    assert sorted(reply.row for reply in replies) == list(range(count))
    return replies
