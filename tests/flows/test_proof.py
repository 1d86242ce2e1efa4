"""How high a plan aims where looking at scores costs money."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.nights import write_sums
from thirdshift.flows.api.plans import PlanReport, plan

REQUESTS = 400


def planned(folder: Path, good_usd: float, **quality: Any) -> PlanReport:
    """Two endpoints, one that is just good enough and one that is better at this price; the judge is dear."""
    write_sums(folder / "requests.parquet", REQUESTS, tasks=("sums",))
    ends: dict[str, dict[str, Any]] = {
        "just": {"price": {"input": 0.1, "output": 0.1}, "quality_prior": 0.87},
        "good": {"price": {"input": good_usd, "output": good_usd}, "quality_prior": 0.97},
        "wise": {"price": {"input": 5, "output": 25}, "only": "judge"},
    }
    job = {
        "name": "sums",
        "input": "requests.parquet",
        "request": {"max_tokens": 32},
        "quality": {
            "floor": 0.85,
            "pilot": 0,
            "scorer": "judge",
            "judge": {"endpoint": "wise", "rubric": "1 if the sum is right"},
            **quality,
        },
        "endpoints": [
            {"name": name, "model": f"openai/{name}", "api_base": "http://127.0.0.1:9/v1", **more}
            for name, more in ends.items()
        ],
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return plan(folder / "job.yaml")


def test_a_plan_aims_higher_where_that_costs_less_than_the_verdicts_it_saves(tmp_path: Path) -> None:
    told = planned(tmp_path, 0.2)
    assert told.labels_needed is not None
    assert told.labels_needed < REQUESTS / 4
    assert told.endpoints["good"].requests > REQUESTS / 2
    assert told.quality == pytest.approx(0.96, abs=0.02)


def test_a_plan_aims_no_higher_than_pays(tmp_path: Path) -> None:
    told = planned(tmp_path, 1000.0)
    assert told.endpoints["just"].requests > 0.9 * REQUESTS
    assert told.quality == pytest.approx(0.87, abs=0.01)


def test_a_plan_aims_at_what_the_scores_allowed_can_show(tmp_path: Path) -> None:
    told = planned(tmp_path, 10.0, labels=120)
    assert told.labels_needed is not None
    assert told.labels_needed <= 120
