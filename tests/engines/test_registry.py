"""Adapters are named, then loaded."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest

from tests.support.paths import ROOT
from thirdshift.engines.batch.openai import OpenAIBatches
from thirdshift.engines.batch.providers import wire_for
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.errors import MissingExtraError
from thirdshift.engines.registry import (
    ADAPTERS,
    adapter_of,
    batch_tiers,
    engine_for,
)
from thirdshift.engines.wires.openai import Bodies
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.values import Endpoint, Mode, Price, PriceSchedule, WorkerSpec

PRICE = PriceSchedule(Price(Decimal(1), Decimal(2)))


class Nowhere:
    def sent(self, intents: Any) -> None: ...

    def settled(self, outcomes: Any) -> None: ...


@pytest.mark.parametrize(
    ("endpoint", "adapter"),
    [
        (Endpoint("e", "anthropic/claude", PRICE), "litellm"),
        (Endpoint("e", "openai/gpt", PRICE), "openai wire"),
        (Endpoint("e", "deepseek/x", PRICE, api_base="http://127.0.0.1:1/v1"), "openai wire"),
        (Endpoint("e", "openai/gpt", PRICE, Mode.FLEX), "openai wire"),
        (Endpoint("e", "openai/gpt", PRICE, Mode.BATCH), "batch"),
        (Endpoint("e", "path", PRICE, workers=WorkerSpec("cpu", 1, "python")), "vllm"),
    ],
)
def test_the_adapter_is_told_by_what_the_endpoint_is(endpoint: Endpoint, adapter: str) -> None:
    assert adapter_of(endpoint) == adapter
    assert adapter in ADAPTERS


def test_a_missing_package_gives_one_sentence_and_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "litellm", None)
    with pytest.raises(
        MissingExtraError, match=r"endpoint far needs the package litellm, .*pip install litellm"
    ):
        engine_for(Endpoint("far", "anthropic/claude", PRICE), EngineContext(Nowhere(), RunBudget(None)))


def test_a_run_on_openai_compatible_servers_imports_neither_litellm_nor_vllm() -> None:
    code = (
        "import sys; from thirdshift.engines.registry import engine_for; "
        "import thirdshift.engines.realtime.engine, thirdshift.engines.batch.engine; "
        "print([m for m in ('litellm', 'vllm', 'httpx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_azures_batches_are_reached_at_its_own_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AZURE_API_BASE", "https://mine.openai.azure.com/")
    monkeypatch.setenv("AZURE_API_KEY", "secret")
    endpoint = Endpoint("e", "azure/mine", PRICE, Mode.BATCH)
    wire = wire_for(endpoint, Bodies(endpoint), None)
    assert isinstance(wire, OpenAIBatches)
    assert wire._http._base == "https://mine.openai.azure.com/openai/v1"
    assert wire._http._headers == {"api-key": "secret"}
    assert "azure" in batch_tiers()
