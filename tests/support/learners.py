"""A learner before its run has sent anything: what the stages ask before there is a plan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.support.nights import write_sums
from thirdshift.flows.api.plans import looking_ahead
from thirdshift.flows.planning.learner import Learner
from thirdshift.flows.planning.measured.run_queries import RunQueries
from thirdshift.flows.runs.options import RunOptions
from thirdshift.warehouse.store.store import Warehouse

NOBODY = {"api_base": "http://127.0.0.1:9/v1"}


@contextmanager
def learner(folder: Path, rows: int, endpoints: dict[str, dict[str, Any]], **keys: Any) -> Iterator[Learner]:
    write_sums(folder / "requests.parquet", rows)
    named = [
        {"name": name, "model": f"openai/{name}", **({} if "engine" in endpoint else NOBODY), **endpoint}
        for name, endpoint in endpoints.items()
    ]
    job = {"name": "sums", "input": "requests.parquet", "warehouse": "warehouse.duckdb", "endpoints": named}
    (folder / "job.yaml").write_text(yaml.safe_dump(job | keys))
    with looking_ahead(RunOptions(job=folder / "job.yaml")) as outlook:
        context = outlook.context
        with Warehouse.open(context.warehouse):
            pass
        names = [endpoint.name for endpoint in context.endpoints]
        queries = RunQueries(context.warehouse, context.run_id, names)
        yield Learner.of(context, queries, outlook.columns, outlook.batch, lambda *said: None)
