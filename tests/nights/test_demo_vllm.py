"""A whole night with real workers: the demo on real inference, small."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.support.nights import thirdshift
from tests.support.paths import ROOT
from thirdshift.flows.cli.demo.vllm import MODELS
from thirdshift.flows.jobs.building import vllm_python
from thirdshift.warehouse.store.ask import ask

pytestmark = [
    pytest.mark.skipif(not vllm_python().exists(), reason="no interpreter with vLLM: make setup-vllm"),
]
LEDGER = """
select w.endpoint, w.pid, epoch(w.stopped_at - w.started_at) as seconds, w.usd_per_hour::double as usd_per_hour,
       (select sum(cost_usd)::double from ledger l where l.provider_ref = w.worker_id) as paid
from workers w
"""


def test_a_night_with_real_workers_is_paid_to_the_second_and_measured(tmp_path: Path) -> None:
    done = thirdshift("demo", "--vllm", "--folder", tmp_path, "--requests", "40", cwd=ROOT)
    assert done.returncode in {0, 3}, done.stderr  # so few may miss the floor
    assert "invented" in done.stdout
    assert "a guess for cpu until a first night has measured it" in done.stderr
    warehouse = tmp_path / "warehouse.duckdb"
    results = ask(warehouse, "select count(*) as n, count(error) as errors from results").to_pylist()
    assert results == [{"n": 40, "errors": 0}]
    worker_lifetimes = ask(warehouse, LEDGER).to_pylist()
    started = {life["endpoint"] for life in worker_lifetimes}
    assert started, "one that is not worth its start is left out"
    assert started <= set(MODELS)
    for life in worker_lifetimes:
        assert abs(life["paid"] / life["usd_per_hour"] * 3600 - life["seconds"]) < 1
        assert not psutil.pid_exists(life["pid"])
    rates = ask(warehouse, "select endpoint from rates where decode_tokens_per_second > 0")
    assert set(rates["endpoint"].to_pylist()) == started
