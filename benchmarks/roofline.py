"""The speed that is believed of a worker before its first night, against published figures.

    .venv/bin/python benchmarks/roofline.py

`benchmarks/published/paces.csv` holds what NVIDIA published of TensorRT-LLM under full load, with its source; vLLM's own
publications give no tables of that kind. Rows that say `used` fitted the six constants of `engines/devices/roofline.py`;
the others did not. The shape of each model is read from what its config.json says, as a job's would be. Beside it stands
what was believed before: one constant per kind of device.

Ends with one line of JSON; exit 1 where the geometric mean error over all rows, or over the unused ones, is above 1.4, or
one is more than 2.5 times off.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path
from statistics import fmean

from thirdshift.engines.devices.cards import card_named
from thirdshift.engines.devices.model_shape import shape_of
from thirdshift.engines.devices.roofline import pace
from thirdshift.router.planning.market import DEVICE_PACE

TABLE = Path(__file__).with_name("published") / "paces.csv"
MOST = 2048
"""Requests that TensorRT-LLM runs at once unless it is told."""
MEAN, WORST = 1.4, 2.5


def llama(layers: int, hidden: int, heads: int, inner: int) -> dict[str, int]:
    """What config.json says of a Llama 3."""
    return {
        "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads,
        "num_key_value_heads": 8, "intermediate_size": inner, "vocab_size": 128256,
    }  # fmt: skip


def qwen(layers: int, hidden: int, heads: int, expert: int) -> dict[str, int]:
    """What config.json says of a Qwen3 with experts."""
    return {
        "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": 4,
        "head_dim": 128, "moe_intermediate_size": expert, "num_experts": 128, "num_experts_per_tok": 8,
        "vocab_size": 151936,
    }  # fmt: skip


def gpt_oss(layers: int, experts: int) -> dict[str, int]:
    """What config.json says of a GPT-OSS."""
    return {
        "num_hidden_layers": layers, "hidden_size": 2880, "num_attention_heads": 64, "num_key_value_heads": 8,
        "head_dim": 64, "intermediate_size": 2880, "num_local_experts": experts, "num_experts_per_tok": 4,
        "vocab_size": 201088,
    }  # fmt: skip


CONFIGS = {
    "llama-8b": llama(32, 4096, 32, 14336),
    "llama-70b": llama(80, 8192, 64, 28672),
    "llama-405b": llama(126, 16384, 128, 53248),
    "qwen3-235b": qwen(94, 4096, 64, 1536),
    "qwen3-30b": qwen(48, 2048, 32, 768),
    "gpt-oss-20b": gpt_oss(24, 32),
    "gpt-oss-120b": gpt_oss(36, 128),
    "deepseek-r1": {
        "num_hidden_layers": 61, "hidden_size": 7168, "num_attention_heads": 128, "q_lora_rank": 1536,
        "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
        "moe_intermediate_size": 2048, "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1,
        "first_k_dense_replace": 3, "intermediate_size": 18432, "vocab_size": 129280,
    },
}  # fmt: skip
PRECISIONS = {
    "fp8": ({"quant_method": "fp8"}, {"kv_cache_dtype": "fp8"}),
    "fp4": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, {"kv_cache_dtype": "fp8"}),
    "mxfp4": ({"quant_method": "mxfp4"}, {}),
}
"""A precision of the table as config.json and vLLM's options say it."""


def believed(row: dict[str, str]) -> float:
    """Tokens written a second that are believed of a row's worker."""
    quantised, options = PRECISIONS[row["precision"]]
    shape = shape_of({**CONFIGS[row["model"]], "quantization_config": quantised}, options)
    card, read, written = card_named(row["card"]), float(row["read"]), float(row["written"])
    if shape is None or card is None:
        raise ValueError(f"nothing is known of {row}")
    told = pace(shape, card, int(row["cards"]), read, written, MOST)
    if told is None:
        raise ValueError(f"it does not fit: {row}")
    return written / (read / told.prefill_tokens_per_second + written / told.decode_tokens_per_second)


def constant(row: dict[str, str]) -> float:
    """The same by the constant of a device that knows neither model nor card."""
    guess = DEVICE_PACE["cuda"]
    read, written = float(row["read"]), float(row["written"])
    return written / (read / guess.prefill_tokens_per_second + written / guess.decode_tokens_per_second)


def mean_error(ratios: list[float]) -> float:
    """By what factor one is off in the geometric mean."""
    return math.exp(fmean(abs(math.log(ratio)) for ratio in ratios))


def main() -> int:
    with TABLE.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    published = [float(row["tokens_per_second"]) for row in rows]
    ratios = [believed(row) / told for row, told in zip(rows, published, strict=True)]
    before = [constant(row) / told for row, told in zip(rows, published, strict=True)]
    unused = [ratio for row, ratio in zip(rows, ratios, strict=True) if row["used"] == "no"]
    for row, ratio in sorted(zip(rows, ratios, strict=True), key=lambda one: one[1]):
        print(
            f"{ratio:5.2f} x published: {row['model']} {row['precision']} on {row['cards']} x {row['card']}, "
            f"{row['read']}/{row['written']}{'' if row['used'] == 'yes' else ', not used'}",
            file=sys.stderr,
        )
    worst = max(max(ratio, 1 / ratio) for ratio in ratios)
    told = {
        "figures": len(rows),
        "mean_error": round(mean_error(ratios), 3),
        "not_used": len(unused),
        "mean_error_not_used": round(mean_error(unused), 3),
        "worst": round(worst, 2),
        "mean_error_of_a_constant": round(mean_error(before), 2),
        "worst_of_a_constant": round(max(max(ratio, 1 / ratio) for ratio in before), 1),
    }
    met = max(told["mean_error"], told["mean_error_not_used"]) <= MEAN and worst <= WORST
    print(json.dumps({**told, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
