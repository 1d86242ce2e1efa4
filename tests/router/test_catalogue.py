"""The catalogue holds every model of the field, each fact with its source; one model has one entry by many
names.
"""

from __future__ import annotations

import math
from decimal import Decimal
from importlib.resources import files

import pytest

from thirdshift.engines.pricemap import bundled_map
from thirdshift.router.pricing.catalogue import (
    PUBLIC_DISCOUNT,
    Catalogue,
    CatalogueModel,
    Fact,
    fit_priors,
    load,
    tail_of,
)
from thirdshift.router.pricing.pricebook import Override, schedule_for
from thirdshift.router.values import Facts, Mode, Price

TEXT = (files("thirdshift.router.pricing") / "catalogue.toml").read_text("utf-8")

FIELD = {
    "DeepSeek V4 Pro": ("DeepSeek", "CN"),
    "DeepSeek V4 Flash": ("DeepSeek", "CN"),
    "Kimi K2.6": ("Moonshot", "CN"),
    "Qwen3.6-27B": ("Alibaba", "CN"),
    "Qwen3.6-35B-A3B": ("Alibaba", "CN"),
    "Qwen3.6-Plus": ("Alibaba", "CN"),
    "Qwen3.5-397B-A17B": ("Alibaba", "CN"),
    "Qwen3.7-Max": ("Alibaba", "CN"),
    "GLM-5": ("Z.ai", "CN"),
    "GLM-5.1": ("Z.ai", "CN"),
    "MiniMax M2.7": ("MiniMax", "CN"),
    "MiMo V2.5": ("Xiaomi", "CN"),
    "MiMo V2.5 Pro": ("Xiaomi", "CN"),
    "ERNIE 5.1": ("Baidu", "CN"),
    "Hunyuan 3": ("Tencent", "CN"),
    "SenseNova U1": ("SenseTime", "CN"),
    "Dola-Seed-2.0 Preview": ("ByteDance", "CN"),
    "Claude Opus 4.7": ("Anthropic", "US"),
    "Claude Opus 4.6": ("Anthropic", "US"),
    "Claude Opus 4.8": ("Anthropic", "US"),
    "GPT-5.5": ("OpenAI", "US"),
    "GPT-5.4": ("OpenAI", "US"),
    "GPT-5.4 xHigh": ("OpenAI", "US"),
    "GPT-5.4 mini": ("OpenAI", "US"),
    "GPT-5": ("OpenAI", "US"),
    "Gemini 3.1 Pro": ("Google", "US"),
    "Gemini 3.0 Pro": ("Google", "US"),
    "Gemini 3.1 Ultra": ("Google", "US"),
    "GPT-OSS": ("OpenAI", "US"),
    "Mistral Small 4": ("Mistral", "FR"),
    "Hermes 4": ("Nous", "US"),
    "Llama 4": ("Meta", "US"),
}
"""Every model that the field's table names, with lab and origin as it has them."""

ALIASES = {
    "deepseek/deepseek-v4-flash": "DeepSeek V4 Flash",
    "openrouter/deepseek/deepseek-v4-flash:free": "DeepSeek V4 Flash",
    "/models/deepseek-ai/DeepSeek-V4-Pro-FP8/": "DeepSeek V4 Pro",
    "moonshot/kimi-k2.6": "Kimi K2.6",
    "Qwen/Qwen3.6-27B": "Qwen3.6-27B",
    "/mnt/weights/Qwen3.6-27B": "Qwen3.6-27B",
    "Qwen 3.6-27B": "Qwen3.6-27B",
    "nebius/Qwen/Qwen3.5-397B-A17B": "Qwen3.5-397B-A17B",
    "fireworks_ai/accounts/fireworks/models/glm-5p1": "GLM-5.1",
    "zai/glm-5": "GLM-5",
    "azure_ai/FW-GLM-5.1": "GLM-5.1",
    "anthropic/claude-opus-4-7-20260416": "Claude Opus 4.7",
    "bedrock/eu.anthropic.claude-opus-4-6-v1": "Claude Opus 4.6",
    "vertex_ai/claude-opus-4-7@default": "Claude Opus 4.7",
    "openai/gpt-5.4-2026-03-05": "GPT-5.4",
    "openai/gpt-5.4-mini": "GPT-5.4 mini",
    "gemini/gemini-3.1-pro-preview": "Gemini 3.1 Pro",
    "groq/openai/gpt-oss-120b": "GPT-OSS",
    "aihubmix/hy3": "Hunyuan 3",
    "novita/xiaomimimo/mimo-v2.5-pro": "MiMo V2.5 Pro",
}

STRANGERS = (
    "openai/gpt-5.5-pro",
    "someone/qwen3.6-27b-uncensored",
    "deepseek/deepseek-v4.1-flash",
    "zai/glm-5.2",
    "zai/glm-5-code",
    "",
)
"""Names that look like a known model's and are not."""


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load(TEXT)


def test_no_model_of_the_field_is_missing(catalogue: Catalogue) -> None:
    held = {m.name: (m.lab, catalogue.origin(m)) for m in catalogue.models}
    assert held == FIELD


def test_every_model_has_facts_and_every_fact_a_source(catalogue: Catalogue) -> None:
    for model in catalogue.models:
        assert model.facts, model.name
        for fact in model.facts:
            assert catalogue.source_of(fact).startswith(f"[{fact.source}]"), model.name
    assert {letter for letter, source in catalogue.sources.items() if source.date is None} == {"B", "F"}


def test_every_model_is_found_by_its_own_name_and_by_no_other(catalogue: Catalogue) -> None:
    for model in catalogue.models:
        hits = [m.name for m in catalogue.models if m.pattern.fullmatch(tail_of(model.name))]
        assert hits == [model.name]


@pytest.mark.parametrize(("name", "model"), ALIASES.items())
def test_names_of_one_model_s_weights_meet(catalogue: Catalogue, name: str, model: str) -> None:
    found = catalogue.find(name)
    assert found is not None
    assert found.name == model


@pytest.mark.parametrize("name", STRANGERS)
def test_another_model_s_facts_are_not_borrowed(catalogue: Catalogue, name: str) -> None:
    assert catalogue.facts_for(name) == (Facts(), None)
    assert catalogue.quality_prior(name) is None


def test_where_sources_disagree_the_cautious_one_is_kept(catalogue: Catalogue) -> None:
    flash = catalogue.find("deepseek-v4-flash")
    assert flash is not None
    stated = {f.value: f.kept for f in flash.facts if f.kind == "price"}
    assert stated == {0.14: False, 0.3: True}
    glm = catalogue.find("glm-5.1")
    assert glm is not None
    trained = [(f.source, f.kept) for f in glm.facts if f.name == "trained on"]
    assert sorted(trained) == [("A", True), ("C", False), ("E", True)]


def test_a_licence_that_no_source_gives_this_very_model_stays_unknown(catalogue: Catalogue) -> None:
    assert catalogue.facts_for("Qwen/Qwen3.6-27B")[0].licence is None
    assert catalogue.facts_for("zai/glm-5.1")[0] == Facts("mit", "Z.ai", "CN")


def test_models_can_be_chosen_by_licence_lab_origin_and_weights(catalogue: Catalogue) -> None:
    assert [m.name for m in catalogue.select(licence="MIT")] == [
        "GLM-5",
        "GLM-5.1",
        "MiMo V2.5",
        "MiMo V2.5 Pro",
    ]
    assert [m.name for m in catalogue.select(origin="fr")] == ["Mistral Small 4"]
    assert [m.name for m in catalogue.select(lab="openai", weights="open")] == ["GPT-OSS"]


def test_priors_exist_only_where_benchmarks_do_and_are_cautious(catalogue: Catalogue) -> None:
    assert catalogue.quality_prior("openai/gpt-5.4-mini") is None
    assert catalogue.quality_prior("aihubmix/hy3") is None
    best, open_best = catalogue.quality_prior("openai/gpt-5.5"), catalogue.quality_prior("moonshot/kimi-k2.6")
    assert best is not None
    assert open_best is not None
    assert 0.5 < open_best < best < 0.95


def test_one_hard_benchmark_does_not_make_a_model_look_weak() -> None:
    def model(name: str, **scores: float) -> CatalogueModel:
        facts = [Fact(kind="benchmark", name=b, value=s, source="A", out_of=100) for b, s in scores.items()]
        return CatalogueModel(name=name, lab="L", match=(name,), facts=tuple(facts))

    hard_too = fit_priors([model("a", easy=90, hard=30), model("b", easy=90), model("c", easy=80, hard=20)])
    assert hard_too["a"] > hard_too["c"]
    assert hard_too["a"] >= hard_too["b"] - 0.05
    assert fit_priors([model("d", easy=99.99)])["d"] < 0.99
    even = fit_priors([model("e", easy=50)])["e"]
    assert even == pytest.approx(1 / (1 + math.exp(PUBLIC_DISCOUNT)))


def test_a_job_naming_any_of_them_has_a_price_from_the_book_or_from_itself(catalogue: Catalogue) -> None:
    prices, _ = bundled_map()
    offered = catalogue.offers(prices)
    priced = {
        name for name, keys in offered.items() if any("input_cost_per_token" in prices[key] for key in keys)
    }
    assert set(FIELD) - priced == {
        "SenseNova U1",
        "Dola-Seed-2.0 Preview",
        "GPT-5.4 xHigh",
        "Gemini 3.1 Ultra",
    }
    for model in catalogue.models:
        override = Override(Price(Decimal(1), Decimal(2)))
        assert (
            schedule_for(f"openai/{model.match[0]}", Mode.REALTIME, prices, override).base == override.price
        )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('lab = "Moonshot"', 'lab = "Monshot"'), "no lab called Monshot"),
        (('source = "C", out_of', 'source = "Z", out_of'), "no source Z"),
        (('name = "GLM-5.1"', 'name = "GLM-5"'), "named twice"),
        (('weights = "open"', 'wieghts = "open"'), "wieghts"),
        (('origin = "FR"', 'origin = "France"'), "origin"),
    ],
)
def test_mistakes_in_the_data_are_named(change: tuple[str, str], says: str) -> None:
    assert change[0] in TEXT
    with pytest.raises(ValueError, match=says):
        load(TEXT.replace(*change))
