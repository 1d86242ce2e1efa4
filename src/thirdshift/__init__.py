"""Thirdshift: a night's worth of LLM requests at the lowest price that clears a quality floor.

The public API. Each name is loaded when it is first used, so that `import thirdshift` costs next to nothing:

    import thirdshift

    plan = thirdshift.plan("triage.yaml")
    summary = thirdshift.run("triage.yaml", cap_usd=30)
    thirdshift.query(summary.warehouse, "select * from results")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thirdshift.flows.api.backtests import BacktestReport, backtest
    from thirdshift.flows.api.jobs import load_job
    from thirdshift.flows.api.plans import PlanReport, plan
    from thirdshift.flows.api.questions import query
    from thirdshift.flows.api.runs import rehearse, resume, run
    from thirdshift.flows.errors import BrokeOff, JobError, UserError
    from thirdshift.flows.jobs.job import Job
    from thirdshift.flows.night import night
    from thirdshift.flows.runs.folder import RunAlive
    from thirdshift.flows.runs.summary import RunSummary
    from thirdshift.router.backtesting.played_night import BacktestSettings

__all__ = [
    "BacktestReport",
    "BacktestSettings",
    "BrokeOff",
    "Job",
    "JobError",
    "PlanReport",
    "RunAlive",
    "RunSummary",
    "UserError",
    "backtest",
    "load_job",
    "night",
    "plan",
    "query",
    "rehearse",
    "resume",
    "run",
]

_HOMES = {
    "flows.api.backtests": ("BacktestReport", "backtest"),
    "flows.api.jobs": ("load_job",),
    "flows.api.plans": ("PlanReport", "plan"),
    "flows.api.questions": ("query",),
    "flows.api.runs": ("rehearse", "resume", "run"),
    "flows.runs.summary": ("RunSummary",),
    "flows.errors": ("BrokeOff", "JobError", "UserError"),
    "flows.jobs.job": ("Job",),
    "flows.night": ("night",),
    "flows.runs.folder": ("RunAlive",),
    "router.backtesting.played_night": ("BacktestSettings",),
}
_MODULES = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name from the module that has it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
