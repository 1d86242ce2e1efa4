"""Random small problems for the planner's tests, and their exact answer: every request singly, in whole
numbers, in HiGHS."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from thirdshift.router.planning import Option, Problem, Terms, Workers


def random_problem(seed: int, rows: int | None = None) -> Problem:
    """3 to 40 rows (or `rows`), 2 to 6 options, each kind of constraint in some of them."""
    rng = np.random.default_rng(seed)
    n, width, tasks = int(rng.integers(3, 40)), int(rng.integers(2, 7)), int(rng.integers(1, 4))
    n = rows or n
    ability = np.sort(rng.normal(0, 1.2, width))
    quality = 1 / (1 + np.exp(rng.normal(0, 1, (n, 1)) - ability - rng.normal(0, 0.4, (n, width))))
    inputs, outputs = rng.uniform(50, 2000, n), rng.uniform(20, 800, (n, width))
    price = 10 ** rng.uniform(-1, 1.2) * np.exp(ability)
    cost = (inputs[:, None] + 4 * outputs) * price * 1e-6
    if rng.random() < 0.2:
        cost[rng.random((n, width)) < 0.1] = np.inf
    seconds = float(rng.uniform(300, 7200)) if rng.random() < 0.7 else None
    options = tuple(_option(rng, e, n, float(inputs.sum()), cost, seconds) for e in range(width))
    policies = rng.random((int(rng.integers(1, 4)), width)) < 0.9
    eligible = policies if rng.random() < 0.4 else None
    policy = rng.integers(0, len(policies), n) if eligible is not None and len(policies) > 1 else None
    reach = float(quality.max(axis=1).mean())
    terms = Terms(
        floor=reach * float(rng.uniform(0.6, 1.005)) if rng.random() < 0.85 else None,
        per_task=bool(rng.random() < 0.25),
        margin=0.01 if rng.random() < 0.2 else 0.0,
        cap_usd=float(cost[np.isfinite(cost)].mean() * n * rng.uniform(0.3, 1.5))
        if rng.random() < 0.4
        else None,
        max_vendor_share=float(rng.uniform(0.45, 0.9)) if rng.random() < 0.35 else None,
        seconds=seconds,
    )
    weight = rng.integers(1, 4, n) if rng.random() < 0.3 else np.ones(n, dtype=np.int64)
    names = tuple(f"task-{t}" for t in range(tasks))
    return Problem(
        options,
        names,
        rng.integers(0, tasks, n),
        weight,
        cost,
        quality,
        inputs,
        outputs,
        eligible,
        policy,
        terms,
    )


def _option(
    rng: np.random.Generator, e: int, n: int, tokens: float, cost: np.ndarray, seconds: float | None
) -> Option:
    workers, windows = None, ()
    if rng.random() < 0.25:
        cost[np.isfinite(cost[:, e]), e] = 0.0
        slow = tokens / 4000 * rng.uniform(0.2, 2)
        workers = Workers(
            int(rng.integers(1, 4)), float(rng.uniform(0.005, 0.2)), slow, slow * 0.7,
            float(rng.uniform(0, 400)), float(rng.choice([0.0, 600.0, 3600.0])),
        )  # fmt: skip
    if rng.random() < 0.2:
        start = float(rng.uniform(0, 4000))
        windows = ((start, start + 2000.0),)
    time = seconds or 3600.0
    return Option(
        f"option-{e}", f"endpoint-{e}", f"vendor-{int(rng.integers(0, 3))}", windows,
        requests_per_second=float(rng.uniform(0.2, 1.2)) * n / time if rng.random() < 0.25 else None,
        tokens_per_second=float(rng.uniform(0.2, 1.6)) * tokens / time if rng.random() < 0.25 else None,
        turnaround_seconds=float(rng.choice([0.0, 900.0])) if rng.random() < 0.2 else 0.0,
        queue_requests=int(rng.integers(1, n + 1)) if rng.random() < 0.15 else None,
        token_factor=float(rng.uniform(0.8, 1.3)),
        workers=workers,
    )  # fmt: skip


@dataclass(frozen=True)
class Used:
    """What a choice of options uses, from the definitions alone."""

    cost: float
    worth: float
    by_task: dict[int, tuple[float, float]]
    problems: list[str]


def check(problem: Problem, choice: np.ndarray, workers: dict[str, int]) -> Used:  # noqa: C901 - one constraint after another, as they are stated
    """Every constraint recomputed row by row, in plain Python, from the problem as it is stated."""
    terms, broken = problem.terms, []
    sums = {e: [0.0, 0.0, 0.0, 0.0] for e in range(problem.width)}
    cost = worth = weight = 0.0
    by_task: dict[int, tuple[float, float]] = {}
    outputs = problem.output_tokens
    for i, e in enumerate(int(c) for c in choice):
        if e < 0:
            continue
        option = problem.options[e]
        allowed = (
            problem.eligible is None
            or problem.eligible[0 if problem.policy is None else problem.policy[i], e]
        )
        if not allowed or not math.isfinite(problem.cost[i, e]):
            broken.append(f"row {i} may not be answered by {option.name}")
        w, t = float(problem.weight[i]), int(problem.task[i])
        ins = float(problem.input_tokens[i]) * option.token_factor
        out = float(outputs[i] if outputs.ndim == 1 else outputs[i, e])
        busy = option.workers.seconds(ins, out) if option.workers else 0.0
        for place, value in enumerate((1.0, w, ins + out, busy)):
            sums[e][place] += value
        cost += float(problem.cost[i, e])
        worth += w * float(problem.quality[i, e])
        weight += w
        done = by_task.get(t, (0.0, 0.0))
        by_task[t] = (done[0] + w * float(problem.quality[i, e]), done[1] + w)
    for e, option in enumerate(problem.options):
        count, _, tokens, busy = sums[e]
        if count > option.max_requests(terms.seconds) + 1e-6:
            broken.append(f"requests of {option.name}")
        if tokens > option.max_tokens(terms.seconds) * (1 + 1e-6):
            broken.append(f"tokens of {option.name}")
        if option.workers:
            number = workers.get(option.name, 0)
            if number > option.workers.max_workers or busy > number * option.worker_seconds(terms.seconds) * (
                1 + 1e-6
            ):
                broken.append(f"workers of {option.name}")
            paid = max(
                number * option.workers.startup_seconds + busy, number * option.workers.minimum_seconds
            )
            cost += paid / 3600 * option.workers.usd_per_hour
    if terms.max_vendor_share is not None:
        for vendor in {option.vendor for option in problem.options}:
            share = sum(sums[e][1] for e, option in enumerate(problem.options) if option.vendor == vendor)
            if share > terms.max_vendor_share * weight * (1 + 1e-6):
                broken.append(f"share of {vendor}")
    if terms.cap_usd is not None and cost > terms.cap_usd * (1 + 1e-6):
        broken.append("cap")
    if terms.floor is not None and weight:
        goal = terms.floor + terms.margin - 2e-7
        if worth / weight < goal:
            broken.append("floor")
        if terms.per_task and any(w / total < goal for w, total in by_task.values()):
            broken.append("floor of a task")
    return Used(cost, worth / weight if weight else 0.0, by_task, broken)


def exact(problem: Problem) -> float | None:  # noqa: C901 - one constraint after another, as they are stated
    """The least cost there is: binaries x[i,e], integer w[e], continuous paid seconds h[e]; scipy's door to
    HiGHS.

    A formulation of its own, sharing nothing with thirdshift.router.planning but the problem.
    """
    n, width, terms = problem.n, problem.width, problem.terms
    allowed = np.isfinite(problem.cost)
    if problem.eligible is not None:
        allowed &= problem.eligible[np.zeros(n, dtype=int) if problem.policy is None else problem.policy]
    rows = np.flatnonzero(allowed.any(axis=1))
    cells = n * width
    total = cells + 2 * width

    def blank() -> np.ndarray:
        return np.zeros(total)

    objective, upper, a, low, high = blank(), np.zeros(total), [], [], []
    objective[:cells] = np.where(allowed, problem.cost, 0.0).ravel()
    upper[:cells] = allowed.ravel()

    def add(row: np.ndarray, least: float, most: float) -> None:
        a.append(row), low.append(least), high.append(most)

    for i in rows:
        row = blank()
        row[i * width : (i + 1) * width] = 1
        add(row, 1, 1)
    outputs = problem.output_tokens if problem.output_tokens.ndim == 2 else problem.output_tokens[:, None]
    for e, option in enumerate(problem.options):
        cell = np.arange(n) * width + e
        ins = problem.input_tokens * option.token_factor
        out = outputs[:, min(e, outputs.shape[1] - 1)]
        requests, tokens = option.max_requests(terms.seconds), option.max_tokens(terms.seconds)
        if math.isfinite(requests):
            row = blank()
            row[cell] = 1
            add(row, -np.inf, math.floor(requests + 1e-9))
        if math.isfinite(tokens):
            row = blank()
            row[cell] = ins + out
            add(row / max(tokens, 1.0), -np.inf, tokens / max(tokens, 1.0))
        if option.workers:
            spec, w, h = option.workers, cells + e, cells + width + e
            busy = spec.seconds(ins, out)
            time = min(option.worker_seconds(terms.seconds), float(busy.sum()))
            upper[w], upper[h] = spec.max_workers, np.inf
            objective[h] = spec.usd_per_hour / 3600
            row = blank()
            row[cell], row[w] = busy, -time
            add(row, -np.inf, 0)
            row = blank()
            row[cell], row[w], row[h] = -busy, -spec.startup_seconds, 1
            add(row, 0, np.inf)
            row = blank()
            row[w], row[h] = -spec.minimum_seconds, 1
            add(row, 0, np.inf)
    weight = problem.weight[rows].sum()
    if terms.max_vendor_share is not None:
        for vendor in {option.vendor for option in problem.options}:
            row = blank()
            for e, option in enumerate(problem.options):
                if option.vendor == vendor:
                    row[np.arange(n) * width + e] = problem.weight
            add(row, -np.inf, terms.max_vendor_share * weight)
    if terms.cap_usd is not None:
        add(objective.copy() / max(terms.cap_usd, 1e-9), -np.inf, terms.cap_usd / max(terms.cap_usd, 1e-9))
    if terms.floor is not None:
        goal = terms.floor + terms.margin - 1e-7
        worth = (np.where(allowed, problem.quality, 0) * problem.weight[:, None]).ravel()
        groups = [rows] + (
            [rows[problem.task[rows] == t] for t in range(len(problem.tasks))] if terms.per_task else []
        )
        for group in groups:
            if len(group):
                row = blank()
                cell = (group[:, None] * width + np.arange(width)).ravel()
                row[cell] = worth[cell] / problem.weight[group].sum()
                add(row, goal, np.inf)
    if not len(rows):
        return 0.0
    scale = max(float(objective[:cells].max()), 1e-9)
    integrality = np.concatenate([np.ones(cells + width), np.zeros(width)])
    found = milp(
        objective / scale,
        constraints=LinearConstraint(np.array(a), low, high),
        bounds=Bounds(np.zeros(total), upper),
        integrality=integrality,
        options={"mip_rel_gap": 0.0, "time_limit": 20.0},
    )
    if found.status == 2:
        return None
    if found.status != 0:
        raise TimeoutError("the exact solver was not done in time")
    return float(found.fun * scale)
