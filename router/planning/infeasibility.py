"""Why there is no plan, and what would make one: each term alone moved to the nearest value that works."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from thirdshift.router.planning.problem import Infeasible, Nearest, Plan, Problem, Reason, Terms
from thirdshift.router.planning.solve import best_quality, cheapest, possible

STEPS = 12
"""Halvings of an interval: to a four-thousandth of it."""

ALONE = {"cap_usd": "cap", "seconds": "deadline", "max_vendor_share": "vendor share"}
"""The terms beside the floor, and what they are called."""

LONGEST = 14 * 86_400.0
"""A deadline further off than two weeks is not looked for."""


def solve(problem: Problem) -> Plan | Infeasible:
    """The cheapest plan that keeps every term, or why there is none and what is nearest."""
    plan = cheapest(problem)
    return explain_infeasible(problem) if plan is None else plan


def explain_infeasible(problem: Problem) -> Infeasible:
    """For a problem that has no plan. Each nearest value is one for which a plan was found."""
    terms = problem.terms
    best = best_quality(problem)
    capless = _otherwise(problem, replace(terms, cap_usd=None))
    timeless = _otherwise(problem, replace(terms, seconds=None))
    nearest = Nearest(
        floor=_floor(problem, best),
        cap_usd=capless.cost_usd if capless else None,
        seconds=_seconds(problem) if timeless else None,
    )
    return Infeasible(tuple(_reasons(problem, nearest, capless, timeless)), nearest)


def _otherwise(problem: Problem, terms: Terms) -> Plan | None:
    """The cheapest plan on other terms; None also where they are not other ones."""
    return None if terms == problem.terms else cheapest(problem.under(terms))


def _floor(problem: Problem, best: float | None) -> float | None:
    """The highest floor that cap, deadline and shares allow, margins taken off."""
    terms = problem.terms
    if best is None or terms.floor is None:
        return None
    if not terms.per_task:
        return max(0.0, best - terms.margin)
    worst = min(terms.task_margins.get(name, terms.margin) for name in problem.tasks)
    low, high = 0.0, min(terms.floor, best - worst)
    return _last(low, high, lambda floor: possible(problem.under(replace(terms, floor=floor))))


def _seconds(problem: Problem) -> float | None:
    """The nearest deadline that is far enough off."""
    now = problem.terms.seconds
    if now is None:
        return None

    def enough(seconds: float) -> bool:
        return possible(problem.under(replace(problem.terms, seconds=seconds)))

    high = max(now, 60.0)
    while high < LONGEST and not enough(high):
        now, high = high, high * 2
    if high >= LONGEST and not enough(high):
        return None
    found = _last(-high, -now, lambda seconds: enough(-seconds))
    return math.ceil(-found) if found is not None else None


def _last(low: float, high: float, works: Callable[[float], bool]) -> float | None:
    """The largest value between `low`, which should work, and `high`, which does not; None where not even
    `low` does."""
    if not works(low):
        return None
    for _ in range(STEPS):
        middle = (low + high) / 2
        if works(middle):
            low = middle
        else:
            high = middle
    return low


def _reasons(problem: Problem, nearest: Nearest, capless: Plan | None, timeless: Plan | None) -> list[Reason]:
    """One for each term that alone stands in the way; where none does, the terms together."""
    terms = problem.terms
    found: list[Reason] = []
    if terms.floor is not None and nearest.floor is not None:
        found.append(Reason("floor", _floor_message(terms, nearest.floor)))
    if capless is not None and terms.cap_usd is not None:
        asked = "" if terms.floor is None else f"a floor of {terms.floor:g} "
        verb = "costs" if asked else "answering all requests costs"
        found.append(
            Reason(
                "cap_usd", f"{asked}{verb} {dollars(capless.cost_usd)}; the cap is {dollars(terms.cap_usd)}"
            )
        )
    if timeless is not None and terms.seconds is not None:
        before = terms.before_seconds
        more = f"; {hours(nearest.seconds + before)} would be enough" if nearest.seconds is not None else ""
        in_time = terms.seconds + before
        when = f"the deadline is in {hours(in_time)}" if in_time > 0 else "the deadline has passed"
        message = f"{when}{more}; with none it costs {dollars(timeless.cost_usd)}"
        found.append(Reason("deadline", message))
    spread = _otherwise(problem, replace(terms, max_vendor_share=None))
    if spread is not None and terms.max_vendor_share is not None:
        message = f"with no limit of {terms.max_vendor_share:g} to a vendor's share it costs {dollars(spread.cost_usd)}"
        found.append(Reason("max_vendor_share", message))
    return found or _together(problem)


def _floor_message(terms: Terms, reached: float) -> str:
    given = [f"at {dollars(terms.cap_usd)}"] if terms.cap_usd is not None else []
    given += [f"within {hours(terms.seconds)}"] if terms.seconds is not None else []
    return _best_floor(" ".join(given) or "with these endpoints", terms, reached)


def _best_floor(where: str, terms: Terms, reached: float) -> str:
    safe = f", {terms.margin:.3f} of margin taken off" if terms.margin > 0 else ""
    each = " for every task" if terms.per_task else ""
    return f"{where} the best floor{each} is {math.floor(reached * 1e4) / 1e4:g}{safe}; {terms.floor:g} is asked for"


def _together(problem: Problem) -> list[Reason]:
    """Where no term moved alone makes a plan: what is out of reach whatever the others are, else what conflicts."""
    terms = problem.terms
    loose = problem.under(replace(terms, cap_usd=None, seconds=None, max_vendor_share=None))
    best = best_quality(loose)
    if best is None:
        message = "the endpoints allowed cannot answer every request, whatever the cap and the deadline"
        return [Reason("policy", message)]
    if terms.floor is not None and not possible(loose):
        reached = _floor(loose, best) or 0.0
        return [Reason("floor", _best_floor("whatever the cap and the deadline", terms, reached))]
    given = [name for name in ALONE if getattr(terms, name) is not None]
    hopeless = [name for name in given if not possible(loose.under(_only(terms, name)))]
    if hopeless:
        return [_hopeless(loose, terms, name) for name in hopeless]
    names = [ALONE[name] for name in given]
    together = " and ".join([", ".join(names[:-1]), names[-1]])
    return [Reason("terms", f"{together} stand in each other's way; no one of them alone is at fault")]


def _only(terms: Terms, kept: str) -> Terms:
    return replace(
        terms,
        cap_usd=terms.cap_usd if kept == "cap_usd" else None,
        seconds=terms.seconds if kept == "seconds" else None,
        max_vendor_share=terms.max_vendor_share if kept == "max_vendor_share" else None,
    )


def _hopeless(loose: Problem, terms: Terms, name: str) -> Reason:
    """Why a term cannot be kept, whatever the others are."""
    asked = "all requests" if terms.floor is None else f"a floor of {terms.floor:g}"
    if name == "cap_usd" and terms.cap_usd is not None:
        plan = cheapest(loose)
        costs = "" if plan is None else f" takes {dollars(plan.cost_usd)}"
        message = f"{asked}{costs} whatever the deadline; the cap is {dollars(terms.cap_usd)}"
        return Reason("cap_usd", message)
    if name == "seconds" and terms.seconds is not None:
        when = f"the deadline is in {hours(max(0.0, terms.seconds + terms.before_seconds))}"
        return Reason("deadline", f"{when}; {asked} cannot be had by then, whatever the cap")
    vendors = len({option.vendor for option in loose.options if not option.calls})
    share = f"with at most {terms.max_vendor_share:g} of the requests at one vendor"
    message = f"{share}, {vendors} vendors cannot give {asked}, whatever the cap and the deadline"
    return Reason("max_vendor_share", message)


def dollars(amount: float) -> str:
    """Up to the next cent, or two digits where it is less than one: never less than it takes."""
    if amount <= 0:
        return "$0"
    places = 2 if amount >= 0.01 else 1 - math.floor(math.log10(amount))
    return f"${math.ceil(round(amount * 10**places, 6)) / 10**places:.{places}f}"


def hours(seconds: float) -> str:
    """As people say it: `45 s`, `12 min`, `7.5 h`; rounded up."""
    if seconds < 120:
        return f"{math.ceil(seconds)} s"
    if seconds < 7200:
        return f"{math.ceil(seconds / 60)} min"
    return f"{math.ceil(seconds / 360) / 10:g} h"
