"""A plan of lots: what it says is what a plan of each request by itself says."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from thirdshift.flows.api.plans import PlanReport, looking_ahead, report_of, why
from thirdshift.flows.planning.lots import plan_columns
from thirdshift.flows.runs.options import RunOptions
from thirdshift.router.lots import total

ROWS, LOTS = 3_000, 150
LONG = "Answer in one word, as the manual says. " * 120
NOBODY = {"api_base": "http://127.0.0.1:9/v1"}
ENDPOINTS: dict[str, dict[str, Any]] = {
    "cheap": {"price": {"input": 0.1, "output": 0.4}, "quality_prior": 0.6, "region": "us"},
    "cached": {"price": {"input": 1, "output": 4, "cached_input": 0.1}, "quality_prior": 0.8, "region": "eu"},
    "dear": {"price": {"input": 5, "output": 25}, "quality_prior": 0.95, "region": "eu"},
}
QUALITY = {"floor": 0.8, "scorer": "exact", "pilot": 0}


def write_job(folder: Path, endpoints: dict[str, dict[str, Any]] = ENDPOINTS, **keys: Any) -> Path:
    """Three tasks of very different lengths, a tenth of it duplicates, some under a policy, some with a long beginning."""
    rng = random.Random(7)
    rows = []
    for number in range(ROWS):
        words = rng.choice([5, 20, 80, 300])
        text = " ".join(rng.choice("the parcel came late please refund it now".split()) for _ in range(words))  # noqa: SIM905
        beginning = LONG if number % 5 == 0 else ""
        rows.append({
            "request_id": f"r{number}", "prompt": f"{beginning}{number} {text}", "task": f"t{number % 3}",
            "policy": "home" if number % 7 == 0 else None, "reference": "4", "max_tokens": 64 * (1 + number % 2),
        })  # fmt: skip
    for number in range(0, ROWS, 10):
        rows[number]["prompt"] = rows[number // 2]["prompt"]
    pq.write_table(pa.Table.from_pylist(rows), folder / "requests.parquet")
    job = {
        "name": "lots", "input": "requests.parquet", "warehouse": "w.duckdb", "quality": QUALITY,
        "policies": {"home": {"regions": {"allow": ["eu"]}}},
        "endpoints": [{"name": name, "model": f"openai/{name}", **NOBODY, **end} for name, end in endpoints.items()],
    }  # fmt: skip
    (folder / "job.yaml").write_text(yaml.safe_dump(job | keys))
    return folder / "job.yaml"


def test_what_lots_sum_to_is_what_the_requests_sum_to(tmp_path: Path) -> None:
    with looking_ahead(RunOptions(job=write_job(tmp_path)), lots=0) as outlook:
        context, batch, each = outlook.context, outlook.batch, outlook.columns
        lots = plan_columns(batch, context.endpoints, context.allowed, LOTS)
    assert len(lots.rows) < len(each.rows) / 3
    assert (lots.requests, lots.weight.sum()) == (len(each.rows), ROWS)
    assert lots.sent is not None
    assert (np.diff(lots.rows) > 0).all()
    for mine, theirs in zip(lots.tokens, each.tokens, strict=True):
        assert total(mine, lots.sent) == pytest.approx(theirs.sum())
    for cache, other in zip(lots.caches, each.caches, strict=True):
        assert total(cache.found, lots.sent) == pytest.approx(other.found.sum())
        assert other.found.sum() > 0
    allowed = lots.allowed.astype(float)
    assert total(allowed, lots.sent).tolist() == each.allowed.sum(axis=0).tolist()
    task = [lots.sent[lots.population.task == t].sum() for t in range(3)]
    assert task == np.bincount(each.population.task).tolist()
    assert lots.sent.max() <= len(each.rows) // LOTS


TERMS: dict[str, dict[str, Any]] = {
    "every score is free": {},
    "scores that cost": {
        "quality": QUALITY | {"scorer": "judge", "judge": {"endpoint": "dear", "rubric": "Be kind."}}
    },
    "a cap": {"budget": {"cap_usd": 4}},
    "a floor for each task": {"quality": QUALITY | {"per_task": True}},
    "a share of each vendor": {"policy": {"max_vendor_share": 0.7}},
    "rates and a deadline": {"deadline": "1h"},
    "workers by the hour": {},
}


def report_by(job: Path, lots: int) -> tuple[PlanReport, bool]:
    """What is told, and whether what fails stays as it is."""
    with looking_ahead(RunOptions(job=job), lots=lots) as outlook:
        return report_of(outlook), outlook.decision.cascades is None


@pytest.mark.parametrize("terms", TERMS)
def test_a_plan_of_lots_costs_what_a_plan_of_each_request_does(tmp_path: Path, terms: str) -> None:
    endpoints = {name: dict(end) for name, end in ENDPOINTS.items()}
    if terms.startswith("rates"):
        endpoints["cached"]["limits"] = {"rpm": 20}
        endpoints["dear"]["limits"] = {"tpm": 40_000}
    if terms.startswith("workers"):
        endpoints["cheap"] = {"usd_per_hour": 0.5, "quality_prior": 0.7}
    if terms.startswith("a share"):
        for name, end in endpoints.items():
            end["provider"] = "one" if name == "cheap" else "other"
    job = write_job(tmp_path, endpoints, **TERMS[terms])
    (one, sure), (other, _) = (report_by(job, count) for count in (0, LOTS))
    assert one.feasible
    assert (other.feasible, other.requests, other.rejects) == (one.feasible, one.requests, one.rejects)
    assert other.cost_usd == pytest.approx(one.cost_usd, rel=0.01)
    assert other.cost_usd_high >= other.cost_usd
    if sure:  # else it is drawn, from forty worlds
        assert other.cost_usd_high == pytest.approx(one.cost_usd_high, rel=0.02)
    assert other.quality == pytest.approx(one.quality, abs=0.005)
    assert sum(share.requests for share in other.endpoints.values()) == ROWS
    for name, share in one.endpoints.items():
        assert other.endpoints[name].requests == pytest.approx(share.requests, abs=0.03 * ROWS)
    assert [point.cost_usd for point in other.frontier] == pytest.approx(
        [point.cost_usd for point in one.frontier], rel=0.05
    )
    if one.finish_at is not None:
        assert abs((other.finish_at - one.finish_at).total_seconds()) < 120


def test_one_request_of_many_is_explained_by_a_plan_that_knows_it(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    with looking_ahead(RunOptions(job=job), lots=LOTS) as outlook, pytest.raises(ValueError, match="lots=0"):
        why(outlook, "r17")
    with looking_ahead(RunOptions(job=job), lots=0) as outlook:
        assert why(outlook, "r17")[0].startswith("r17 ")
