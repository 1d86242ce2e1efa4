"""When the plan should be done, at the rates given: every option on its own, the last of them decides."""

from __future__ import annotations

import math
from collections.abc import Mapping

from thirdshift.router.planning.problem import Option, Problem
from thirdshift.router.planning.usage import PlanUsage


def finish(problem: Problem, total: PlanUsage, workers: Mapping[str, int]) -> float:
    """Seconds from now; options whose speed nobody knows take no time in this."""
    return max([*ends(problem, total, workers), *_shared(problem, total, workers)], default=0.0)


def ends(problem: Problem, total: PlanUsage, workers: Mapping[str, int]) -> list[float]:
    """Return when each option should be done, seconds from now; 0 for one that has nothing to do."""
    return [
        _end(
            option,
            float(total.count[e]),
            float(total.tokens[e]),
            float(total.busy[e]),
            workers.get(option.name, 0),
        )
        if total.count[e]
        else 0.0
        for e, option in enumerate(problem.options)
    ]


def _shared(problem: Problem, total: PlanUsage, workers: Mapping[str, int]) -> list[float]:
    """When pools should be done that take turns on the same devices."""
    seconds: dict[str, float] = {}
    for e, option in enumerate(problem.options):
        devices = None if option.workers is None else option.workers.devices
        if option.workers is not None and devices is not None and total.count[e]:
            work = option.workers.startup_seconds * max(1, workers.get(option.name, 0)) + float(total.busy[e])
            seconds[devices.kind] = seconds.get(devices.kind, 0.0) + work * devices.each / max(
                1, devices.here
            )
    return list(seconds.values())


def _end(option: Option, count: float, tokens: float, busy: float, workers: int) -> float:
    work = 0.0
    if option.requests_per_second:
        work = max(work, count / option.requests_per_second)
    if option.tokens_per_second:
        work = max(work, tokens / option.tokens_per_second)
    if option.workers is not None:
        work = max(work, option.workers.startup_seconds + busy / max(1, workers))
    sent = _after(option.windows, work)
    refill = min(option.refill_seconds or option.turnaround_seconds, option.turnaround_seconds)
    return sent + option.turnaround_seconds + refill * max(0, _rounds(option, count, tokens) - 1)


def _rounds(option: Option, count: float, tokens: float) -> int:
    """How often the queue must be filled; tokens come in whole requests, so it can be one more than this."""
    by_count = count / option.queue_requests if option.queue_requests else 0.0
    by_tokens = tokens / option.queue_tokens if option.queue_tokens else 0.0
    return math.ceil(max(by_count, by_tokens) - 1e-9)


def _after(windows: tuple[tuple[float, float], ...], work: float) -> float:
    """The instant at which so many seconds of open windows have gone by; at least the start of the first."""
    if not windows:
        return work
    for start, end in sorted(windows):
        if work <= end - start:
            return max(start, 0.0) + work
        work -= end - max(start, 0.0)
    return max(end for _, end in windows)
