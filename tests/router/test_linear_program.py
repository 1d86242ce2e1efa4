"""The program over groups of requests, where its solver does not quite end."""

from __future__ import annotations

from typing import Any

import highspy
import numpy as np
import pytest

from tests.support.planning_cases import random_problem
from thirdshift.router.planning.aggregation import survey
from thirdshift.router.planning.branch_and_bound import anything, search
from thirdshift.router.planning.duals import CHEAPEST
from thirdshift.router.planning.limits import limits_of, pools_of
from thirdshift.router.planning.linear_program import LinearProgram


class AHairOutside:
    """HiGHS as it is seen at times: from an earlier basis it calls optimal what misses its own tolerance, until it begins
    anew (highspy 1.15.1, by 2.6e-8 of a tolerance of 1e-9)."""

    def __init__(self, real: highspy.Highs) -> None:
        self._real, self._warm = real, False
        self.cleared = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def run(self) -> None:
        self._real.run()
        self._warm = self.cleared == 0

    def clearSolver(self) -> None:  # noqa: N802 - HiGHS' name
        self._real.clearSolver()
        self.cleared += 1

    def getInfo(self) -> highspy.HighsInfo:  # noqa: N802
        info = self._real.getInfo()
        if self._warm:
            info.primal_solution_status = highspy.SolutionStatus.kSolutionStatusInfeasible
        return info


@pytest.mark.parametrize("seed", [3, 14, 15])
def test_a_solution_a_hair_outside_of_the_tolerance_is_looked_for_again_from_the_start(seed: int) -> None:
    problem = random_problem(seed)
    given = survey(problem)
    limits, pools = limits_of(problem, given.totals), pools_of(problem, given.totals)

    def program() -> LinearProgram:
        return LinearProgram(given.table, limits, pools, CHEAPEST, given.scale)

    straight = search(program(), anything(pools)).best
    crooked = program()
    solver = AHairOutside(crooked._highs)
    crooked._highs = solver  # type: ignore[assignment]
    found = search(crooked, anything(pools)).best
    assert solver.cleared == 1
    assert found.value == pytest.approx(straight.value)
    assert np.allclose(found.workers, straight.workers)
