"""Linear algebra of small matrices on one core."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np  # noqa: F401  # its BLAS must be loaded to be found
from threadpoolctl import ThreadpoolController

Given = ParamSpec("Given")
Back = TypeVar("Back")

_BLAS = ThreadpoolController()


def on_one_core(work: Callable[Given, Back]) -> Callable[Given, Back]:
    """The same function without BLAS's threads. On matrices of a few hundred they mostly wait for each other: where two
    processes shared two cores, a backtest took four times longer with them (OpenBLAS 0.3.31)."""
    alone: Callable[Given, Back] = _BLAS.wrap(limits=1, user_api="blas")(work)
    return alone
