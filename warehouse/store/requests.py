"""The tables `requests` and `rejects`: the frozen input of a run, row by row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thirdshift.warehouse.intake.sources import quoted
from thirdshift.warehouse.journal.run_folder import run_folder
from thirdshift.warehouse.store.store import Warehouse, frozen_parquet

SAVE = """
insert into requests by name
select $run_id as run_id, request_id, request_hash, source_row, task, policy, metadata, row, leader, {tag} as tag
from {frozen}
"""

SAVE_REJECTS = """
insert into rejects by name
select $run_id as run_id, request_id, source_row, reason from read_parquet({path})
"""


def save(
    warehouse: Warehouse,
    run_id: str,
    folder: Path,
    tags: Mapping[str, str] | None = None,
    charge_by: Sequence[str] = (),
) -> int:
    """Put in the accepted requests of a run's frozen input in `folder`, in place of those that are there; how many.

    For charge-back each gets one tag, of the job's `tags` and its own metadata under the keys `charge_by`.
    """
    run_tag, request_tag = tag_expressions(tags or {}, charge_by)
    with warehouse.transaction():
        warehouse.execute("delete from requests where run_id = $run_id", run_id=run_id)
        warehouse.execute(SAVE.format(tag=request_tag, frozen=frozen_parquet(folder)), run_id=run_id)
        warehouse.execute(f"update runs set tag = {run_tag} where run_id = $run_id", run_id=run_id)
    return warehouse.count("requests", run_id)


def save_rejects(warehouse: Warehouse, run_id: str, folder: Path) -> int:
    """Put in the refused rows of a run's frozen input in `folder`, in place of those that are there; how many."""
    path = quoted(str(folder / "rejects.parquet"))
    with warehouse.transaction():
        warehouse.execute("delete from rejects where run_id = $run_id", run_id=run_id)
        warehouse.execute(SAVE_REJECTS.format(path=path), run_id=run_id)
    return warehouse.count("rejects", run_id)


def response_schemas(warehouse: Warehouse, run_id: str) -> list[dict[str, Any]]:
    """The distinct response schemas of a run's frozen input."""
    frozen = frozen_parquet(run_folder(warehouse.path, run_id))
    schemas = warehouse.query(
        f"select distinct response_schema from {frozen} where response_schema is not null order by 1"
    )
    return [json.loads(schema) for schema in schemas["response_schema"].to_pylist()]


def tag_expressions(tags: Mapping[str, str], charge_by: Sequence[str]) -> tuple[str, str]:
    """The tag of a run, and that of a request, as expressions: `team=support, customer=acme`; null without any."""
    pairs = [f"{key}={value}" for key, value in tags.items()]
    fixed = quoted(", ".join(pairs)) if pairs else "null"
    if not charge_by:
        return fixed, fixed
    from_metadata = [
        f"{quoted(key + '=')} || coalesce(json_extract_string(metadata, {quoted(pointer(key))}), 'none')"
        for key in charge_by
    ]
    return fixed, "concat_ws(', ', " + ", ".join([fixed, *from_metadata]) + ")"


def pointer(key: str) -> str:
    """A JSON pointer to one key, whatever it is made of."""
    return "/" + key.replace("~", "~0").replace("/", "~1")
