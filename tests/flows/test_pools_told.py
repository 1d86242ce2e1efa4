"""Which workers paid by the hour a pilot starts where earlier nights have told what they are worth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.learners import learner
from thirdshift.router.prediction.observations import PastScores

SEEN = 200
WEAK, STRONG, API = range(3)
POOL = {"engine": "vllm", "device": "cpu", "usd_per_hour": 2.0}
ENDPOINTS = {
    "weak": POOL | {"quality_prior": 0.5},
    "strong": POOL | {"quality_prior": 0.9, "usd_per_hour": 2.2},
    "api": {"price": {"input": 300, "output": 1200}, "quality_prior": 0.9},
}


def told(right: dict[int, float]) -> PastScores:
    """Scores of an earlier night, so many right of each endpoint."""
    score = [np.arange(SEEN) < share * SEEN for share in right.values()]
    endpoint = np.repeat(list(right), SEEN).astype(np.int32)
    request = np.tile(np.arange(SEEN), len(right))
    return PastScores(
        np.zeros(len(endpoint), np.int32), endpoint, np.concatenate(score).astype(float), request
    )


@pytest.mark.parametrize(("before", "started"), [({}, {STRONG}), ({WEAK: 0.5, STRONG: 0.9}, {STRONG})])
def test_a_worker_that_would_not_serve_is_not_started_to_be_told_so_again(
    tmp_path: Path, before: dict[int, float], started: set[int]
) -> None:
    quality = {"floor": 0.85, "scorer": "numeric"}
    with learner(tmp_path, 2000, ENDPOINTS, quality=quality) as before_the_pilot:
        if before:
            before_the_pilot.before = told(before)
        found = before_the_pilot.looks()
    assert found is not None
    assert set(found[0].endpoint.tolist()) - {API} == started, (
        "and a second one not before the first is known"
    )


@pytest.mark.parametrize(("prior", "looked_at"), [(0.5, False), (0.65, True)])
def test_a_worker_that_would_only_mend_is_not_started_before_something_has_failed(
    tmp_path: Path, prior: float, *, looked_at: bool
) -> None:
    cheap = {"price": {"input": 1, "output": 4}, "quality_prior": 0.7}
    dear = {"price": {"input": 3000, "output": 12000}, "quality_prior": 0.95}
    endpoints = {"cheap": cheap, "pool": POOL | {"quality_prior": prior, "usd_per_hour": 20.0}, "dear": dear}
    quality = {"floor": 0.8, "scorer": "numeric"}
    with learner(tmp_path, 2000, endpoints, quality=quality) as before_the_plan:
        looks = [before_the_plan.looks() for _ in range(4)]
    assert any(1 in found[0].endpoint for found in looks if found is not None) == looked_at


@pytest.mark.parametrize(("usd_per_hour", "looked_at"), [(0.08, True), (0.09, False)])
def test_a_worker_is_looked_at_where_a_plan_saves_more_by_it_than_its_start_costs(
    tmp_path: Path, usd_per_hour: float, *, looked_at: bool
) -> None:
    """At both prices it would answer all for less than the others would; a third of it fails and is theirs anyway."""
    endpoints = {
        "weak": POOL | {"quality_prior": 0.3, "usd_per_hour": usd_per_hour, "minimum_minutes": 60},
        "api": {"price": {"input": 0.2, "output": 0.8}, "quality_prior": 0.5},
        "strong": {"price": {"input": 2, "output": 8}, "quality_prior": 0.9},
    }
    quality = {"floor": 0.6, "scorer": "numeric"}
    with learner(tmp_path, 600, endpoints, quality=quality) as before_the_plan:
        before_the_plan.rounds = 1  # a first one waits for what the others' answers cost
        found = before_the_plan.looks()
    assert found is not None
    assert (WEAK in found[0].endpoint) == looked_at


def test_where_nobody_but_workers_answers_a_start_is_no_reason_to_look_at_none(tmp_path: Path) -> None:
    pools = {name: ENDPOINTS[name] | {"quality_prior": 0.9} for name in ("weak", "strong")}
    with learner(tmp_path, 2000, pools, quality={"floor": 0.85, "scorer": "numeric"}) as before_the_pilot:
        found = before_the_pilot.looks()
    assert found is not None
    assert len(found[0].endpoint)
