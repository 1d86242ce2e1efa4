"""How a run was called: everything that is not in the job file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from thirdshift.flows.runs.ids import checked_run_id


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run was called: everything that is not in the job file."""

    job: Path
    params: dict[str, str] = field(default_factory=dict)
    run_id: str | None = None
    warehouse: Path | None = None
    fresh: bool = False
    yes: bool = False
    cap: Decimal | None = None
    """Overrides budget.cap_usd."""
    deadline: str | None = None
    """Overrides the job's."""
    emulated: bool = False
    """A rehearsal: every endpoint is answered by the emulated provider."""
    outcomes: Path | None = None
    """Recorded outcomes that emulated models repeat."""

    def __post_init__(self) -> None:
        """Raises RunIdError: command line, form and API all come by here."""
        if self.run_id is not None:
            checked_run_id(self.run_id)

    def as_parameters(self) -> dict[str, Any]:
        """As a flow's parameters: names, numbers and paths as text."""
        shown = asdict(self)
        return {
            name: str(value) if isinstance(value, (Path, Decimal)) else value for name, value in shown.items()
        }

    @classmethod
    def from_parameters(cls, parameters: dict[str, Any]) -> RunOptions:
        paths = {
            name: Path(parameters[name]) if parameters.get(name) else None
            for name in ("warehouse", "outcomes")
        }
        cap = None if parameters.get("cap") is None else Decimal(str(parameters["cap"]))
        params = {
            name: as_text(value)
            for name, value in (parameters.get("params") or {}).items()
            if value is not None
        }
        # a form's empty field is ""
        texts = {name: parameters.get(name) or None for name in ("run_id", "deadline")}
        return cls(
            **{**parameters, **paths, **texts, "job": Path(parameters["job"]), "cap": cap, "params": params}
        )


def as_text(value: Any) -> str:
    """A param as a job file would have it written."""
    return str(value).lower() if isinstance(value, bool) else str(value)
