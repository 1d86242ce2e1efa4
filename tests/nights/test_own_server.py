"""A server of one's own, vLLM's: `init` reads what it serves, and a night there costs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from tests.support.nights import answer, ask, thirdshift
from tests.support.other_servers import free_port, running
from tests.support.workers import MODEL, VLLM_PYTHON
from thirdshift.flows.cli.demo.emulated import write_requests
from thirdshift.flows.cli.demo.exercises import items
from thirdshift.flows.jobs.job import load_job

pytestmark = pytest.mark.skipif(
    not Path(VLLM_PYTHON).exists(), reason="no interpreter with vLLM: make setup-vllm"
)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where vLLM's own server listens."""
    port = free_port()
    quiet = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [VLLM_PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", MODEL, "--served-model-name", "tiny",
               "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "512", "--enforce-eager"]  # fmt: skip
    with running(command, port, "/health", quiet) as address:
        yield address


def test_a_night_on_vllms_own_server_is_begun_by_its_address_and_costs_nothing(
    address: str, tmp_path: Path
) -> None:
    write_requests(tmp_path / "rows.parquet", list(islice(items(60), 60)))
    done = thirdshift("init", "rows.parquet", "--endpoint", address, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (endpoint,) = load_job(tmp_path / "job.yaml", environ={}).endpoints
    assert (endpoint.name, endpoint.model, endpoint.context_window) == ("tiny", "openai/tiny", 512)
    assert endpoint.api_base == f"{address}/v1"
    ended = answer(thirdshift("run", "job.yaml", "--json", cwd=tmp_path))
    assert ended["exit"] in {0, 3}  # so small a model may miss the floor
    assert (ended["results"], ended["errors"], ended["spent_usd"]) == (60, 0, 0)
    tokens = ask(
        tmp_path / "warehouse.duckdb", "select min(output_tokens) > 0, sum(cost_usd) = 0 from ledger"
    )
    assert tokens == [(True, True)]
