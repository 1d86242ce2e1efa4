"""What earlier runs in the warehouse tell a plan: turnarounds, throughput, latency, who answered nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal

from thirdshift.flows.console import money, spent
from thirdshift.flows.dispatch.dead_runs import enter_interrupted
from thirdshift.flows.dispatch.harvest import with_turnarounds
from thirdshift.flows.planning.measured.silent import silent_before
from thirdshift.flows.planning.measured.throughput import with_throughput
from thirdshift.flows.runs.context import RunContext, too_large, with_clusters
from thirdshift.warehouse.store.ledger import spent_in_window
from thirdshift.warehouse.store.store import Warehouse

Say = Callable[[str], None]


def informed_context(context: RunContext, say: Say) -> RunContext:
    """With the turnarounds and the workers' pace that earlier nights in the warehouse tell, where there is one."""
    late = context.job.on_deadline == "realtime"
    enter_interrupted(context.warehouse)
    context = with_clusters(context)
    with ExitStack() as held:
        there = context.warehouse.exists()
        known = held.enter_context(Warehouse.open(context.warehouse)) if there else None
        endpoints = with_turnarounds(context.endpoints, known, cut_short=late)
        informed, throughputs = with_throughput(replace(context, endpoints=endpoints), known)
        if known is not None:
            silent = silent_before(known, context.job.name, "", endpoints, emulated=context.call.emulated)
            informed = replace(informed, silent=tuple(silent))
        informed = _within_window(informed, known, say)
    for line in (*too_large(context), *throughputs):
        say(line)
    return informed


def _within_window(context: RunContext, known: Warehouse | None, say: Say) -> RunContext:
    """With the cap that the budget's day or month has left."""
    window, cap = context.job.budget.window, context.cap_usd
    if known is None or window == "run" or cap is None:
        return context
    before = spent_in_window(known, context.job.name, window, context.clock(), emulated=context.call.emulated)
    left = max(cap - before.most_usd, Decimal(0))
    if before.most_usd:
        say(
            f"runs of this {window}: {spent(before.settled_usd, before.unsettled_usd)}; the cap is {money(cap)}, and "
            f"{money(left)} are left of it to plan with"
        )
    return replace(context, cap_usd=left)
