"""Nights without references: a judge scores a random part, people correct it; the provider and its judge are emulated.

What is true of an answer is known here all the same: the emulated provider has the right ones.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from engines.emulator import EmulatedModel, Emulator, KnownRow, ability_for
from router.values import Limits, Price
from tests.nights import answer, ask, start, thirdshift, write_job, write_sums
from tests.servers import billed_usd, cheap, dear, emulated

pytestmark = pytest.mark.usefixtures("prefect_api")

RUBRIC = "1 if the sum is right, 0 if it is not."
ENDPOINTS: dict[str, dict[str, Any]] = {
    "dear": {"price": {"input": 5, "output": 25}},
    "cheap": {"price": {"input": 0.1, "output": 0.4}},
    "wise": {"price": {"input": 1, "output": 4}, "only": "judge"},
}
JUDGED = {"scorer": "judge", "judge": {"endpoint": "wise", "rubric": RUBRIC, "max_usd": 2}}
LENIENT, HARSH = 0.1, 0.05


def without_references(path: Path, count: int) -> list[KnownRow]:
    known = write_sums(path, count)
    pq.write_table(pq.read_table(path).drop(["reference"]), path)
    return known


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Emulator]:
    known = without_references(tmp_path / "requests.parquet", 700)
    models = [
        dear(ability=ability_for(0.97), slope=1),
        cheap(ability=ability_for(0.6), slope=1),
        EmulatedModel("wise", Price(Decimal(1), Decimal(4)), lenient=LENIENT, harsh=HARSH),
    ]
    with emulated(models, items=known, seed=5) as emulator:
        yield emulator


def test_a_judge_scores_a_random_part_and_people_correct_it(tmp_path: Path, provider: Emulator) -> None:
    warehouse = tmp_path / "warehouse.duckdb"
    job = write_job(
        tmp_path,
        provider,
        ENDPOINTS,
        quality={"floor": 0.8, "pilot": 60, "labels": 500, **JUDGED},
        budget={"cap_usd": 5},
        output={"path": "out", "when": "certified"},
    )
    done = thirdshift("run", job, "--run-id", "one", "--json", timeout=300)
    assert done.returncode in (0, 3), done.stderr
    told = answer(done)
    assert told["results"] == 700
    claim = told["certificate"]
    assert claim["basis"] == "judge"
    assert claim["scorer"].startswith("judge wise, rubric ")
    assert claim["population"] == 700
    assert claim["certified"] == (done.returncode == 0)
    assert (tmp_path / "out").exists() == claim["certified"]
    ((spent, entries),) = ask(warehouse, "select sum(cost_usd), count(*) from ledger where purpose = 'judge'")
    assert 0 < spent <= 2
    assert entries <= 500
    assert ask(warehouse, "select sum(cost_usd) from ledger")[0][0] == billed_usd(provider)
    shards = ask(
        warehouse, "select distinct endpoint, subject from shards where purpose = 'judge' order by all"
    )
    assert shards == [("wise", "cheap"), ("wise", "dear")]
    assert ask(warehouse, "select count(*) from results where endpoint = 'wise'") == [(0,)]

    # people, days later: the same command, a file, the same command
    labels = tmp_path / "labels.csv"
    asked = thirdshift(
        "labels", "export", "one", "--output", labels, "--count", "300", "--warehouse", warehouse
    )
    assert asked.returncode == 0, asked.stderr
    rows = list(csv.DictReader(labels.read_text(encoding="utf-8-sig").splitlines()))
    assert len(rows) == 300
    assert {row["score"] for row in rows} == {""}
    for row in rows:
        row["score"] = str(int(right(row["request_id"], row["output"])))
    with labels.open("w", encoding="utf-8-sig", newline="") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    back = thirdshift("labels", "import", labels, "--warehouse", warehouse, "--json")
    assert back.returncode == 0, back.stderr
    ((basis, scorer, population, scored, lower),) = ask(
        warehouse,
        "select basis, scorer, population, scored, lower_bound from certificates where run_id = 'one'",
    )
    assert (basis, scorer, population, scored) == ("human", "people", 700, 300)
    results = ask(warehouse, "select request_id, output from results")
    truth = sum(right(request_id, output) for request_id, output in results) / 700
    assert truth - 0.15 < lower <= truth
    assert answer(back)["certificate"]["certified"] == (lower >= 0.8)
    outcomes = answer(thirdshift("run", job, "--run-id", "one", "--json"))["outcomes"]
    assert outcomes == (["done"] if lower >= 0.8 else ["not_certified"])
    assert ask(warehouse, "select count(*) from observations where basis = 'human'") == [(300,)]


def right(request_id: str, output: str) -> bool:
    return output == str(int(request_id[1:]) * 8)


def test_a_night_killed_while_it_is_judged_goes_on_and_pays_each_verdict_once(tmp_path: Path) -> None:
    known = without_references(tmp_path / "requests.parquet", 200)
    models = [
        dear(ability=ability_for(0.97), slope=1),
        EmulatedModel(
            "wise", Price(Decimal(1), Decimal(4)), latency_seconds=0.3, limits=Limits(concurrency=8)
        ),
    ]
    with emulated(models, items=known, seed=5) as provider:
        ends = {name: ENDPOINTS[name] | {"limits": {"concurrency": 8}} for name in ("dear", "wise")}
        job = write_job(
            tmp_path, provider, ends, quality={"floor": 0.8, "audit": 80, **JUDGED}, budget={"cap_usd": 5}
        )
        night = start("run", job, "--run-id", "two")
        while sum(entry["model"] == "wise" for entry in provider.books()) < 30:
            assert night.poll() is None
            time.sleep(0.05)
        night.kill()
        night.wait()
        done = thirdshift("resume", "two", "--warehouse", tmp_path / "warehouse.duckdb", "--json")
        assert done.returncode in (0, 3), done.stderr
        verdicts = sum(entry["model"] == "wise" for entry in provider.books())
    assert answer(done)["certificate"]["scored"] == 80
    assert 80 <= verdicts <= 80 + 8, "only verdicts in flight at the kill are paid for again"
    ((kept, keys),) = ask(
        tmp_path / "warehouse.duckdb", "select count(*), count(distinct key) from judgements"
    )
    assert kept == keys == 80
