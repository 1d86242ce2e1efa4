"""A deadline chooses between tiers, their windows and real time; so does what a tier does to a batch that expires."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.plans import plan
from thirdshift.flows.errors import UserError
from thirdshift.flows.jobs.building import tier_value
from thirdshift.flows.jobs.job import load_job

DAY = {"price": {"input": 1.0, "output": 4.0}}
HOUR_TIER = {"price": {"input": 0.6, "output": 2.4}, "mode": "batch", "window": "1h"}
DAY_TIER = {"price": {"input": 0.5, "output": 2.0}, "mode": "batch"}
KEY = {"api_key_env": "SOME_KEY"}


@pytest.mark.parametrize(
    ("deadline", "keys", "chosen"),
    [
        (None, {}, "night"),
        ("30h", {}, "night"),
        ("5h", {}, "hour"),
        ("40m", {}, "day"),
        ("5h", {"on_deadline": "realtime"}, "night"),
        ("40m", {"on_deadline": "realtime"}, "day"),
    ],
)
def test_a_deadline_chooses_between_windows_and_real_time(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    deadline: str | None,
    keys: dict[str, str],
    chosen: str,
) -> None:
    model = {"model": "openai/one"}
    endpoints = {"day": DAY | model, "hour": HOUR_TIER | model, "night": DAY_TIER | model}
    assert plan(tmp_path, endpoints, **keys, **({} if deadline is None else {"deadline": deadline})) == 0
    assert _asked(capsys) == [chosen]


@pytest.mark.parametrize(("cheaper", "chosen"), [(0.49, "kept"), (0.40, "lost")])
def test_a_tier_that_loses_everything_must_be_cheaper_by_what_it_loses(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    cheaper: float,
    chosen: str,
) -> None:
    monkeypatch.setenv("SOME_KEY", "k")
    lost = {"price": {"input": cheaper, "output": 4 * cheaper}, "mode": "batch"}
    endpoints = {
        "kept": DAY_TIER | {"model": "openai/one"},
        "lost": lost | KEY | {"model": "groq/one", "api_base": "https://api.groq.com/openai/v1"},
    }
    assert plan(tmp_path, endpoints) == 0
    assert _asked(capsys) == [chosen]


def _asked(capsys: pytest.CaptureFixture[str]) -> list[str]:
    told = json.loads(capsys.readouterr().out)
    return [name for name, share in told["endpoints"].items() if share["requests"]]


REFUSED = ["vertex_ai/m", "bedrock/m", "xai/m", "fireworks_ai/m", "cohere/m", "tencent/m", "perplexity/m"]


@pytest.mark.parametrize("model", REFUSED)
def test_a_tier_that_is_not_built_is_refused_with_the_reason(tmp_path: Path, model: str) -> None:
    endpoint = {"model": model, "mode": "batch", "price": DAY["price"], "api_base": None}
    with pytest.raises(UserError, match=r"batch does not work yet for") as refused:
        plan(tmp_path, {"e": endpoint})
    assert refused.value.exit_code == 2


def test_a_job_overrides_a_row_for_its_endpoint(tmp_path: Path) -> None:
    lines = {
        "window": "1h",
        "limits": {
            "batch_requests": 70,
            "batch_bytes": 5000,
            "line_bytes": 900,
            "batches": 3,
            "enqueued_tokens": 800,
        },
    }
    endpoints = {"e": DAY_TIER | lines | {"model": "doubleword/one"}}
    assert plan(tmp_path, endpoints) == 0
    tier = tier_value(load_job(tmp_path / "job.yaml").endpoints[0])
    assert tier is not None
    assert tier.window is not None
    assert tier.window.name == "1h"
    assert (tier.limits.requests, tier.limits.bytes, tier.limits.line_bytes) == (70, 5000, 900)
    assert (tier.limits.batches, tier.limits.enqueued_tokens) == (3, 800)


def test_keys_of_a_tier_are_for_batches_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="window") as refused:
        plan(tmp_path, {"e": DAY | {"window": "1h"}})
    assert refused.value.exit_code == 2
