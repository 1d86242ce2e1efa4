"""The build that plays: its parts by one set of names, whether its folders are the package `thirdshift` or stand alone."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

NEW = (Path.cwd() / "src" / "thirdshift").exists()


def part(new: str, old: str, name: str, old_name: str | None = None) -> Any:
    """A thing of the build in the working directory: module and name there."""
    if NEW:
        return getattr(import_module(f"thirdshift.{new}"), name)
    return getattr(import_module(old), old_name or name)


open_run = part("flows.execution.opening", "flows.opening", "open_run", "opened")
run_stages = part("flows.execution.stages", "flows.road", "run_stages", "travelled")
RunOptions = part("flows.runs.options", "flows.running", "RunOptions", "Call")
Records = part("engines.core.records", "engines.books", "AttemptRecords", "Books")
Reply = part("engines.core.transport", "engines.transport", "Reply")
Meter = part("engines.metered.meter", "engines.vllm_meter", "Meter")
Rates = part("engines.metered.throughput", "engines.vllm_rates", "Rates")
Lifetime = part("engines.metered.records", "engines.vllm_books", "WorkerLifetime", "WorkerLife")
hardware = part("engines.devices", "engines.devices", "hardware")
price_id = part("router.pricing.prices", "router.prices", "price_id")
values = import_module("thirdshift.router.values" if NEW else "router.values")
interfaces = import_module("thirdshift.router.interfaces" if NEW else "router.values")
Warehouse = part("warehouse.store.store", "warehouse.store", "Warehouse")
dispatching = import_module("thirdshift.flows.dispatch.dispatcher" if NEW else "flows.crew")


def money_of(desk: Any) -> Any:
    """The budget that a run lends to an engine."""
    return desk.budget if NEW else desk.escrow


def dispatcher_of(run: Any) -> Any:
    return run.dispatcher if NEW else run.crew


def planned_figures(job: Path, run_id: str) -> dict[str, Any]:
    """What `plan --json` says."""
    if NEW:
        from thirdshift.flows.api.plans import looking_ahead, report_of

        with looking_ahead(RunOptions(job=job, run_id=run_id)) as outlook:
            report = report_of(outlook)
        return {"feasible": report.feasible, "cost_usd": report.cost_usd, "cost_usd_high": report.cost_usd_high,
                "finish_at": report.finish_at and report.finish_at.timestamp()}  # fmt: skip
    import tempfile
    from datetime import datetime

    planning, setting = import_module("flows.planning"), import_module("flows.setting")
    with tempfile.TemporaryDirectory() as folder:
        informed = planning._informed(setting.setting_of(RunOptions(job=job), "plan"))  # noqa: SLF001
        data = planning.as_data(planning.look_ahead(informed, Path(folder)))
    finish = data.get("finish_at")
    finish = datetime.fromisoformat(finish) if isinstance(finish, str) else finish
    return {name: data.get(name) for name in ("feasible", "cost_usd", "cost_usd_high")} | {
        "finish_at": None if finish is None else finish.timestamp()
    }


def idle_seconds(started_in: float, minimum_left: float, *, expected: bool) -> float:
    """For how long a worker is kept idle, by the build's rule."""
    try:
        idle = import_module("thirdshift.engines.metered.idle")
    except ModuleNotFoundError:  # a build that kept each as long
        return 300.0
    return float(idle.idle_seconds(started_in, minimum_left, idle.IDLE_SECONDS, expected=expected))


def too_late(seconds_left: float, turnaround_seconds: float | None) -> bool:
    """Whether a further batch is not placed as it would be back after the deadline, by the build's rule."""
    try:
        rule = import_module("thirdshift.engines.batch.room").too_late
    except (ModuleNotFoundError, AttributeError):  # a build that placed it all the same
        return False
    return bool(rule(seconds_left, turnaround_seconds))
