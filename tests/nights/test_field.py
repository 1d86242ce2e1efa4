"""Every model of the catalogue answers in a night: by a provider that sells it, or by a server that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.support.nights import answer, ask, thirdshift
from thirdshift.flows.models.listing import names_of
from thirdshift.flows.models.registry import load_registry

ONE_PRICE = {"factor": 1}
"""At any hour: in those that are dearer a night without a deadline waits for the others."""
ENDPOINTS: Mapping[str, Mapping[str, Any]] = {
    "DeepSeek V4 Pro": {"model": "deepseek/deepseek-v4-pro", "off_peak": ONE_PRICE},
    "DeepSeek V4 Flash": {"model": "deepseek/deepseek-v4-flash", "off_peak": ONE_PRICE},
    "Kimi K2.6": {"model": "moonshot/kimi-k2.6"},
    "Qwen3.6-27B": {"engine": "vllm", "model": "Qwen/Qwen3.6-27B", "device": "cuda", "usd_per_hour": 2.49},
    "Qwen3.6-35B-A3B": {"model": "deepinfra/Qwen/Qwen3.6-35B-A3B"},
    "Qwen3.6-Plus": {"model": "together_ai/Qwen/Qwen3.6-Plus"},
    "Qwen3.5-397B-A17B": {"model": "novita/qwen/qwen3.5-397b-a17b"},
    "Qwen3.7-Max": {"model": "dashscope/qwen3.7-max"},
    "GLM-5": {"model": "zai/glm-5"},
    "GLM-5.1": {"model": "fireworks_ai/accounts/fireworks/models/glm-5p1"},
    "MiniMax M2.7": {"model": "novita/minimax/minimax-m2.7"},
    "MiMo V2.5": {"model": "novita/xiaomimimo/mimo-v2.5"},
    "MiMo V2.5 Pro": {"model": "novita/xiaomimimo/mimo-v2.5-pro"},
    "ERNIE 5.1": {"model": "aihubmix/ernie-5.1"},
    "Hunyuan 3": {"model": "novita/tencent/hy3"},
    "Claude Opus 4.7": {"model": "anthropic/claude-opus-4-7", "mode": "batch"},
    "Claude Opus 4.6": {"model": "anthropic/claude-opus-4-6", "mode": "batch"},
    "Claude Opus 4.8": {"model": "anthropic/claude-opus-4-8"},
    "GPT-5.5": {"model": "openai/gpt-5.5", "mode": "batch"},
    "GPT-5.4": {"model": "openai/gpt-5.4"},
    "GPT-5.4 xHigh": {"model": "openai/gpt-5.4", "params": {"reasoning_effort": "xhigh"}},
    "GPT-5.4 mini": {"model": "openai/gpt-5.4-mini"},
    "GPT-5": {"model": "openai/gpt-5"},
    "Gemini 3.1 Pro": {"model": "gemini/gemini-3.1-pro-preview"},
    "Gemini 3.0 Pro": {"model": "vertex_ai/gemini-3-pro-preview"},
    "GPT-OSS": {"model": "groq/openai/gpt-oss-120b"},
    "Mistral Small 4": {"model": "mistral/mistral-small-2603"},
    "Hermes 4": {"model": "nebius/NousResearch/Hermes-4-70B"},
    "Llama 4": {"model": "deepinfra/meta-llama/Llama-4-Scout-17B-16E-Instruct"},
    # nobody is known to sell these under a name of litellm's: a server that speaks OpenAI's wire
    "SenseNova U1": {"model": "openai/SenseNova-U1", "price": {"input": 1, "output": 4}},
    "Dola-Seed-2.0 Preview": {"model": "openai/dola-seed-2.0-preview", "price": {"input": 1, "output": 4}},
    "Gemini 3.1 Ultra": {"model": "openai/gemini-3.1-ultra", "price": {"input": 4, "output": 24}},
}
ENDPOINT_OF = {name.replace(" ", "-"): name for name in ENDPOINTS}
UNSOLD = {"SenseNova U1", "Dola-Seed-2.0 Preview", "Gemini 3.1 Ultra"}
SELF_HOSTED = {"Qwen3.6-27B"}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A row for each model, which its policy leaves no other endpoint to."""
    folder = tmp_path_factory.mktemp("field")
    names = list(ENDPOINT_OF)
    rows = {"request_id": names, "prompt": [f"Who are you, {name}?" for name in names], "policy": names}
    pq.write_table(pa.table(rows), folder / "rows.parquet")
    endpoints = [
        {
            "name": name.replace(" ", "-"),
            "lab": name.replace(" ", "-"),
            "quality_prior": 0.8,
            "api_key_env": "A_KEY",
            **said,
        }
        | ({"api_base": "http://127.0.0.1:9/v1"} if name in UNSOLD else {})
        for name, said in ENDPOINTS.items()
    ]
    for endpoint in endpoints:
        if endpoint.get("engine"):
            del endpoint["api_key_env"]
    text = {
        "name": "field",
        "input": "rows.parquet",
        "request": {"max_tokens": 64},
        "quality": {"pilot": 0},
        "budget": {"cap_usd": 50},
        "policies": {name: {"labs": {"allow": [name]}} for name in names},
        "endpoints": endpoints,
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(text, sort_keys=False), "utf-8")
    return folder / "job.yaml"


def test_every_model_of_the_catalogue_has_an_endpoint_by_who_sells_it_or_runs_it() -> None:
    known = load_registry()
    assert {model.name for model in known.catalogue.models} == set(ENDPOINTS)
    for model in known.catalogue.models:
        names = names_of(known, model)
        if model.name in UNSOLD | SELF_HOSTED:
            continue
        wanted = ENDPOINTS[model.name]["model"]
        sold = names or names_of(
            known, known.catalogue.find("gpt-5.4") or model
        )  # xHigh is a parameter's value
        assert {wanted, wanted.partition("/")[2]} & set(sold), (model.name, sold)


def test_a_job_with_every_model_of_the_field_is_planned(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "a-key")
    planned = answer(thirdshift("plan", job, "--json"))
    assert planned["feasible"]
    assert {name: share["requests"] for name, share in planned["endpoints"].items()} == dict.fromkeys(
        ENDPOINT_OF, 1
    )
    assert all(share["cost_usd"] > 0 for share in planned["endpoints"].values())


def test_a_job_with_every_model_of_the_field_is_rehearsed_each_at_its_price(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "a-key")
    done = thirdshift("rehearse", job, "--json")
    assert answer(done)["exit"] == 0, done.stderr
    paid = ask(
        job.parent / "warehouse.rehearsal.duckdb",
        "select endpoint, model, mode, sum(cost_usd) > 0 from ledger where request_id is not null group by all",
    )
    assert sorted(name for name, *_ in paid) == sorted(ENDPOINT_OF)
    for endpoint, model, mode, something in paid:
        name = ENDPOINT_OF[endpoint]
        assert model == ENDPOINTS[name]["model"]
        assert mode == ENDPOINTS[name].get("mode", "realtime")
        assert something or name in SELF_HOSTED  # a worker is paid by the hour
    assert ask(
        job.parent / "warehouse.rehearsal.duckdb", "select count(*) from results where error is null"
    ) == [(len(ENDPOINTS),)]
