"""Recorded outcomes of three models, made up."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

MODELS = ("small", "middle", "frontier")
PRICES = np.array([0.001, 0.01, 0.1])
FIGURES = {
    "floor", "quality", "cost_usd", "cost_learning_usd", "scores_used", "met", "certified", "cost_best_single",
    "quality_best_single", "cost_best_mix", "cost_mix_at_quality", "cost_oracle",
}  # fmt: skip


def outcomes(n: int = 1500, seed: int = 0) -> pa.Table:
    """Three models in eight tasks: the small one is good at some of them, the frontier at nearly all."""
    rng = np.random.default_rng(seed)
    task = rng.integers(0, 8, n)
    chance = np.array([np.where(task < 4, 0.9, 0.3), np.where(task < 6, 0.9, 0.5), np.full(n, 0.93)]).T
    score = (rng.random((n, 3)) < chance).astype(float)
    cost = PRICES * rng.lognormal(0, 0.3, (n, 3))
    ids = [f"r{i}" for i in range(n)]
    return pa.table(
        {
            "request_id": np.repeat(ids, 3),
            "prompt": np.repeat([f"task {t} number {i}" for i, t in enumerate(task)], 3),
            "task": np.repeat([f"t{t}" for t in task], 3),
            "model": np.tile(MODELS, n),
            "score": score.ravel(),
            "input_tokens": np.full(n * 3, 100),
            "output_tokens": np.full(n * 3, 100),
            "cost_usd": cost.ravel(),
        }
    )
