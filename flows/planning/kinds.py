"""Kinds of requests in a batch whose rows name no task: what is learnt is learnt for each."""

from __future__ import annotations

from dataclasses import replace

from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.runs.context import RunContext
from thirdshift.router.prediction.kinds import with_kinds


def in_kinds(context: RunContext, columns: RequestColumns) -> RequestColumns:
    """Return the columns with clusters of like prompts in the place of tasks, where scores are to be learnt and no row
    names a task; as they are otherwise, and where the floor is asked of each task."""
    if not context.learns or context.job.quality.per_task or len(columns.tasks) != 1:
        return columns
    population = with_kinds(columns.population)
    names = tuple(f"{columns.tasks[0]} {number + 1}" for number in range(population.tasks))
    return columns if population.tasks == 1 else replace(columns, population=population, tasks=names)
