"""Questions to a warehouse, in SQL."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from thirdshift.flows.api.jobs import AnyPath
from thirdshift.flows.dispatch.dead_runs import enter_interrupted
from thirdshift.flows.errors import UserError
from thirdshift.warehouse.errors import WarehouseError
from thirdshift.warehouse.store.ask import ask


def query(warehouse: AnyPath, sql: str) -> pa.Table:
    """Ask a warehouse one question in SQL, and return the answer as an Arrow table. Read-only, also beside a run.

    A run whose process is gone is entered as interrupted first. Raises UserError where the file or the question is wrong.
    """
    enter_interrupted(Path(warehouse))
    try:
        return ask(Path(warehouse), sql)
    except WarehouseError as error:
        raise UserError(str(error)) from error
