"""Tell which question to the warehouse gives a figure of the page, ready to be asked again with `thirdshift sql`."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import dedent

from thirdshift.flows.report import queries

QUESTIONS: Mapping[str, str] = {
    "bill": queries.BILL,
    "certificates": queries.CERTIFICATES,
    "dearest": queries.DEAREST,
    "estimates": queries.ESTIMATES,
    "failed-attempts": queries.FAILED_ATTEMPTS,
    "frontier": queries.BILL,
    "prices": queries.PRICES,
    "rejected": queries.REJECTED,
    "served": queries.SERVED,
    "shards": queries.SHARDS,
    "slowest": queries.SLOWEST,
    "spend": queries.SPEND,
    "spend-by-task": queries.SPEND_BY_TASK,
    "tiles": queries.COUNTS,
    "timeline": queries.SPENT_OVER_TIME,
    "times": queries.TIMES,
    "unanswered": queries.UNANSWERED,
    "workers": queries.WORKERS,
}
"""A table's or a drawing's name, or `tiles`, to its query. The line of the frontier is the plan's own, in its plan.json."""


def question(name: str, run_id: str) -> str:
    """Return the query behind a table or a drawing with the run's id in its place, as a statement that ends."""
    literal = "'" + run_id.replace("'", "''") + "'"
    return dedent(QUESTIONS[name]).strip().replace("$run_id", literal) + ";"
