"""What a worker's engine is asked to hold: the job's options, and less of it after an engine ran out of memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from thirdshift.engines.devices.model_shape import config_of
from thirdshift.engines.vllm.engine_log import EngineFault, FaultKind
from thirdshift.router.values import JSON, Endpoint, WorkerSpec

COMPACT = {"backend": "guidance", "disable_any_whitespace": True}
"""How vLLM holds answers to a schema: without free whitespace, which small models fill their budget with. Of its
backends guidance knows most of JSON Schema; with `auto` the whitespace could not be switched off."""
USUAL_SHARE = {"cuda": 0.92, "npu": 0.9}
"""The share of a device's memory that vLLM takes in advance unless it is told (`gpu_memory_utilization` in vLLM
0.32 and in the 0.23 that vllm-ascend 0.23 belongs to); on CPUs a variable says how much."""
LESS_SHARE = 0.05
LEAST_SHARE = 0.5
MORE_PARTS = frozenset({"vision_config", "audio_config", "thinker_config"})
"""What a config.json has of a model's parts for pictures and sound."""
MORE_THAN_TEXT = frozenset(
    {
        "language_model_only", "limit_mm_per_prompt", "enable_mm_embeds", "mm_encoder_only", "mm_encoder_tp_mode",
        "compilation_config", "hf_overrides", "model_impl",
    }
)  # fmt: skip
"""Options with which a job itself says what becomes of these parts, or with which vLLM may want them."""
FITTED = -1
"""vLLM then takes the longest context that the memory holds."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """What the next process is asked to hold otherwise than the job says. The default: nothing."""

    max_num_seqs: int | None = None
    max_model_len: int | None = None
    less_memory: int = 0
    """How often five points of the device's memory were left to what is not planned for."""

    def smaller(self, fault: EngineFault, running: int) -> Sizing:
        """Return what to ask for after this fault; `running`: requests at once in the engine that failed."""
        if fault.kind is FaultKind.TOO_LONG:
            return replace(self, max_model_len=fault.fitted_length or FITTED)
        if fault.kind is FaultKind.OUT_OF_MEMORY:
            return Sizing(max(1, running // 2), self.max_model_len or FITTED, self.less_memory + 1)
        return self

    def applied(self, options: Mapping[str, JSON], device: str) -> dict[str, JSON]:
        """Return the options of an engine that holds so much."""
        sized = dict(options)
        if self.max_num_seqs is not None:
            sized["max_num_seqs"] = self.max_num_seqs
        if self.max_model_len == FITTED:
            sized.setdefault("max_model_len", FITTED)
        elif self.max_model_len is not None:
            sized["max_model_len"] = min(self.max_model_len, sized.get("max_model_len", self.max_model_len))
        if self.less_memory and device in USUAL_SHARE and "kv_cache_memory_bytes" not in options:
            share = share_of(options, device)
            least = min(share, LEAST_SHARE)
            sized["gpu_memory_utilization"] = round(max(least, share - LESS_SHARE * self.less_memory), 2)
        return sized


def options_for(
    endpoint: Endpoint, spec: WorkerSpec, sizing: Sizing, *, text_only: bool = False
) -> dict[str, JSON]:
    """Return what vllm.LLM is given besides the model: the job's `vllm:`, and defaults where it says nothing.

    `text_only`: no request will hold anything but text.
    """
    options = dict(spec.options)
    if text_only and MORE_THAN_TEXT.isdisjoint(options) and _takes_more_than_text(endpoint.model):
        options["language_model_only"] = True
    if spec.device == "cpu":
        options.setdefault("enforce_eager", True)
    options.setdefault("structured_outputs_config", dict(COMPACT))
    if endpoint.context_window is not None:
        options.setdefault("max_model_len", endpoint.context_window)
    options.setdefault("max_model_len", FITTED)
    return sizing.applied(options, spec.device)


def _takes_more_than_text(model: str) -> bool:
    """Whether a model on this machine has parts for pictures or sound."""
    return not MORE_PARTS.isdisjoint(config_of(model) or {})


def share_of(options: Mapping[str, JSON], device: str) -> float:
    """Return the share of a device's memory that vLLM takes in advance."""
    return float(options.get("gpu_memory_utilization", USUAL_SHARE.get(device, 0.0)))
