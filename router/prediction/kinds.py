"""Kinds of requests that nobody named: clusters of like texts, which stand in for tasks where there is only one."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.prediction.observations import Population

MOST = 12
"""Kinds at most: a few hundred scores tell no more apart."""
EACH = 40
"""Requests that a kind has at least: smaller clusters go to the nearest that is large enough."""
SAMPLE = 5_000
"""Texts on which the centres are found."""
CHUNK = 65_536
"""Texts at a time that are given their kind."""


def with_kinds(population: Population, seed: int = 0) -> Population:
    """The population with clusters of like texts as its tasks; as it is where tasks are named, or texts do not differ.

    Language, length, form and words are what texts are compared by (`thirdshift.router.prediction.features`).
    """
    if population.tasks != 1 or not population.text.shape[1] or len(population) < 2 * EACH:
        return population
    kind = clusters(population.text, seed)
    return replace(population, task=kind, tasks=int(kind.max()) + 1)


def clusters(text: NDArray[np.float32], seed: int = 0) -> NDArray[np.int32]:
    """[n] the cluster of each text, numbered from the largest."""
    from scipy.cluster.vq import kmeans2

    rng = np.random.default_rng(seed)
    sample = text[np.sort(rng.permutation(len(text))[:SAMPLE])].astype(np.float64)
    count = min(MOST, len(text) // EACH, len(np.unique(sample, axis=0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a cluster that ends up empty has no members to lose
        centres, _ = kmeans2(sample, count, minit="++", seed=rng)
    size = np.bincount(_nearest(text, centres), minlength=count)
    kept = np.argsort(-size, kind="stable")[: max(int((size >= EACH).sum()), 1)]
    return _nearest(text, centres[kept])


def _nearest(text: NDArray[np.float32], centres: NDArray[np.float64]) -> NDArray[np.int32]:
    from scipy.cluster.vq import vq

    parts = [
        vq(text[begin : begin + CHUNK].astype(np.float64), centres)[0] for begin in range(0, len(text), CHUNK)
    ]
    return np.concatenate(parts).astype(np.int32)
