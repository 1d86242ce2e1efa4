"""The tables `assignments`, `shards` and `workers`: what was planned, what was sent, and what local workers cost."""

from __future__ import annotations

import pyarrow as pa

from thirdshift.warehouse.store.store import Warehouse


def save_assignments(warehouse: Warehouse, assignments: pa.Table) -> None:
    """Put in assignments instead of those of the same requests."""
    warehouse.replace("assignments", assignments, ["run_id", "request_id"])


def save_shards(warehouse: Warehouse, shards: pa.Table) -> None:
    """Put in shards instead of those of the same ids."""
    warehouse.replace("shards", shards, ["run_id", "shard_id"])


def save_workers(warehouse: Warehouse, workers: pa.Table) -> None:
    """Put in workers instead of those of the same ids."""
    warehouse.replace("workers", workers, ["run_id", "worker_id"])
