"""Kinds of requests that nobody named: clusters of like texts, which stand in for tasks where there is only one."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.prediction.features import COUNTS as COUNTED
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
SAMPLE = 2_000
"""Texts on which the centres are found: the work grows with their square."""
FORM = 0.6
"""What a text's counts (length, digits, lines and so on) weigh beside 1 for its words: several of them say the same. With
less, sums and letters that have a number in common are of one kind."""
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
    tree, most = _tree(sample), len(np.unique(sample, axis=0))
    for count in COUNTS:
        if count * OF_TEMPLATE > len(sample) or count > most:
            break
        centres = _centres(sample, tree, count)
        if _told(sample, centres) >= TOLD:
            return _by_size(text, centres, 1)
    return _by_size(text, _centres(sample, tree, min(FEW, len(text) // EACH, most)), EACH)


def _directions(text: NDArray[np.float32]) -> NDArray[np.float32]:
    """Texts as directions from the middle of all: how far out one lies says more of its length than of its kind."""
    found = text.copy()
    found[:, -COUNTED:] *= np.float32(FORM)
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), np.float32(1e-9))
    return found


def _tree(sample: Floats) -> Floats:
    """Return which texts and clusters join in what order, by Ward's criterion."""
    from scipy.cluster.hierarchy import ward

    tree: Floats = ward(sample)
    return tree


def _centres(sample: Floats, tree: Floats, count: int) -> Floats:
    """Return so many centres by k-means. It starts from Ward's clusters: from centres drawn at random, some end up between
    two templates and others share one."""
    from scipy.cluster.hierarchy import fcluster
    from scipy.cluster.vq import kmeans2

    label = fcluster(tree, count, "maxclust") - 1
    size = np.bincount(label)
    start = np.zeros((len(size), sample.shape[1]))
    np.add.at(start, label, sample)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a cluster that ends up empty has no members to lose
        centres: Floats = kmeans2(sample, start / size[:, None], minit="matrix")[0]
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
