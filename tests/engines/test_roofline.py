"""What is believed of a worker's speed before its first night: shapes from config.json, cards by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from thirdshift.engines.devices.cards import CARDS, card_named, with_memory
from thirdshift.engines.devices.model_shape import config_of, shape_of
from thirdshift.engines.devices.roofline import ModelShape, pace

LLAMA = {
    "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 14336, "vocab_size": 128256, "torch_dtype": "bfloat16",
}  # fmt: skip
QWEN = {
    "num_hidden_layers": 48, "hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
    "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8, "vocab_size": 151936,
}  # fmt: skip


def shape(config: dict[str, Any], **options: Any) -> ModelShape:
    read = shape_of(config, options)
    assert read is not None
    return read


def test_parameters_are_those_that_the_models_are_named_by() -> None:
    assert shape(LLAMA).parameters == pytest.approx(8.03e9, rel=0.01)
    assert shape(LLAMA).cache_bytes == 2 * 2 * 32 * 8 * 128
    mixed = shape({"text_config": QWEN})
    assert mixed.parameters == pytest.approx(30.5e9, rel=0.02)
    assert mixed.active == pytest.approx(3.3e9, rel=0.1)


@pytest.mark.parametrize(
    ("stated", "options", "weight", "arithmetic"),
    [
        ({}, {}, 2.0, "bf16"),
        ({}, {"quantization": "fp8"}, 1.0, "fp8"),
        ({"quant_method": "fp8"}, {}, 1.0, "fp8"),
        ({"quant_method": "awq", "bits": 4}, {}, 0.56, "bf16"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, {}, 0.56, "fp4"),
    ],
)
def test_precision_is_read(
    stated: dict[str, Any], options: dict[str, Any], weight: float, arithmetic: str
) -> None:
    read = shape({**LLAMA, "quantization_config": stated}, **options)
    assert (read.weight_bytes, read.arithmetic) == (pytest.approx(weight), arithmetic)


def test_cards_are_found_by_the_names_that_tools_print() -> None:
    named = {
        "NVIDIA H100 80GB HBM3": "H100",
        "NVIDIA H100 PCIe": "H100 PCIe",
        "NVIDIA H200": "H200",
        "NVIDIA L4": "L4",
    }
    for name, pattern in {
        **named,
        "NVIDIA L40S": "L40S",
        "NVIDIA A100-SXM4-40GB": "A100-SXM4-40GB",
        "NVIDIA A100 80GB PCIe": "A100",
        "NVIDIA GB200": "GB200",
        "Ascend 910": "Ascend 910",
        "Ascend 910B3": "910B",
        "Ascend 950PR": "950PR",
    }.items():
        card = card_named(name)
        assert card is not None
        assert card.pattern == pattern
    for other in ("Voodoo 2", "NVIDIA L40", "NVIDIA A10G", "NVIDIA A1000"):
        assert card_named(other) is None
    assert all(card.source for card in CARDS)


def test_a_part_of_a_card_has_its_share_of_it() -> None:
    whole, part = card_named("NVIDIA A100-SXM4-80GB"), card_named("NVIDIA A100-SXM4-80GB MIG 3g.40gb")
    assert whole is not None
    assert part is not None
    assert part.bf16_tflops == pytest.approx(whole.bf16_tflops * 3 / 7)
    assert (part.gigabytes, part.terabytes_per_second) == (40, whole.terabytes_per_second / 2)
    single = card_named("NVIDIA A100-SXM4-80GB MIG 1c.3g.40gb")
    assert single is not None
    assert single.bf16_tflops == pytest.approx(whole.bf16_tflops / 7)
    assert with_memory(whole, 40 * 1024).gigabytes == pytest.approx(42.9, abs=0.1)
    assert with_memory(whole, None) == with_memory(whole, 81920) == whole


def test_more_memory_runs_more_requests_and_what_does_not_fit_has_no_speed() -> None:
    h100, h200 = card_named("H100"), card_named("H200")
    assert h100 is not None
    assert h200 is not None
    read = shape(LLAMA)
    small, large = pace(read, h100, 1, 2000, 2000, 10_000), pace(read, h200, 1, 2000, 2000, 10_000)
    assert small is not None
    assert large is not None
    assert small.running < large.running
    assert small.decode_tokens_per_second < large.decode_tokens_per_second
    assert pace(shape({**LLAMA, "num_hidden_layers": 1000}), h100, 1, 1000, 100, 256) is None


def test_a_model_that_is_no_transformer_has_no_shape(tmp_path: Path) -> None:
    assert shape_of({"model_type": "other"}, {}) is None
    assert config_of(str(tmp_path)) is None
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert config_of(str(tmp_path)) == LLAMA
