"""The `run` and `resume` commands: what a call asks for, the checks before anything is spent, and how a night ends."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from flows.errors import UserError
from flows.prefect_home import settle_environment
from flows.run_folder import UnknownRun, folder_of, known_runs, recall


@dataclass(frozen=True, slots=True)
class Call:
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

    def as_parameters(self) -> dict[str, Any]:
        """As a flow's parameters: names, numbers and paths as text."""
        shown = asdict(self)
        return {
            name: str(value) if isinstance(value, (Path, Decimal)) else value for name, value in shown.items()
        }

    @classmethod
    def from_parameters(cls, told: dict[str, Any]) -> Call:
        paths = {name: Path(told[name]) if told.get(name) else None for name in ("warehouse", "outcomes")}
        cap = None if told.get("cap") is None else Decimal(str(told["cap"]))
        params = {
            name: as_text(value) for name, value in (told.get("params") or {}).items() if value is not None
        }
        # a form's empty field is ""
        texts = {name: told.get(name) or None for name in ("run_id", "deadline")}
        return cls(**{**told, **paths, **texts, "job": Path(told["job"]), "cap": cap, "params": params})


def as_text(value: Any) -> str:
    """A param as a job file would have it written."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def run_job(call: Call, *, as_json: bool) -> int:
    """Run the night under Prefect; the exit code."""
    settle_environment()
    from flows.asking import jsonable
    from flows.ending import show_end
    from flows.exits import NotDone
    from flows.night import night
    from flows.setting import name_of_run, ready, setting_of
    from flows.stopping import kept, last_words

    run_id = name_of_run(call)
    ready(setting_of(call, run_id))  # every mistake is told before Prefect starts
    try:
        with last_words(run_id):
            summary = night(**replace(call, run_id=run_id).as_parameters())
    except NotDone as over:
        summary = over.summary
    except KeyboardInterrupt:
        print(f"\n{kept(run_id)}", file=sys.stderr)
        return 130
    if as_json:
        print(json.dumps(summary, default=jsonable))
    else:
        show_end(summary)
    return int(summary["exit"])


def resume_run(
    run_id: str, warehouse: Path | None, *, cap: float | None, deadline: str | None, yes: bool, as_json: bool
) -> int:
    """Go on with a run, called as it was called, under its job file as it is now."""
    place = warehouse or Path("warehouse.duckdb").resolve()
    told = recall(folder_of(place, run_id))
    if told is None:
        known = known_runs(place)
        raise UnknownRun(
            f"no run {run_id} beside {place}; "
            + (f"there are {', '.join(known[:5])}" if known else "name its warehouse with --warehouse FILE")
        )
    known_call = Call.from_parameters(told["call"])
    call = Call(
        job=known_call.job,
        params=known_call.params,
        run_id=run_id,
        warehouse=place,
        yes=yes or known_call.yes,
        cap=None if cap is None else Decimal(str(cap)),
        deadline=deadline,
        emulated=known_call.emulated,
        outcomes=known_call.outcomes,
    )
    if not call.job.exists():
        raise UserError(f"run {run_id}: its job file {call.job} is gone; put it back to go on")
    return run_job(call, as_json=as_json)
