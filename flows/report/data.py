"""Read everything that the report shows of a run at one moment: from the warehouse, and the plan from the run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from thirdshift.flows.report import queries
from thirdshift.flows.runs.folder import RunAlive, UnknownRun, locked
from thirdshift.flows.runs.plan_file import KeptPlan, load_plan
from thirdshift.flows.verdicts import Verdict, exit_code, verdicts_of
from thirdshift.warehouse.journal.run_folder import MARKER, run_folder
from thirdshift.warehouse.store.read_only import Question, reading

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run's facts; rows are as the queries of `thirdshift.flows.report.queries` give them."""

    read_at: datetime
    run: Row
    config: Row
    """The job as it was read, without secrets."""
    verdicts: tuple[Verdict, ...]
    alive: bool
    """Whether a process is on the run now."""
    plan: KeptPlan | None
    counts: Row
    bill: Sequence[Row]
    certificates: Sequence[Row]
    served: Sequence[Row]
    spend: Sequence[Row]
    spend_by_task: Sequence[Row]
    times: Sequence[Row]
    shards: Sequence[Row]
    workers: Sequence[Row]
    spent_over_time: Sequence[Row]
    estimates: Sequence[Row]
    failed_attempts: Sequence[Row]
    unanswered: Sequence[Row]
    rejected: Sequence[Row]
    broken_shards: Row
    slowest: Sequence[Row]
    dearest: Sequence[Row]
    prices: Sequence[Row]
    emulated: tuple[str, ...]
    """Endpoints that our emulated provider answered for."""
    texts: Mapping[str, Row]
    """Texts of the slowest and dearest requests by id, where they were asked for."""

    @property
    def over(self) -> bool:
        """Whether the run has ended, by itself or by a stop."""
        return self.run["finished_at"] is not None and self.run["status"] not in ("running", "failed")

    @property
    def exit_code(self) -> int | None:
        """The exit code of the run; None while it is not over."""
        return exit_code(self.verdicts) if self.over else None

    @property
    def overall(self) -> Row | None:
        """The certificate of the whole batch; None where there is none."""
        return next((row for row in self.certificates if row["task"] is None), None)

    @property
    def relative_to(self) -> str | None:
        """The endpoint that the floor is a share of."""
        named: str | None = (self.config.get("quality") or {}).get("relative_to")
        return named

    @property
    def spent_usd(self) -> float:
        """US dollars settled; what unsettled attempts can have cost besides is `counts["unsettled_usd"]`."""
        return float(self.counts["spent_usd"])

    @property
    def by_settled(self) -> str:
        """What stands behind the name of a figure of what is settled, where more is unsettled."""
        return ", settled" if self.counts["unsettled"] else ""


def load_facts(warehouse: Path, run_id: str) -> RunFacts:
    """Read a run's facts. Raises UnknownRun, and StoreError if the warehouse is missing, in use or of another version."""
    folder = run_folder(warehouse, run_id)
    with reading(warehouse) as ask:
        rows = _rows(ask, queries.RUN, run_id)
        if not rows:
            known = [row["run_id"] for row in _rows(ask, queries.RUNS, run_id)]
            raise UnknownRun(
                f"no run {run_id} in {warehouse}; "
                + (f"the newest are {', '.join(known)}" if known else "it has none yet")
            )
        run = rows[0]
        return RunFacts(
            read_at=datetime.now(UTC),
            run=run,
            config=json.loads(run["config"] or "{}"),
            verdicts=tuple(verdicts_of(json.loads(run["outcomes"] or "[]"))),
            alive=_alive(folder),
            plan=load_plan(folder),
            counts=_rows(ask, queries.COUNTS, run_id)[0],
            bill=_rows(ask, queries.BILL, run_id),
            certificates=_rows(ask, queries.CERTIFICATES, run_id),
            served=_rows(ask, queries.SERVED, run_id),
            spend=_rows(ask, queries.SPEND, run_id),
            spend_by_task=_rows(ask, queries.SPEND_BY_TASK, run_id),
            times=_rows(ask, queries.TIMES, run_id),
            shards=_rows(ask, queries.SHARDS, run_id),
            workers=_rows(ask, queries.WORKERS, run_id),
            spent_over_time=_rows(ask, queries.SPENT_OVER_TIME, run_id),
            estimates=_rows(ask, queries.ESTIMATES, run_id),
            failed_attempts=_rows(ask, queries.FAILED_ATTEMPTS, run_id),
            unanswered=_rows(ask, queries.UNANSWERED, run_id),
            rejected=_rows(ask, queries.REJECTED, run_id),
            broken_shards=_rows(ask, queries.BROKEN_SHARDS, run_id)[0],
            slowest=_rows(ask, queries.SLOWEST, run_id),
            dearest=_rows(ask, queries.DEAREST, run_id),
            prices=_rows(ask, queries.PRICES, run_id),
            emulated=tuple(row["endpoint"] for row in _rows(ask, queries.EMULATED, run_id)),
            texts={},
        )


def _rows(ask: Question, sql: str, run_id: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = ask(sql, run_id=run_id).to_pylist()
    return rows


def _alive(folder: Path) -> bool:
    if not (folder / MARKER).exists():
        return False
    try:
        with locked(folder):
            return False
    except RunAlive:
        return True
