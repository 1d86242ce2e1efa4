"""The plan a night was run by, kept in the run's folder as `plan.json`: its frontier, and where it stands on it.

The warehouse has the plan by request (`assignments`); what other floors would have cost is known only while the plan
is made, so it is written down then. A resumed run plans anew and writes anew.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from thirdshift.warehouse.journal.files import write_whole

NAME = "plan.json"


@dataclass(frozen=True, slots=True)
class KeptPlan:
    made_at: datetime
    floor: float | None
    """In absolute terms, as believed; None where nothing is to be cleared."""
    quality: float | None
    """Predicted mean; None where nothing is known of it."""
    cost_usd: float
    """Expected from then on: what was held already costs nothing."""
    spent_usd: float
    """Settled before the plan: what the pilot took."""
    gap: float
    """The share by which the cost may exceed the optimum."""
    points: tuple[tuple[float, float], ...] = ()
    """(floor, USD): other floors, and what they would have cost from then on."""

    @property
    def total_usd(self) -> float:
        return self.spent_usd + self.cost_usd


def keep_plan(folder: Path, plan: KeptPlan) -> None:
    """Write a run's plan down; whole or not at all."""
    text = json.dumps(asdict(plan), default=datetime.isoformat, indent=1)
    write_whole(folder / NAME, text.encode())


def load_plan(folder: Path) -> KeptPlan | None:
    """What `keep_plan` wrote; None where no plan was made yet, or by an earlier version."""
    path = folder / NAME
    if not path.exists():
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    points = tuple((floor, cost_usd) for floor, cost_usd in data.pop("points"))
    return KeptPlan(**{**data, "made_at": datetime.fromisoformat(data["made_at"])}, points=points)
