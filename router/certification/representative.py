"""Whether rows that are said to be a random sample can be one, by what is known of all rows before any is answered.

A random sample has its share of every task, of every policy, of long and short requests. Where it has not, by a chance
that is next to none, what it shows is not of the whole. What nobody can see beforehand (that just the easy rows have a
reference) cannot be told here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.certification.bounds import chance_of_as_many

LEVEL = 1e-4
"""A sample that is random is refused once in so many, over all that is looked at together."""


def unlike(
    sample: NDArray[np.bool_],
    groups: Mapping[str, NDArray[np.integer]],
    measures: Mapping[str, NDArray[Any]],
    names: Mapping[str, tuple[str, ...]],
) -> str | None:
    """In what the sample is no random part of all rows, in a few words; None: in nothing that is known.

    `groups`: columns of group numbers, named one by one in `names`; `measures`: columns of numbers, compared by rank.
    """
    differences = [*_groups(sample, groups, names), *_measures(sample, measures)]
    if not differences:
        return None
    chance, sentence = min(differences)
    return sentence if chance * len(differences) < LEVEL else None


def _groups(
    sample: NDArray[np.bool_],
    groups: Mapping[str, NDArray[np.integer]],
    names: Mapping[str, tuple[str, ...]],
) -> list[tuple[float, str]]:
    differences = []
    size, drawn = len(sample), int(sample.sum())
    for what, column in groups.items():
        for group in np.unique(column).tolist():
            inside = column == group
            of_all, of_sample = int(inside.sum()), int((inside & sample).sum())
            chance = 2.0 * min(
                chance_of_as_many(of_sample, size, of_all, drawn),
                chance_of_as_many(drawn - of_sample, size, size - of_all, drawn),
            )
            name = names[what][group]
            sentence = f"{what} {name} is {of_all / size:.0%} of all rows and {of_sample / max(drawn, 1):.0%} of them"
            differences.append((chance, sentence))
    return differences


def _measures(sample: NDArray[np.bool_], measures: Mapping[str, NDArray[Any]]) -> list[tuple[float, str]]:
    """By the sum of ranks: any distribution, and few very long requests weigh no more than others."""
    differences = []
    size, drawn = len(sample), int(sample.sum())
    for what, column in measures.items():
        _, place, alike = np.unique(column, return_inverse=True, return_counts=True)
        rank = (np.cumsum(alike) - (alike - 1) / 2.0)[place]
        spread = np.sqrt(float(rank.var(ddof=1)) * (1.0 - drawn / size) / max(drawn, 1)) if size > 1 else 0.0
        if spread <= 0.0:
            continue
        deviation = float(rank[sample].mean() - rank.mean()) / spread
        word = "larger" if deviation > 0 else "smaller"
        differences.append((math.erfc(abs(deviation) / math.sqrt(2.0)), f"{what} is {word} among them"))
    return differences
