"""A night in which looking at scores costs, and two cheap answers that agree are served; the provider is emulated."""

from __future__ import annotations

import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.support.nights import Here, answer, ask, night_here, start, thirdshift, write_job, write_sums
from tests.support.servers import billed_usd, emulated
from thirdshift.engines.emulator import EmulatedModel, Emulator, ability_for
from thirdshift.flows.api.plans import looking_ahead, report_of, why
from thirdshift.flows.planning.voting import vote_sentences
from thirdshift.flows.runs.options import RunOptions
from thirdshift.router.planning.problem import Plan
from thirdshift.router.values import Limits, Price

REQUESTS, AT_ONCE = 640, 4
SCORER = """
def right(output, reference, request):
    one, other = (int(word.strip("?")) for word in request["messages"][-1]["content"].split() if word.strip("?").isdigit())
    return float(output.strip() == str(one + other))
"""
ABILITY = {"one": 0.6, "two": 0.6, "dear": 0.95}
PRICES = {"one": (0.1, 0.4), "two": (0.15, 0.6), "dear": (5.0, 25.0)}
QUALITY = {"floor": 0.75, "scorer": "right_sums:right", "labels": 900, "audit": 60}


def job_in(folder: Path, provider: Emulator, **limits: Any) -> Path:
    (folder / "right_sums.py").write_text(SCORER)
    ends = {
        name: {"price": {"input": read, "output": written}, **limits}
        for name, (read, written) in PRICES.items()
    }
    return write_job(folder, provider, ends, quality=QUALITY, budget={"cap_usd": 5})


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Emulator]:
    known = write_sums(tmp_path / "requests.parquet", REQUESTS, tasks=("sums",))
    pq.write_table(
        pq.read_table(tmp_path / "requests.parquet").drop(["reference"]), tmp_path / "requests.parquet"
    )
    models = [
        EmulatedModel(
            name,
            Price(Decimal(str(read)), Decimal(str(written))),
            ability=ability_for(ABILITY[name]),
            latency_seconds=0.05,
            limits=Limits(concurrency=AT_ONCE),
        )
        for name, (read, written) in PRICES.items()
    ]
    with emulated(models, items=known, seed=5) as server:
        yield server


def test_two_answers_that_agree_are_served_and_a_night_killed_among_votes_pays_nothing_twice(
    tmp_path: Path, provider: Emulator
) -> None:
    warehouse = tmp_path / "warehouse.duckdb"
    job = job_in(tmp_path, provider, limits={"concurrency": AT_ONCE})
    night = start("run", job, "--run-id", "one")
    while not (tmp_path / "warehouse.duckdb.d" / "one" / "votes.npz").exists():
        assert night.poll() is None
        time.sleep(0.02)
    before = len(provider.books())
    while len(provider.books()) < before + 100:
        assert night.poll() is None
        time.sleep(0.02)
    night.kill()
    night.wait()
    done = thirdshift("resume", "one", "--warehouse", warehouse, "--json")
    assert done.returncode in (0, 3), done.stderr
    assert answer(done)["results"] == REQUESTS

    ((asked, pairs),) = ask(
        warehouse,
        "select count(*), count(distinct (request_id, endpoint)) from ledger where status <> 'void'",
    )
    assert asked <= pairs + 3 * AT_ONCE, "only what was in flight at the kill is asked for again"
    ((settled, held),) = ask(
        warehouse,
        "select sum(cost_usd) filter (where status = 'settled'), sum(cost_usd) from ledger",
    )
    assert settled <= billed_usd(provider) <= held
    check_votes(warehouse)
    assert ask(warehouse, "select count(*) from assignments where shard_id is null") == [(0,)]


def check_votes(warehouse: Path) -> None:
    """What is served of each request whose second answer was bought to see whether two agree: the first of two that do;
    where they differ the third's, or one that the pilot has found right."""
    voted = ask(
        warehouse,
        """
        with said as (select distinct request_id, endpoint, output from responses where reply = 'answer'),
             voted as (
                 select distinct run_id, request_id, endpoint from ledger where purpose = 'vote' and status = 'settled')
        select a.output = b.output as agree, v.endpoint, r.endpoint, r.output = a.output, o.score
        from voted v join results r using (run_id, request_id)
        left join observations o
            on o.run_id = r.run_id and o.request_id = r.request_id and o.endpoint = r.endpoint and o.purpose = 'pilot'
        join said b on b.request_id = v.request_id and b.endpoint = v.endpoint
        join said a on a.request_id = v.request_id and a.endpoint not in (v.endpoint, 'dear')
        """,
    )
    assert len(voted) > REQUESTS / 8
    assert {agree for agree, *_ in voted} == {True, False}
    for agree, second, served, same, found in voted:
        first = "one" if second == "two" else "two"
        assert served == (first if agree else "dear") or (not agree and found == 1.0)
        assert not agree or same
    assert any(served == "dear" for _, _, served, _, found in voted if found is None)


def test_the_books_of_a_night_with_votes_are_the_providers_and_the_next_plan_knows_them(
    tmp_path: Path, provider: Emulator
) -> None:
    job = job_in(tmp_path, provider)
    done: Here = night_here(job, "one")
    warehouse = tmp_path / "warehouse.duckdb"
    assert done.summary["results"] == REQUESTS
    assert "where they differ to dear" in done.said
    assert ask(warehouse, "select sum(cost_usd) from ledger")[0][0] == billed_usd(provider)
    assert {purpose for (purpose,) in ask(warehouse, "select distinct purpose from ledger")} >= {
        "pilot",
        "main",
        "vote",
    }
    check_votes(warehouse)

    with looking_ahead(RunOptions(job=job)) as outlook:
        plan, report = outlook.plan, report_of(outlook)
        assert isinstance(plan, Plan)
        assert any("voted on" in line for line in vote_sentences(outlook.market, plan))
        voted = np.flatnonzero(plan.choice >= outlook.market.singles)[0]
        said = why(outlook, f"r{voted:05d}")
    assert "where they agree, else dear" in said[0]
    assert report.cost_usd is not None
    assert report.cost_usd_high is not None
    assert report.cost_usd < report.cost_usd_high
    assert len(report.frontier) > 1
