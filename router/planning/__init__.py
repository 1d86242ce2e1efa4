"""Who answers what: the cheapest assignment that keeps the floor and every limit, how far from the best it
can be, and why."""

from thirdshift.router.planning.explain import columns as columns
from thirdshift.router.planning.explain import why as why
from thirdshift.router.planning.frontier import frontier as frontier
from thirdshift.router.planning.infeasibility import solve as solve
from thirdshift.router.planning.limits import margin as margin
from thirdshift.router.planning.options import Throughput as Throughput
from thirdshift.router.planning.options import options_for as options_for
from thirdshift.router.planning.problem import Infeasible as Infeasible
from thirdshift.router.planning.problem import Option as Option
from thirdshift.router.planning.problem import Plan as Plan
from thirdshift.router.planning.problem import Problem as Problem
from thirdshift.router.planning.problem import Terms as Terms
from thirdshift.router.planning.problem import Workers as Workers
from thirdshift.router.planning.shards import Cutting as Cutting
from thirdshift.router.planning.shards import ShardPlan as ShardPlan
from thirdshift.router.planning.shards import cut as cut
from thirdshift.router.planning.solve import Compromise as Compromise
from thirdshift.router.planning.solve import best_within as best_within
from thirdshift.router.planning.solve import fallback as fallback
