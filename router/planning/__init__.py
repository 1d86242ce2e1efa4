"""Who answers what: the cheapest assignment that keeps the floor and every limit, how far from the best it
can be, and why."""

from router.planning.explain import columns as columns
from router.planning.explain import why as why
from router.planning.frontier import frontier as frontier
from router.planning.limits import margin as margin
from router.planning.nearest import solve as solve
from router.planning.options import Pace as Pace
from router.planning.options import options_for as options_for
from router.planning.problem import Infeasible as Infeasible
from router.planning.problem import Option as Option
from router.planning.problem import Plan as Plan
from router.planning.problem import Problem as Problem
from router.planning.problem import Terms as Terms
from router.planning.problem import Workers as Workers
from router.planning.shards import Cutting as Cutting
from router.planning.shards import ShardPlan as ShardPlan
from router.planning.shards import cut as cut
from router.planning.solve import Compromise as Compromise
from router.planning.solve import best_within as best_within
from router.planning.solve import fallback as fallback
