"""Means, variances and high figures of what is distributed as a lognormal that ends at a ceiling."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]
Floats = NDArray[np.float64]

HIGH = 1.96
"""Standard errors above the mean of the high figure: one-sided 97.5 %, since pilots seldom hold the
longest answers."""

_FEW = 4096


def cut_moments(level: Floats, sigma: Floats | float, cap: Ints | Floats) -> tuple[Floats, Floats]:
    """Mean and variance of min(X, cap) for log X normal(level, sigma)."""
    top = np.log(np.maximum(cap, 1.0))
    z = (top - level) / sigma
    beyond = normal_share(-z)
    first = np.exp(level + sigma**2 / 2) * normal_share(z - sigma) + cap * beyond
    second = (
        np.exp(2 * level + 2 * sigma**2) * normal_share(z - 2 * sigma)
        + np.square(cap, dtype=np.float64) * beyond
    )
    return first, np.maximum(second - first**2, 0.0)


def normal_share(z: Floats) -> Floats:
    """The share of a standard normal that is below each `z`. For few values the standard library does, which spares a
    short plan scipy's import: 0.1 s."""
    if z.size > _FEW:
        from scipy.special import ndtr

        return np.asarray(ndtr(z), np.float64)
    share = [0.5 * math.erfc(-value / math.sqrt(2.0)) for value in np.ravel(z).tolist()]
    return np.array(share, np.float64).reshape(np.shape(z))


def high_figure(mean: float, sd: float) -> float:
    """Upper figure of a positive total: normal where the error is small, lognormal where it is not."""
    return 0.0 if mean <= 0 else max(mean + HIGH * sd, mean * float(np.exp(min(HIGH * sd / mean, 3.0))))
