"""What nobody has tried is not called known: invented skills of a rehearsal, and `plan --why` before a pilot."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from tests.support.plans import plan
from thirdshift.flows.dispatch.emulation import UNKNOWN_QUALITY, invented_quality, invention_sentence
from thirdshift.router.values import Endpoint, Price, PriceSchedule


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


def test_why_says_nothing_of_the_quality_of_what_nobody_has_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = {"a": {"price": {"input": 1, "output": 4}}, "b": {"price": {"input": 2, "output": 8}}}
    plan(tmp_path, both, quality={"floor": 0.9, "scorer": "numeric"}, why="r00001", as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "whose quality nobody knows yet" in shown
    assert "which of them is better a pilot will tell" in shown
    assert "no better" not in shown
