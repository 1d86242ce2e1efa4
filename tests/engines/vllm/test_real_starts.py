"""A start that real vLLM refuses: its log is kept, its words are read, and the next start asks for what it said fits."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from tests.support.engines import MemoryJournal, request, shard
from tests.support.workers import VLLM_PYTHON, worker_endpoint
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.vllm.engine import VllmEngine
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.values import Answer


@pytest.mark.skipif(not Path(VLLM_PYTHON).exists(), reason="no interpreter with vLLM: make setup-vllm")
def test_a_context_that_does_not_fit_is_asked_for_again_as_long_as_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model keeps 512 bytes of a token: 256 KiB hold a quarter of the 2,048 that are asked for."""
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    journal, budget = MemoryJournal(), RunBudget(Decimal(10))
    house = worker_endpoint(
        usd_per_hour=Decimal("3.6"), options={"kv_cache_memory_bytes": 1 << 18, "max_model_len": 2048}
    )
    made = VllmEngine(house, EngineContext(journal, budget, keep=tmp_path))
    replies = list(made.collect(made.submit(shard("house", [request(0, "add 3 4", 8)]), "key")))
    made.close()
    assert [type(reply) for reply in replies] == [Answer], replies
    first, second = made.worker_lifetimes()
    assert first.ready_at is None
    assert second.ready_at is not None
    logs = sorted((tmp_path / "workers").iterdir())
    assert [path.name for path in logs] == [
        f"{life.worker_id.replace('#', '.')}.log" for life in (first, second)
    ]
    assert "larger than the available KV cache memory" in logs[0].read_text()
    assert journal.cost == budget.spent_usd == first.cost_usd + second.cost_usd
