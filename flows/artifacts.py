"""What a run leaves in Prefect's UI: the plan, and at the end the bill and the certificate."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.ending import lines
from warehouse.store import Warehouse

if TYPE_CHECKING:
    from flows.shift import Shift

PLANNED = """
select endpoint, count(*) as requests, sum(input_tokens)::bigint as input_tokens,
       sum(output_tokens)::bigint as output_tokens,
       sum(predicted_usd)::double as expected_usd, avg(predicted_quality) as expected_quality
from assignments where run_id = $run_id group by endpoint order by requests desc
"""
BILL = """
select endpoint, alone_usd::double as alone_usd, spent_usd::double as spent_usd, saved_usd::double as saved_usd
from savings where run_id = $run_id order by alone_usd
"""


def leave_plan(shift: Shift) -> None:
    """The plan as a table: an endpoint a row."""
    create_table_artifact(
        key=_key(shift, "plan"),
        table=_rows(shift, PLANNED),
        description="Who answers what, and what it should cost.",
    )


def leave_bill(shift: Shift, summary: Mapping[str, Any]) -> None:
    """How the night ended, and the bill against every single endpoint alone."""
    rows = _rows(shift, BILL)
    head = list(rows[0]) if rows else []
    table = [
        f"| {' | '.join(map(str, row))} |"
        for row in [head, ["---"] * len(head), *(row.values() for row in rows)]
    ]
    text = "\n\n".join(["\n".join(f"- {line}" for line in lines(summary)), "\n".join(table) if rows else ""])
    create_markdown_artifact(
        key=_key(shift, "end"), markdown=text, description="The bill and the certificate."
    )


def _key(shift: Shift, what: str) -> str:
    """Prefect's keys are lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", f"{shift.setting.run_id}-{what}".lower()).strip("-")


def _rows(shift: Shift, sql: str) -> list[dict[str, Any]]:
    with Warehouse.open(shift.setting.warehouse) as warehouse:
        rows: list[dict[str, Any]] = warehouse.query(sql, run_id=shift.setting.run_id).to_pylist()
    return rows
