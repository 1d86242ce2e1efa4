"""Rows that a shift leaves in the warehouse: its plan, its shards, its prices."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.planning.input import PreparedInput
from thirdshift.flows.planning.planner import Decision
from thirdshift.router.planning import explain
from thirdshift.router.planning.problem import NOBODY, Plan
from thirdshift.router.values import usd
from thirdshift.warehouse.intake.frozen import column
from thirdshift.warehouse.journal.parts import INSTANT, USD
from thirdshift.warehouse.store import dispatch
from thirdshift.warehouse.store.prices import twelve_places
from thirdshift.warehouse.store.store import Warehouse

if TYPE_CHECKING:
    from thirdshift.flows.dispatch.work import ShardWork


def assignments(
    run_id: str,
    batch: PreparedInput,
    columns: RequestColumns,
    decision: Decision,
    plan: Plan,
    names: Sequence[str],
    difficulty: NDArray[np.float64],
) -> pa.Table:
    """The plan by request. Duplicates go where the first of them goes, at no cost of their own. `difficulty`: [leaders]"""
    told, market = explain.columns(decision.problem, plan), decision.market
    position = columns.positions(batch.leader)
    choice, second = plan.choice[position], plan.runner_up[position]
    endpoint = np.where(choice == NOBODY, -1, market.endpoint[choice])
    follows = batch.leader != np.arange(batch.rows)
    own = np.where(follows, 0.0, told.cost_usd[position])
    votes = [offer.option.name for offer in market.offered[market.singles :]]
    known = pa.array([*names, *votes, None], pa.string())
    by_name = known.take(pa.array(np.where(endpoint < 0, len(known) - 1, endpoint)))
    other = np.where(second == NOBODY, len(known) - 1, market.column[second])
    inputs = np.stack(columns.tokens, axis=1)[position, np.maximum(endpoint, 0)]
    outputs = market.output_tokens[position, np.maximum(endpoint, 0)]
    tasks = pa.array(batch.intake.tasks, pa.string())
    return pa.table(
        {
            "run_id": pa.array([run_id] * batch.rows, pa.string()),
            "request_id": column(batch.folder, "request_id"),
            "task": tasks.take(pa.array(batch.task)),
            "endpoint": by_name,
            "input_tokens": pa.array(inputs.astype(np.int64)),
            "output_tokens": pa.array(np.rint(outputs).astype(np.int64)),
            "difficulty": pa.array(difficulty[position], from_pandas=True),  # null where it is not known
            "predicted_quality": pa.array(told.quality[position]),
            "predicted_usd": dollars(own),
            "runner_up": known.take(pa.array(other)),
            "runner_up_usd": dollars(np.where(follows, 0.0, told.runner_up_usd[position])),
        }
    )


def dollars(amounts: NDArray[np.float64]) -> pa.Array:
    """A column of money; what is not a number becomes null."""
    rounded = [None if np.isnan(amount) else usd(float(amount)) for amount in amounts.tolist()]
    return pa.array(rounded, USD)


def save_shard(warehouse: Warehouse, run_id: str, work: ShardWork, status: str, attempts: int = 1) -> None:
    now = datetime.now(UTC)
    row = {
        "run_id": run_id,
        "shard_id": work.shard_id,
        "endpoint": work.endpoint,
        "purpose": work.purpose.value,
        "subject": work.subject,
        "requests": len(work.rows),
        "status": status,
        "started_at": work.begun,
        "finished_at": now if status in ("done", "failed") else None,
        "attempts": attempts,
    }
    schema = pa.schema(
        [(name, pa.string()) for name in ("run_id", "shard_id", "endpoint", "purpose", "subject", "status")]
        + [
            ("requests", pa.int64()),
            ("attempts", pa.int64()),
            ("started_at", INSTANT),
            ("finished_at", INSTANT),
        ]
    )
    dispatch.save_shards(warehouse, pa.Table.from_pylist([row], schema))


LIFETIME = (
    "worker_id",
    "node",
    "device",
    "pid",
    "started_at",
    "ready_at",
    "stopped_at",
    "paid_until",
    "energy_kwh",
)


def worker_rows(run_id: str, worker_lifetimes: Sequence[tuple[str, Any]]) -> pa.Table:
    """The `workers` table: one row per local worker's life."""
    rows = [
        {
            "run_id": run_id,
            "endpoint": endpoint,
            **{name: getattr(life, name) for name in LIFETIME},
            "usd_per_hour": twelve_places(life.usd_per_hour),
            "cost_usd": life.cost_usd,
            "accounting_usd": life.accounting_usd,
        }
        for endpoint, life in worker_lifetimes
    ]
    types = dict.fromkeys(("started_at", "ready_at", "stopped_at", "paid_until"), INSTANT)
    types |= {
        "pid": pa.int64(),
        "energy_kwh": pa.float64(),
        "usd_per_hour": pa.decimal128(18, 12),
        "cost_usd": USD,
        "accounting_usd": USD,
    }
    return pa.Table.from_pylist(rows, pa.schema([(name, types.get(name, pa.string())) for name in rows[0]]))


SILENT = """
select count(*) as failed, mode(message) as message from responses
where run_id = $run_id and shard_id = $shard_id and failure_kind not in ('budget', 'deadline', 'cancelled')
having count(*) = (select count(*) from responses where run_id = $run_id and shard_id = $shard_id)
"""


def silence(warehouse: Warehouse, run_id: str, work: ShardWork) -> str | None:
    """A sentence on a shard of which no request was answered; None where some were, or it was not sent."""
    found = warehouse.query(SILENT, run_id=run_id, shard_id=work.shard_id).to_pylist()
    if not found or not found[0]["failed"]:
        return None
    return f"{work.endpoint} answered none of {found[0]['failed']:,} requests: {found[0]['message']}"
