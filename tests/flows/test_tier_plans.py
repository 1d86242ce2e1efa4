"""A deadline chooses between tiers, their windows and real time; so does what a tier does to a batch that expires."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.plans import plan

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
