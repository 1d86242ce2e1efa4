"""What is certified of a night in which only some answers can be scored: that part, or all where the part is a sample."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.nights import Here, ask, night_here, write_job, write_sums
from tests.support.servers import cheap, dear, emulated
from thirdshift.engines.emulator import EmulatedModel, Emulator, ability_for
from thirdshift.router.values import Price

ROWS = 490
ENDPOINTS = {
    "dear": {"price": {"input": 5, "output": 25}},
    "middle": {"price": {"input": 1, "output": 4}},
    "cheap": {"price": {"input": 0.1, "output": 0.4}},
}


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    folder = tmp_path_factory.mktemp("rows")
    known = write_sums(folder / "requests.parquet", ROWS)
    models = [
        dear(ability=ability_for(0.98), slope=1),
        cheap(ability=ability_for(0.6), slope=1),
        EmulatedModel("middle", Price(Decimal(1), Decimal(4)), ability=ability_for(0.85), slope=1),
    ]
    with emulated(models, items=known, seed=5) as emulator:
        yield emulator


def played(folder: Path, provider: Emulator, scorable: np.ndarray[Any, Any], **quality: Any) -> Here:
    """A night whose references stand on some rows alone."""
    write_sums(folder / "requests.parquet", ROWS)
    table = pq.read_table(folder / "requests.parquet")
    kept = pa.array(
        [text if has else None for text, has in zip(table["reference"].to_pylist(), scorable, strict=True)]
    )
    pq.write_table(
        table.set_column(table.column_names.index("reference"), "reference", kept),
        folder / "requests.parquet",
    )
    job = write_job(
        folder,
        provider,
        ENDPOINTS,
        quality={"floor": 0.8, "scorer": "exact", "pilot": 60, **quality},
        budget={"cap_usd": 5},
        output={"path": "out", "when": "always"},
    )
    return night_here(job, "one")


def truth(folder: Path) -> np.ndarray[Any, Any]:
    """Whether each answer is right, by the sums themselves."""
    served = dict(ask(folder / "warehouse.duckdb", "select request_id, output from results"))
    return np.array([served[f"r{n:05d}"] == str(n * 8) for n in range(ROWS)], float)


def test_a_floor_is_not_certified_of_all_by_the_part_that_has_references(
    tmp_path: Path, provider: Emulator
) -> None:
    seventh = np.arange(ROWS) % 7 == 0
    night = played(tmp_path, provider, seventh)
    assert (night.code, night.summary["outcomes"]) == (3, ["not_certified"]), night.said
    claim = night.summary["certificate"]
    assert (claim["population"], claim["requests"], claim["scored"], claim["certified"]) == (
        70,
        ROWS,
        70,
        False,
    )
    right = truth(tmp_path)
    assert claim["mean"] == pytest.approx(right[seventh].mean())
    assert abs(right[seventh].mean() - right[~seventh].mean()) < 0.12, (
        "what can be seen is not mended by itself"
    )
    assert right.mean() > 0.72
    assert "70 of 490 requests can be scored; nothing is claimed of the other 420" in night.said
    manifest = json.loads(next((tmp_path / "out").rglob("manifest.json")).read_text())
    assert [(it["population"], it["requests"]) for it in manifest["certificates"]] == [(70, ROWS)]


def test_a_random_sample_of_references_certifies_all_by_a_sampling_bound(
    tmp_path: Path, provider: Emulator
) -> None:
    sample = np.zeros(ROWS, bool)
    sample[np.random.default_rng(0).permutation(ROWS)[:120]] = True
    night = played(tmp_path, provider, sample, references="sample", floor=0.7)
    claim, right = night.summary["certificate"], truth(tmp_path)
    assert (claim["population"], claim["requests"], claim["scored"], claim["method"]) == (
        ROWS,
        ROWS,
        120,
        "exact",
    )
    assert claim["mean"] == pytest.approx(right[sample].mean())
    assert claim["lower_bound"] < min(right.mean(), claim["mean"])
    assert claim["certified"] == (night.code == 0) == (claim["lower_bound"] >= 0.7), night.said


def test_references_of_one_task_are_no_random_sample_and_claim_nothing_of_the_others(
    tmp_path: Path, provider: Emulator
) -> None:
    night = played(
        tmp_path, provider, np.arange(ROWS) % 4 == 0, references="sample"
    )  # every one of them is easy
    assert night.code == 3
    assert "no random part of the 490: task" in night.said
    claim = night.summary["certificate"]
    assert (claim["population"], claim["requests"], claim["certified"]) == (123, ROWS, False)


def test_a_job_that_asks_for_no_more_than_what_can_be_scored_gets_that(
    tmp_path: Path, provider: Emulator
) -> None:
    seventh = np.arange(ROWS) % 7 == 0
    night = played(tmp_path, provider, seventh, population="scorable")
    assert (night.code, night.summary["outcomes"]) == (0, ["done"]), night.said
    right = truth(tmp_path)
    assert night.summary["certificate"]["lower_bound"] == pytest.approx(right[seventh].mean())
    assert right[seventh].mean() >= 0.8
    assert right[~seventh].mean() > 0.7, "the others are mended by prediction"


def test_the_plan_of_such_a_night_counts_no_answer_twice(tmp_path: Path, provider: Emulator) -> None:
    """What the pilot was answered is priced like anything else when it is decided who serves, and is not paid again."""
    night = played(tmp_path, provider, np.arange(ROWS) % 7 == 0)
    ((planned, spent, repaired),) = ask(
        tmp_path / "warehouse.duckdb",
        "select planned_usd, spent_usd, (select coalesce(sum(cost_usd), 0) from ledger where purpose = 'repair') from runs",
    )
    assert float(spent - repaired) == pytest.approx(float(planned), rel=0.15), night.said
