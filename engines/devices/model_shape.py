"""Read from a model's config.json what a step of it must compute and read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thirdshift.engines.devices.roofline import ModelShape
from thirdshift.router.values import JSON

BITS_16 = 2.0
SCALES = 0.06
"""Bytes of a parameter that scales add to weights of few bits: one of 8 bits for 16 of them."""
FOUR_BITS = {"mxfp4", "awq", "gptq", "awq_marlin", "gptq_marlin", "bitsandbytes", "compressed-tensors-w4a16"}
CACHE = "~/.cache/huggingface/hub"


def folders_of(model: str) -> tuple[Path, ...]:
    """Return where a model may be on this machine: its own folder, what the hub's cache has of it."""
    cache = Path(os.environ["HF_HUB_CACHE"] if os.environ.get("HF_HUB_CACHE") else CACHE).expanduser()
    return (
        Path(model).expanduser(),
        *sorted((cache / f"models--{model.replace('/', '--')}" / "snapshots").glob("*")),
    )


def config_of(model: str) -> dict[str, JSON] | None:
    """Return the config.json of a model on disk or in the hub's cache; None where there is none yet."""
    for folder in folders_of(model):
        try:
            config: dict[str, JSON] = json.loads((folder / "config.json").read_bytes())
        except (OSError, ValueError):
            continue
        return config
    return None


def shape_of(config: Mapping[str, JSON], options: Mapping[str, JSON]) -> ModelShape | None:
    """Return the shape of a transformer, as these options of vLLM run it; None for what is no such model."""
    text = {**config, **(config.get("text_config") or {})}
    try:
        layers, hidden = int(text["num_hidden_layers"]), int(text["hidden_size"])
        heads = int(text["num_attention_heads"])
        embedding = int(text["vocab_size"]) * hidden
    except (KeyError, TypeError, ValueError):
        return None
    attention, cached = _attention(text, hidden, heads)
    whole, active = _experts(text, hidden, layers)
    ends = embedding * (1 if text.get("tie_word_embeddings") else 2)
    weight, arithmetic = _precision(text, options)
    cache = 1.0 if str(options.get("kv_cache_dtype", "")).startswith("fp8") else BITS_16
    return ModelShape(
        parameters=layers * attention + whole + ends,
        active=layers * attention + active + embedding,
        weight_bytes=weight,
        cache_bytes=layers * cached * cache,
        arithmetic=arithmetic,
        window=_window(text, layers),
    )


def _attention(text: Mapping[str, Any], hidden: int, heads: int) -> tuple[float, int]:
    """Return a layer's parameters of attention, and the values that it keeps of a token."""
    if text.get("kv_lora_rank"):
        rank, rope = int(text["kv_lora_rank"]), int(text.get("qk_rope_head_dim") or 64)
        plain, value = int(text.get("qk_nope_head_dim") or 128), int(text.get("v_head_dim") or 128)
        inner = int(text.get("q_lora_rank") or 0)
        asking = hidden * inner + inner * heads * (plain + rope) if inner else hidden * heads * (plain + rope)
        keeping = hidden * (rank + rope) + rank * heads * (plain + value) + heads * value * hidden
        return float(asking + keeping), rank + rope
    size = int(text.get("head_dim") or hidden // heads)
    kept = int(text.get("num_key_value_heads") or heads)
    return float(2 * hidden * size * (heads + kept)), 2 * kept * size


def _experts(text: Mapping[str, Any], hidden: int, layers: int) -> tuple[float, float]:
    """Return the parameters of all layers between their attentions: there, and gone through by one token."""
    dense = 3.0 * hidden * int(text.get("intermediate_size") or 4 * hidden)
    names = ("num_experts", "n_routed_experts", "num_local_experts")
    experts = next((int(text[name]) for name in names if text.get(name)), 0)
    if not experts:
        return layers * dense, layers * dense
    expert = (
        3.0 * hidden * int(text.get("moe_intermediate_size") or text.get("intermediate_size") or 4 * hidden)
    )
    chosen = int(text.get("num_experts_per_tok") or text.get("experts_per_token") or 1)
    shared = int(text.get("n_shared_experts") or 0) * expert
    plain = int(text.get("first_k_dense_replace") or 0)
    sparse = layers - plain
    return plain * dense + sparse * (experts * expert + shared), plain * dense + sparse * (
        chosen * expert + shared
    )


def _precision(text: Mapping[str, Any], options: Mapping[str, JSON]) -> tuple[float, str]:
    """Return the bytes of a parameter, and what the model multiplies in."""
    stated = text.get("quantization_config") or {}
    method = str(options.get("quantization") or stated.get("quant_method") or "").lower()
    algorithm = f"{method} {stated.get('quant_algo', '')} {stated.get('fmt', '')}".lower()
    if "nvfp4" in algorithm:
        return 0.5 + SCALES, "fp4"
    bits = stated.get("bits")
    if method in FOUR_BITS or bits == 4:
        return 0.5 + SCALES, "bf16"
    if "fp8" in algorithm or bits == 8:
        return 1.0, "fp8"
    return (4.0 if str(text.get("torch_dtype") or text.get("dtype")) == "float32" else BITS_16), "bf16"


def _window(text: Mapping[str, Any], layers: int) -> float:
    """Return how far the mean layer looks back, where some look at a window alone."""
    kinds = text.get("layer_types") or []
    size = text.get("sliding_window")
    some = sum("sliding" in str(kind) for kind in kinds)
    if not some or not size:
        return math.inf
    return float(size) if some == layers else math.inf
