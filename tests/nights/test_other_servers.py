"""Servers of other projects, the real ones: llama.cpp's, and litellm's proxy behind a key."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import pytest
import yaml

from tests.support.nights import answer, ask, known_sums, night_here, thirdshift, write_sums
from tests.support.other_servers import PROXY_KEY, litellm_proxy, llama_cpp
from tests.support.servers import cheap, dear, emulated
from tests.support.workers import MODEL
from thirdshift.engines.emulator import Emulator
from thirdshift.flows.cli.demo.emulated import write_requests
from thirdshift.flows.cli.demo.exercises import Item, items
from thirdshift.flows.init.servers import NoModels, served_at
from thirdshift.flows.jobs.job import load_job

SLOTS = 4
SLOT_TOKENS = 512
LONG = Item("long", "add", "add " + "1" * 2 * SLOT_TOKENS, "1", 0.0)
KEY_VARIABLE = "PROXY_KEY"


# --- llama.cpp --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if find_spec("xllamacpp") is None or find_spec("gguf") is None:
        pytest.skip("no llama.cpp here: make setup-dev")
    with llama_cpp(tmp_path_factory.mktemp("llama"), Path(MODEL), SLOTS, SLOTS * SLOT_TOKENS) as address:
        yield address


def test_llama_cpps_server_is_begun_by_its_address_with_the_context_of_a_slot(
    llama: str, tmp_path: Path
) -> None:
    write_requests(tmp_path / "rows.parquet", [*islice(items(60), 60), LONG])
    done = thirdshift("init", "rows.parquet", "--endpoint", llama, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (endpoint,) = load_job(tmp_path / "job.yaml", environ={}).endpoints
    assert (endpoint.api_base, endpoint.context_window) == (f"{llama}/v1", SLOT_TOKENS)
    ended = answer(thirdshift("run", "job.yaml", "--json", cwd=tmp_path))
    assert ended["exit"] in {0, 3}  # so small a model may miss the floor
    assert (ended["results"], ended["errors"], ended["spent_usd"]) == (60, 0, 0)
    assert ended["mean_score"] > 0.3
    warehouse = tmp_path / "warehouse.duckdb"
    assert ask(warehouse, "select request_id from rejects") == [("long",)]
    tokens = ask(warehouse, "select min(input_tokens) > 0, min(output_tokens) > 0 from ledger")
    assert tokens == [(True, True)]


def test_what_does_not_fit_llama_cpps_slot_is_the_requests_fault_alone(llama: str, tmp_path: Path) -> None:
    write_requests(tmp_path / "rows.parquet", [*islice(items(8), 8), LONG])
    endpoint = {
        "name": "ours",
        "model": "openai/any",
        "api_base": f"{llama}/v1",
        "price": {"input": 1, "output": 1},
    }
    job = {"name": "long", "input": "rows.parquet", "request": {"max_tokens": 32}, "endpoints": [endpoint]}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    ended = night_here(tmp_path / "job.yaml", "one")
    assert (ended.code, ended.summary["results"], ended.summary["errors"]) == (6, 9, 1)
    warehouse = tmp_path / "warehouse.duckdb"
    failed = ask(
        warehouse, "select request_id, split_part(error, ':', 1) from results where error is not null"
    )
    assert failed == [("long", "context_overflow")]
    assert ask(warehouse, "select status, count(*) from ledger group by all order by all") == [
        ("settled", 8),
        ("void", 1),
    ]


# --- litellm's proxy --------------------------------------------------------------------------------------------------

SUMS = 30


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with emulated(
        [cheap(latency_seconds=0.0), dear(latency_seconds=0.0)], items=known_sums(SUMS)
    ) as provider:
        yield provider


@pytest.fixture(scope="module")
def proxy(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A proxy over the emulated provider; what may be spent at `metered` is used up by its first answers."""
    if find_spec("apscheduler") is None or find_spec("fastapi_sso") is None:
        pytest.skip("what litellm's proxy needs is not here: make setup-dev")
    behind = {"api_base": emulator.api_base, "api_key": "none"}
    metered = {
        "input_cost_per_token": 1e-3,
        "output_cost_per_token": 1e-3,
        "max_budget": 1e-3,
        "budget_duration": "1d",
    }
    deployments = {
        "team-small": {"model": "openai/cheap", **behind},
        "metered": {"model": "openai/dear", **behind, **metered},
    }
    with litellm_proxy(tmp_path_factory.mktemp("proxy"), deployments) as address:
        yield address


def test_litellms_proxy_is_begun_by_its_address_and_the_name_of_its_key(
    proxy: str, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sums(tmp_path / "rows.parquet", SUMS)
    with pytest.raises(NoModels, match="--api-key-env"):
        served_at(proxy)
    with pytest.raises(NoModels, match="does not take the key"):
        served_at(proxy, "sk-another")
    monkeypatch.setenv(KEY_VARIABLE, PROXY_KEY)
    done = thirdshift(
        "init", "rows.parquet", "--endpoint", proxy, "--api-key-env", KEY_VARIABLE, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert PROXY_KEY not in (tmp_path / "job.yaml").read_text() + done.stdout
    job = yaml.safe_load((tmp_path / "job.yaml").read_text())
    assert {part["name"]: part["api_key_env"] for part in job["endpoints"]} == {
        "team-small": KEY_VARIABLE,
        "metered": KEY_VARIABLE,
    }
    job["endpoints"] = [part | {"price": {"input": 0.1, "output": 0.4}} for part in job["endpoints"][:1]]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    ended = night_here(tmp_path / "job.yaml", "one")
    assert (ended.summary["results"], ended.summary["errors"]) == (SUMS, 0), ended.said
    books = [entry for entry in emulator.books() if entry["model"] == "cheap"]
    billed = sum(Decimal(entry["cost_usd"]) for entry in books)
    warehouse = tmp_path / "warehouse.duckdb"
    assert ask(warehouse, "select sum(cost_usd), count(*) from ledger where status = 'settled'") == [
        (billed, len(books))
    ]


def test_a_budget_that_the_proxy_says_is_spent_sends_the_rest_elsewhere(
    proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sums(tmp_path / "rows.parquet", SUMS)
    monkeypatch.setenv(KEY_VARIABLE, PROXY_KEY)
    behind = {"api_base": f"{proxy}/v1", "api_key_env": KEY_VARIABLE, "limits": {"concurrency": 2}}
    endpoints = [
        {"name": "metered", "model": "openai/metered", "price": {"input": 0.1, "output": 0.4}, **behind},
        {"name": "small", "model": "openai/team-small", "price": {"input": 5, "output": 25}, **behind},
    ]
    job = {"name": "spent", "input": "rows.parquet", "request": {"max_tokens": 32}, "endpoints": endpoints}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    ended = night_here(tmp_path / "job.yaml", "one")
    assert (ended.code, ended.summary["results"], ended.summary["errors"]) == (0, SUMS, 0), ended.said
    served = dict(ask(tmp_path / "warehouse.duckdb", "select endpoint, count(*) from results group by all"))
    assert 0 < served["metered"] < SUMS
    assert served["small"] == SUMS - served["metered"]
