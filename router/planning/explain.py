"""What is told of a single request: its prediction, its price, the runner-up, and what tipped the scales."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from thirdshift.router.planning.coefficients import Real, chunks, pairs
from thirdshift.router.planning.problem import NOBODY, Plan, Problem


@dataclass(frozen=True, slots=True)
class AssignmentColumns:
    """[n] each, for the `assignments` table; not a number where there is nobody."""

    quality: Real = field(repr=False)
    cost_usd: Real = field(repr=False)
    """For workers: of the seconds it keeps one busy."""
    runner_up_usd: Real = field(repr=False)


def columns(problem: Problem, plan: Plan) -> AssignmentColumns:
    """What the plan predicts of every row."""
    explained = AssignmentColumns(*(np.full(problem.n, np.nan) for _ in range(3)))
    for part in chunks(problem.n):
        p = pairs(problem, part)
        rows = np.arange(len(p.weight))
        chosen, second = plan.choice[part], plan.runner_up[part]
        explained.quality[part] = np.where(chosen == NOBODY, np.nan, p.worth[rows, chosen] / p.weight)
        explained.cost_usd[part] = np.where(chosen == NOBODY, np.nan, p.cost[rows, chosen])
        explained.runner_up_usd[part] = np.where(second == NOBODY, np.nan, p.cost[rows, second])
    return explained


def why(problem: Problem, plan: Plan, row: int, *, known: Collection[str] | None = None) -> tuple[str, str]:
    """Two lines: where the row goes and what is expected of it; the runner-up and why it is not that. `known`: endpoints of
    whose quality something is believed; None: of all."""
    chosen, second = int(plan.choice[row]), int(plan.runner_up[row])
    if chosen == NOBODY:
        return f"row {row} goes nowhere", "no endpoint that is allowed for it can take it"
    p = pairs(problem, np.array([row]))
    task = f" (task {problem.tasks[int(p.task[0])]})" if len(problem.tasks) > 1 else ""
    quality, cost = p.worth[0] / p.weight[0], p.cost[0]
    name = problem.options[chosen].name
    sure = [known is None or option.endpoint in known for option in problem.options]
    expected = (
        f": predicted quality {quality[chosen]:.3f}" if sure[chosen] else ", whose quality nobody knows yet"
    )
    first = f"row {row}{task} goes to {name}{expected}, {money(cost[chosen])}"
    if second == NOBODY:
        return first, "no other endpoint may answer it"
    if not (sure[chosen] and sure[second]):
        apart = float(cost[second] - cost[chosen])
        dearer = f"dearer by {money(apart)}" if apart >= 0 else f"cheaper by {money(-apart)}"
        return first, (
            f"runner-up {problem.options[second].name}: {money(cost[second])}, {dearer}; which of them is better nobody "
            "knows yet"
        )
    other = f"runner-up {problem.options[second].name}: {quality[second]:.3f}, {money(cost[second])}"
    return first, f"{other}; {_tipped(problem, plan, row, chosen, second)}"


def _tipped(problem: Problem, plan: Plan, row: int, chosen: int, second: int) -> str:
    """The largest part of what the runner-up would cost more, in the plan's own prices."""
    p = pairs(problem, np.array([row]))
    own = _charges(problem, plan, p.tokens[0], float(p.weight[0]), chosen)
    other = _charges(problem, plan, p.tokens[0], float(p.weight[0]), second)
    dearer = float(p.cost[0, second] - p.cost[0, chosen])
    task = problem.tasks[int(p.task[0])] if problem.tasks else "default"
    price = plan.multipliers.get("floor", 0.0) + plan.multipliers.get(f"floor:{task}", 0.0)
    gain = float(p.worth[0, second] - p.worth[0, chosen])
    extra = {name: other.get(name, 0.0) - own.get(name, 0.0) for name in {*own, *other}}
    scarce = max(sorted(extra), key=lambda name: extra[name], default=None)
    if scarce is not None and extra[scarce] > max(dearer, -gain * price, 0.0):
        return f"{scarce.replace(':', ' of ')} is short, and worth {money(extra[scarce])} here"
    if dearer <= 0:
        worse = (
            f"its answer is worth {money(-gain * price)} less"
            if gain < 0 and price > 0
            else "the two are equal"
        )
        return f"cheaper by {money(-dearer)}, but {worse}"
    if gain > 0:
        return f"dearer by {money(dearer)}, and its answer is worth {money(gain * price)} more at this floor"
    return f"dearer by {money(dearer)}, and no better"


def _charges(problem: Problem, plan: Plan, tokens: Real, weight: float, e: int) -> dict[str, float]:
    """What the plan's limits charge a row on an option, by limit."""
    option = problem.options[e]
    units = {
        f"requests:{option.name}": 1.0,
        f"tokens:{option.name}": float(tokens[e]),
        f"share:{option.vendor}": weight,
    }
    return {name: unit * plan.multipliers[name] for name, unit in units.items() if name in plan.multipliers}


def money(amount: float) -> str:
    """Three digits that count."""
    if amount == 0:
        return "$0"
    return f"${amount:.2f}" if abs(amount) >= 1 else f"${float(f'{amount:.3g}'):.9f}".rstrip("0").rstrip(".")
