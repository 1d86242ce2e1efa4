"""What a score that is asked for is taken to cost: a guess first, then what was billed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from thirdshift.flows.planning.score_price import score_usd
from thirdshift.flows.runs.context import RunContext, context_for
from thirdshift.flows.runs.options import RunOptions
from thirdshift.warehouse.store.store import Warehouse

JOB = """\
name: polite
input: tickets.parquet
quality: {floor: 0.8, scorer: judge, judge: {endpoint: wise, rubric: Be kind.}}
endpoints:
  - {name: flash, model: openai/f, api_base: http://127.0.0.1:1/v1, price: {input: 1, output: 1}}
  - {name: wise, only: judge, model: openai/w, api_base: http://127.0.0.1:1/v1, price: {input: 1, output: 1}}
"""
COLUMNS: Any = SimpleNamespace(tokens=[np.full(10, 100.0)], sent=None)
MARKET: Any = SimpleNamespace(output_tokens=np.full((10, 1), 50.0))


def context(folder: Path, text: str = JOB) -> RunContext:
    path = folder / "job.yaml"
    path.write_text(text)
    return context_for(RunOptions(path), "run")


def test_a_verdict_is_guessed_until_this_jobs_judge_has_billed_some(tmp_path: Path) -> None:
    given = context(tmp_path)
    guess = score_usd(given, COLUMNS, MARKET)
    assert 100e-6 < guess < 2000e-6, "some hundred tokens at a dollar for a million"
    with Warehouse.open(given.warehouse) as warehouse:
        runs = pa.table({"run_id": ["now", "other"], "job": [given.job.name, "another"]})
        warehouse.execute("insert into runs by name select * from told", {"told": runs})
        entries = pa.table(
            {
                "run_id": ["now", "now", "now", "now", "other"],
                "purpose": ["judge", "judge", "judge", "main", "judge"],
                "endpoint": ["wise", "wise", "wise", "flash", "wise"],
                "model": ["openai/w", "openai/w", "openai/older", "openai/f", "openai/w"],
                "status": ["settled"] * 5,
                "cost_usd": [0.002, 0.004, 9.0, 9.0, 9.0],
            }
        )
        warehouse.execute("insert into ledger by name select * from told", {"told": entries})
    assert score_usd(given, COLUMNS, MARKET) == pytest.approx(0.003)


def test_what_agrees_with_another_endpoint_costs_that_ones_answer(tmp_path: Path) -> None:
    scorer = "scorer: judge,"
    assert scorer in JOB
    text = JOB.replace(scorer, "scorer: agreement, relative_to: flash,")
    market: Any = SimpleNamespace(least_usd=lambda endpoint: np.full(10, 0.07), sent=None)
    assert score_usd(context(tmp_path, text), COLUMNS, market) == pytest.approx(0.07)
