"""Endpoints on this machine for tests: the tiny model on vLLM's CPU backend."""

from __future__ import annotations

import os
from dataclasses import replace
from decimal import Decimal
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
