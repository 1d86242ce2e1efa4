"""Who answers what: the cheapest assignment that keeps the floor and every limit, how far from the best it can be, and why."""

from router.planning.limits import margin as margin
from router.planning.nearest import solve as solve
from router.planning.problem import Infeasible as Infeasible
from router.planning.problem import Option as Option
from router.planning.problem import Plan as Plan
from router.planning.problem import Problem as Problem
from router.planning.problem import Terms as Terms
from router.planning.problem import Workers as Workers
from router.planning.solve import best_effort as best_effort
from router.planning.solve import best_within as best_within
