"""Endpoints on this machine for tests: the tiny model on vLLM's CPU backend."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT, TESTS
from thirdshift.router.values import Endpoint, Price, PriceSchedule, WorkerSpec

MODEL = str(TESTS / "tiny_model")
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
    probe = """if [ "$1" = -c ]; then echo '{"vllm": true, "plugins": []}'; exit; fi"""
    python.write_text(
        f'#!/bin/sh\n{probe}\nexec "{sys.executable}" "{TESTS / "support" / "stand_in_worker.py"}"\n'
    )
    python.chmod(0o700)
    return python
