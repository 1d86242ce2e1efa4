"""What a run leaves in Prefect's UI: the plan, and at the end the bill and the certificate."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.ending import lines

if TYPE_CHECKING:
    from flows.shift import Shift


def leave_plan(shift: Shift) -> None:
    """The plan as a table: an endpoint a row."""
    create_table_artifact(
        key=_key(shift, "plan"),
        table=shift.plan_rows(),
        description="Who answers what, and what it should cost.",
    )


def leave_bill(shift: Shift, summary: Mapping[str, Any]) -> None:
    """How the night ended, and the bill against every single endpoint alone."""
    rows = shift.bill_rows()
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
