"""What nobody has tried is not called known: invented skills of a rehearsal, and `plan --why` before a pilot."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.plans import plan
from tests.support.servers import fetch
from thirdshift.flows.dispatch.emulation import (
    UNKNOWN_QUALITY,
    emulated,
    invented_quality,
    invention_sentence,
)
from thirdshift.router.values import Endpoint, Price, PriceSchedule
from thirdshift.warehouse.intake.intake import InputSpec, freeze


def endpoint(name: str, usd: float, prior: float | None = None) -> Endpoint:
    price = PriceSchedule(Price(Decimal(str(usd)), Decimal(str(usd))))
    return Endpoint(name, f"lab/{name}", price, quality_prior=prior)


def test_invented_skill_rises_with_the_price_and_is_said_to_be_invented() -> None:
    models = [endpoint("small", 1), endpoint("middle", 10), endpoint("large", 60)]
    quality = invented_quality(models)
    assert quality["small"] == pytest.approx(UNKNOWN_QUALITY)
    assert quality["middle"] == pytest.approx(0.85)  # ten times the price, half as often wrong
    assert quality["large"] == pytest.approx(1 - 0.3 * 0.5**1.7782, abs=1e-4)
    assert invented_quality([endpoint("small", 1, prior=0.4), models[2]])["small"] == 0.4
    assert "is invented" in invention_sentence(models)
    assert "middle 0.85" in invention_sentence(models)


def test_a_dear_model_of_which_little_is_believed_is_not_invented_to_be_good(tmp_path: Path) -> None:
    """And a cheap one of which much is believed not to be bad: what the provider answers is counted."""
    rows = [
        {"request_id": f"r{n}", "prompt": f"What is {n} plus 1?", "reference": str(n + 1)} for n in range(300)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    freeze(InputSpec("in.parquet", tmp_path), tmp_path)
    models = [endpoint("cheap", 1, prior=0.9), endpoint("between", 10), endpoint("dear", 60, prior=0.4)]
    with emulated(models, tmp_path, None) as reached:
        right = {name: share_right(at, rows) for name, at in reached.items()}
    assert right["cheap"] == pytest.approx(0.9, abs=0.08)
    assert right["dear"] == pytest.approx(0.4, abs=0.1)
    assert right["dear"] < right["between"] < right["cheap"]


def share_right(at: Endpoint, rows: list[dict[str, str]]) -> float:
    """Ask the stand-in each question, with room for a short answer alone: an invented length cuts none."""
    url, model = f"{at.api_base}/chat/completions", at.model.removeprefix("openai/")
    bodies = [
        {"model": model, "messages": [{"role": "user", "content": row["prompt"]}], "max_tokens": 16}
        for row in rows
    ]
    answers = [fetch(url, body).text for body in bodies]
    return sum(text == row["reference"] for text, row in zip(answers, rows, strict=True)) / len(rows)


PRICES = st.lists(st.floats(0.01, 1000), min_size=2, max_size=5, unique=True)
PRIORS = st.none() | st.floats(0, 1)


@given(PRICES, st.lists(PRIORS, min_size=5, max_size=5), st.integers(0, 4), st.floats(0, 1))
def test_invented_skill_rises_with_price_and_with_what_is_believed(
    prices: list[float], priors: list[float | None], which: int, raised: float
) -> None:
    models = [endpoint(f"m{n}", usd, priors[n]) for n, usd in enumerate(prices)]
    quality = invented_quality(models)
    assert all(quality[end.name] == end.quality_prior for end in models if end.quality_prior is not None)
    guessed = sorted((usd, quality[f"m{n}"]) for n, usd in enumerate(prices) if priors[n] is None)
    assert [share for _, share in guessed] == sorted(share for _, share in guessed)
    assert all(0 < share < 1 for _, share in guessed)
    prior = priors[which] if which < len(models) else None
    if prior is not None and raised > prior:  # more is believed of one: nobody is thought worse for it
        models[which] = replace(models[which], quality_prior=raised)
        higher = invented_quality(models)
        assert all(higher[name] >= quality[name] - 1e-12 for name in quality)


@pytest.mark.parametrize("quality", [{"floor": 0.9, "scorer": "numeric"}, {}])
def test_why_says_nothing_of_the_quality_of_what_nobody_has_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quality: dict[str, Any]
) -> None:
    both = {"a": {"price": {"input": 1, "output": 4}}, "b": {"price": {"input": 2, "output": 8}}}
    plan(tmp_path, both, quality=quality, why="r00001", as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "whose quality nobody knows yet" in shown
    assert "which of them is better nobody knows yet" in shown
    assert "no better" not in shown
