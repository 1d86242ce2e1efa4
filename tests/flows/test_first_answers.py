"""What is answered before there is a plan, where a plan would go by a guess of how long answers are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.support.nights import write_sums
from thirdshift.flows.api.plans import looking_ahead
from thirdshift.flows.planning.first_answers import FEW, first_answers
from thirdshift.flows.planning.learner import Learner
from thirdshift.flows.planning.run_queries import RunQueries
from thirdshift.flows.runs.options import RunOptions
from thirdshift.warehouse.store.store import Warehouse

CHEAP = {"price": {"input": 1, "output": 4}, "quality_prior": 0.6}
SAME = {"price": {"input": 1.2, "output": 4.8}, "quality_prior": 0.6}
DEAR = {"price": {"input": 20, "output": 80}, "quality_prior": 0.9}
BATCH = {"price": {"input": 0.5, "output": 2}, "quality_prior": 0.6, "mode": "batch", "turnaround": "1h"}


@contextmanager
def learner(folder: Path, rows: int, endpoints: dict[str, dict[str, Any]], **keys: Any) -> Iterator[Learner]:
    write_sums(folder / "requests.parquet", rows)
    named = [
        {"name": name, "model": f"openai/{name}", "api_base": "http://127.0.0.1:9/v1", **endpoint}
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


def test_a_few_requests_go_first_to_whatever_may_be_the_bargain(tmp_path: Path) -> None:
    with learner(tmp_path, 300, {"cheap": CHEAP, "same": SAME, "dear": DEAR}) as before_the_plan:
        found = dict(first_answers(before_the_plan))
    assert found.keys() == {"cheap"}
    assert len(np.unique(found["cheap"])) == FEW


@pytest.mark.parametrize(
    ("rows", "endpoints", "keys"),
    [
        (300, {"cheap": CHEAP}, {}),  # nothing is to be chosen
        (60, {"cheap": CHEAP, "dear": DEAR}, {}),  # there is little to save
        (
            300,
            {"cheap": CHEAP, "dear": DEAR},
            {"quality": {"floor": 0.5, "scorer": "numeric"}},
        ),  # a pilot tells
        (300, {"batch": BATCH, "dear": DEAR}, {}),  # a batch takes hours
    ],
)
def test_nothing_goes_first_where_it_tells_nothing_that_matters(
    tmp_path: Path, rows: int, endpoints: dict[str, dict[str, Any]], keys: dict[str, Any]
) -> None:
    with learner(tmp_path, rows, endpoints, **keys) as before_the_plan:
        assert first_answers(before_the_plan) == []
