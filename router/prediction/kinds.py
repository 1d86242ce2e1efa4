"""Kinds of requests that nobody named: clusters of like texts, which stand in for tasks where there is only one."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.prediction.observations import Population

Floats = NDArray[np.float64]

FEW = 12
"""Kinds where texts differ by degrees: a few hundred scores tell no more apart."""
COUNTS = (FEW, 24, 48, 96)
"""Where texts are made from templates every template is a kind: the fewest of these by which texts are told."""
TOLD = 0.95
"""The share of what differs between texts that lies between kinds where they are made from templates."""
LEAST = 80
"""Requests below which all are of one kind."""
EACH = 10
"""Requests that a kind has at least where texts differ by degrees: smaller clusters go to the nearest larger one."""
OF_TEMPLATE = 2
"""Requests that a template has in the mean at least: with fewer, clusters tell the texts that they were found on."""
SAMPLE = 5_000
"""Texts on which the centres are found."""
CHUNK = 16_384
"""Texts at a time that are given their kind."""


def with_kinds(population: Population, seed: int = 0) -> Population:
    """The population with clusters of like texts as its tasks; as it is where tasks are named, or texts do not differ.

    Language, length, form and words are what texts are compared by (`thirdshift.router.prediction.features`).
    """
    if population.tasks != 1 or not population.text.shape[1] or len(population) < LEAST:
        return population
    kind = clusters(population.text, seed)
    return replace(population, task=kind, tasks=int(kind.max()) + 1)


def clusters(text: NDArray[np.float32], seed: int = 0) -> NDArray[np.int32]:
    """[n] the cluster of each text, numbered from the largest."""
    rng = np.random.default_rng(seed)
    sample = _directions(text[np.sort(rng.permutation(len(text))[:SAMPLE])]).astype(np.float64)
    most = len(np.unique(sample, axis=0))
    for count in COUNTS:
        if count * OF_TEMPLATE > len(sample) or count > most:
            break
        centres = _centres(sample, count, rng)
        if _told(sample, centres) >= TOLD:
            return _by_size(text, centres, 1)
    return _by_size(text, _centres(sample, min(FEW, len(text) // EACH, most), rng), EACH)


def _directions(text: NDArray[np.float32]) -> NDArray[np.float32]:
    """Texts as directions from the middle of all: how far out one lies says more of its length than of its kind."""
    norm = np.linalg.norm(text, axis=1, keepdims=True)
    found: NDArray[np.float32] = text / np.maximum(norm, np.float32(1e-9))
    return found


def _centres(sample: Floats, count: int, rng: np.random.Generator) -> Floats:
    from scipy.cluster.vq import kmeans2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a cluster that ends up empty has no members to lose
        centres: Floats = kmeans2(sample, count, minit="++", seed=rng)[0]
    return centres


def _told(sample: Floats, centres: Floats) -> float:
    """The share of the texts' variance that lies between clusters, what clusters of chance would have taken off."""
    from scipy.cluster.vq import vq

    within = float((vq(sample, centres)[1] ** 2).sum()) / max(len(sample) - len(centres), 1)
    whole = float(((sample - sample.mean(axis=0)) ** 2).sum()) / max(len(sample) - 1, 1)
    return 1.0 - within / max(whole, 1e-12)


def _by_size(text: NDArray[np.float32], centres: Floats, each: int) -> NDArray[np.int32]:
    """[n] the cluster of each text among those with at least `each` texts, or the largest."""
    size = np.bincount(_nearest(text, centres), minlength=len(centres))
    kept = np.argsort(-size, kind="stable")[: max(int((size >= each).sum()), 1)]
    return _nearest(text, centres[kept])


def _nearest(text: NDArray[np.float32], centres: Floats) -> NDArray[np.int32]:
    place, far = centres.T.astype(np.float32), (centres**2).sum(axis=1).astype(np.float32) / 2.0
    parts = [
        (_directions(text[begin : begin + CHUNK]) @ place - far).argmax(axis=1)
        for begin in range(0, len(text), CHUNK)
    ]
    return np.concatenate(parts).astype(np.int32)
