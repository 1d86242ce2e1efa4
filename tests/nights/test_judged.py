"""Nights without references: a judge scores a random part, people correct it; the provider and its judge are emulated.

What is true of an answer is known here all the same: the emulated provider has the right ones.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from tests.support.nights import answer, ask, start, thirdshift, write_job, write_sums
from tests.support.patience import PATIENCE_SECONDS
from tests.support.servers import billed_usd, cheap, dear, emulated
from thirdshift.engines.emulator import EmulatedModel, Emulator, KnownRow, ability_for
from thirdshift.flows.cli.app import app
from thirdshift.router.values import Limits, Price

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
    known = without_references(tmp_path / "requests.parquet", 400)
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
        quality={"floor": 0.9, "pilot": 40, "labels": 90, **JUDGED},
        budget={"cap_usd": 5},
        output={"path": "out", "when": "certified"},
    )
    done = thirdshift("run", job, "--run-id", "one", "--json", timeout=PATIENCE_SECONDS)
    assert done.returncode in (0, 3), done.stderr
    told = answer(done)
    assert told["results"] == 400
    claim = told["certificate"]
    assert claim["basis"] == "judge"
    assert claim["scorer"].startswith("judge wise, rubric ")
    assert claim["population"] == 400
    assert claim["certified"] == (done.returncode == 0) == (tmp_path / "out").exists()
    ((spent, entries),) = ask(warehouse, "select sum(cost_usd), count(*) from ledger where purpose = 'judge'")
    assert 0 < spent <= 2
    assert entries <= 90
    assert ask(warehouse, "select sum(cost_usd) from ledger")[0][0] == billed_usd(provider)
    shards = ask(
        warehouse, "select distinct endpoint, subject from shards where purpose = 'judge' order by all"
    )
    assert shards == [("wise", "cheap"), ("wise", "dear")]
    assert ask(warehouse, "select count(*) from results where endpoint = 'wise'") == [(0,)]

    # scores of answers that somebody chose: nothing is added, nothing is destroyed
    before = ask(warehouse, "select * from certificates"), ask(warehouse, "select outcomes from runs")
    own = tmp_path / "own.csv"
    own.write_text("run_id,request_id,score\n" + "".join(f"one,r{n:05d},1\n" for n in range(0, 400, 2)))
    none = command("labels", "import", own, "--warehouse", warehouse, "--json")
    assert none.exit_code == 0, none.output
    assert json.loads(none.stdout)["labels"] == 0
    assert "which are not those that were drawn at random" in none.stderr
    assert (
        ask(warehouse, "select * from certificates"),
        ask(warehouse, "select outcomes from runs"),
    ) == before

    # people, days later: the same command, a file, the same command
    labels = tmp_path / "labels.csv"
    asked = command("labels", "export", "one", "--output", labels, "--warehouse", warehouse)
    assert asked.exit_code == 0, asked.output
    rows = list(csv.DictReader(labels.read_text(encoding="utf-8-sig").splitlines()))
    assert len(rows) == 300
    assert {row["score"] for row in rows} == {""}
    for row in rows:
        row["score"] = str(int(right(row["request_id"], row["output"])))
    with labels.open("w", encoding="utf-8-sig", newline="") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    back = command("labels", "import", "one", "--input", labels, "--warehouse", warehouse, "--json")
    assert back.exit_code == 0, back.output
    assert "300 scores of people taken in" in back.stderr
    (basis, scorer, population, scored, lower), earlier = ask(
        warehouse,
        "select basis, scorer, population, scored, lower_bound from certificates where run_id = 'one' "
        "order by issued_at desc",
    )
    assert earlier[0] == "judge", "what was certified before stays beside it"
    assert (basis, scorer, population, scored) == ("human", "people", 400, 300)
    results = ask(warehouse, "select request_id, output from results")
    truth = sum(right(request_id, output) for request_id, output in results) / 400
    assert truth - 0.1 < lower <= truth
    assert command("labels", "import", labels, "--warehouse", warehouse).exit_code == 0
    assert ask(warehouse, "select lower_bound from certificates where basis = 'human'") == [(lower,)]
    shown = json.loads(back.stdout)["certificate"]["certified"]
    assert shown == (lower >= 0.9)
    assert ask(warehouse, "select count(*) from observations where basis = 'human'") == [(300,)]
    again = thirdshift("run", job, "--run-id", "one", "--json", timeout=PATIENCE_SECONDS)
    assert (answer(again)["outcomes"] == ["done"]) == shown, "the run's end is told anew"
    published = shown or claim["certified"]
    assert (tmp_path / "out").exists() == published, "what waited for people is published"
    assert ask(warehouse, "select count(*) from answers") == [(400 * published,)]
    assert ask(warehouse, "select count(*) from prices where endpoint = 'wise'") == [(1,)]
    assert ask(warehouse, "select count(*) from run_prices where endpoint = 'wise'") == [(0,)]


def command(*words: str | Path) -> Result:
    """The command in this process: it asks nobody, so it need not start as a program."""
    return CliRunner().invoke(app, [str(word) for word in words])


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


def test_an_audit_that_costs_more_than_better_answers_ends_and_they_are_certified(tmp_path: Path) -> None:
    """The cheap model is believed to be better than it is: just above the floor, which takes a census to show."""
    known = without_references(tmp_path / "requests.parquet", 300)
    models = [
        dear(ability=ability_for(0.97), slope=1),
        cheap(ability=ability_for(0.84), slope=1),
        EmulatedModel("wise", Price(Decimal(20), Decimal(80))),
    ]
    ends = {
        "dear": ENDPOINTS["dear"] | {"quality_prior": 0.97},
        "cheap": ENDPOINTS["cheap"] | {"quality_prior": 0.97},
        "wise": {"price": {"input": 20, "output": 80}, "only": "judge"},
    }
    warehouse = tmp_path / "warehouse.duckdb"
    with emulated(models, items=known, seed=5) as provider:
        quality = {"floor": 0.8, "pilot": 0, **JUDGED}
        job = write_job(tmp_path, provider, ends, quality=quality, budget={"cap_usd": 20})
        done = thirdshift("run", job, "--run-id", "one", "--json", watched=False)
        assert done.returncode == 0, done.stderr
        assert ask(warehouse, "select sum(cost_usd) from ledger")[0][0] == billed_usd(provider)
    assert answer(done)["certificate"]["certified"]
    assert "costs less to show at" in done.stderr
    ((repaired, verdicts),) = ask(
        warehouse,
        "select count(*) filter (where purpose = 'repair'), count(*) filter (where purpose = 'judge') from ledger",
    )
    assert 0 < repaired <= 300
    assert verdicts < 200
