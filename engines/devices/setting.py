"""What of a worker's options changes its speed, and which driver it runs with: what a measured speed holds for."""

from __future__ import annotations

import json

from thirdshift.engines.devices.machine import Machine, machine
from thirdshift.router.values import WorkerSpec

SAME_SPEED = frozenset(
    {
        "chat_template", "chat_template_content_format", "config_format", "disable_log_stats", "download_dir",
        "enable_auto_tool_choice", "generation_config", "hf_config_path", "hf_overrides", "hf_token", "load_format",
        "logits_processors", "max_logprobs", "override_generation_config", "reasoning_parser", "revision", "seed",
        "served_model_name", "skip_tokenizer_init", "tokenizer", "tokenizer_revision", "tool_call_parser",
        "trust_remote_code",
    }
)  # fmt: skip
"""Options of vLLM that leave its speed as it is; all others are taken to change it."""
USUAL_SEQS = 256
LARGE_CARD_SEQS = 1024
LARGE_CARD_MIB = 70 * 1024
"""vLLM's own defaults of `max_num_seqs` for `LLM`: 1,024 on cards from 70 GiB, 256 on others (`engine/arg_utils.py`)."""


def setting(spec: WorkerSpec | None) -> str:
    """Return the options that a speed was measured with, in one order: `max_num_seqs=64 quantization="fp8"`."""
    options = {} if spec is None else spec.options
    told = sorted((name, value) for name, value in options.items() if name not in SAME_SPEED)
    return " ".join(f"{name}={json.dumps(value, sort_keys=True, default=str)}" for name, value in told)


def driver(spec: WorkerSpec | None, known: Machine | None = None) -> str:
    """Return the version of the driver of a worker's devices on this machine; empty where it has none or it is not told."""
    if spec is None or spec.device == "cpu" or spec.cluster is not None:
        return ""
    here = (machine() if known is None else known).of(spec.device)
    return here[0].driver if here else ""


def usual_seqs(spec: WorkerSpec, memory_mib: int | None) -> int:
    """Return how many requests an engine runs at once before it has said so, on a device with so much memory."""
    usual = LARGE_CARD_SEQS if (memory_mib or 0) >= LARGE_CARD_MIB else USUAL_SEQS
    return int(spec.options.get("max_num_seqs", usual))
