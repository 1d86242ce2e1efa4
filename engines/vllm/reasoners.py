"""Which of vLLM's reasoning parsers belongs to a model: without one a grammar holds the reasoning too."""

from __future__ import annotations

REASONERS = {
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3",
    "qwen3_next": "qwen3",
    "qwen3_5": "qwen3",
    "qwen3_5_moe": "qwen3",
    "qwq": "deepseek_r1",
    "deepseek_v3": "deepseek_r1",
    "deepseek_v32": "deepseek_v3",
    "deepseek_v4": "deepseek_v4",
    "deepseek_v41": "deepseek_v41",
    "glm4_moe": "glm45",
    "glm4_moe_lite": "glm45",
    "glm_moe_dsa": "glm45",
    "gpt_oss": "openai_gptoss",
    "kimi_k2": "kimi_k2",
    "kimi_k25": "kimi_k2",
    "kimi_k3": "kimi_k3",
    "minimax_m2": "minimax_m2",
    "minimax_m3": "minimax_m3",
    "mimo_v2_flash": "mimo",
    "ernie4_5_moe": "ernie45",
    "hunyuan_v1_moe": "hunyuan_a13b",
    "hy_v3": "hy_v3",
    "hy_v4": "hy_v4",
    "nemotron_h": "nemotron_v3",
    "olmo3": "olmo3",
    "seed_oss": "seed_oss",
    "step3_text": "step3",
    "step3p5": "step3p5",
}
"""`model_type` in a model's config.json to the name in `vllm.reasoning`. Taken only where the chat template speaks of
reasoning: a sibling of the type that does not reason would wait for its end for ever."""
