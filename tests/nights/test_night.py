"""The whole road, as a user travels it: real command, real Prefect, real DuckDB; the provider is emulated."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.nights import answer, ask, start, thirdshift, write_job, write_sums
from tests.support.servers import cheap, dear, emulated
from thirdshift.engines.emulator import Emulator, KnownRow, ability_for
from thirdshift.router.values import Limits

pytestmark = pytest.mark.usefixtures("prefect_api")

IN_FLIGHT = 32
PRICES = {
    "dear": {"price": {"input": 5, "output": 25}, "limits": {"concurrency": IN_FLIGHT}},
    "cheap": {"price": {"input": 0.1, "output": 0.4}},
}


@pytest.fixture
def sums(tmp_path: Path) -> list[KnownRow]:
    return write_sums(tmp_path / "requests.parquet", 600)


@pytest.fixture
def provider(sums: list[KnownRow]) -> Iterator[Emulator]:
    models = [
        dear(ability=ability_for(0.9999), slope=1, latency_seconds=0.2, limits=Limits(concurrency=IN_FLIGHT)),
        cheap(ability=ability_for(0.67), slope=1, latency_seconds=0.02),
    ]
    with emulated(models, items=sums, seed=5) as emulator:
        yield emulator


def billed(emulator: Emulator) -> Decimal:
    return sum((Decimal(entry["cost_usd"]) for entry in emulator.books()), Decimal(0))


def test_a_night_is_answered_certified_and_cheaper_than_the_dear_endpoint_alone(
    tmp_path: Path, provider: Emulator
) -> None:
    job = write_job(
        tmp_path,
        provider,
        PRICES,
        quality={"floor": 0.9, "scorer": "numeric", "pilot": 60},
        budget={"cap_usd": 5},
    )
    done = thirdshift("run", job, "--run-id", "one", "--json", watched=True)
    assert done.returncode == 0, done.stderr
    told, warehouse = answer(done), tmp_path / "warehouse.duckdb"
    assert (told["exit"], told["results"], told["rejects"], told["errors"]) == (0, 600, 0, 0)
    assert told["mean_score"] >= 0.9
    assert told["certificate"]["method"] == "census"
    assert told["certificate"]["lower_bound"] == pytest.approx(told["mean_score"])
    (ledger,) = ask(warehouse, "select sum(cost_usd) from ledger")[0]
    assert ledger == billed(provider)
    (alone,) = ask(warehouse, "select alone_usd from savings where endpoint = 'dear'")[0]
    assert ledger < alone
    ((rows, ids),) = ask(
        warehouse, "select count(*), count(distinct request_id) from results where run_id = 'one'"
    )
    assert (rows, ids) == (600, 600)
    statuses = ask(warehouse, "select distinct status from ledger")
    assert statuses == [("settled",)]
    assert ask(warehouse, "select outcomes from runs") == [(json.dumps(told["outcomes"]),)]
    unsent = "select count(*) from assignments where shard_id is null or shard_id not in (from shards select shard_id)"
    assert ask(warehouse, unsent) == [(0,)]

    again = thirdshift("run", job, "--run-id", "one", "--json", watched=True)
    assert answer(again) == told
    assert billed(provider) == ledger, "a finished run spends nothing"


def test_a_killed_run_goes_on_and_pays_once(tmp_path: Path, provider: Emulator) -> None:
    job = write_job(tmp_path, provider, {"dear": PRICES["dear"]}, budget={"cap_usd": 5})
    night = start("run", job, "--run-id", "two")
    while len(provider.books()) < 150:
        assert night.poll() is None
        time.sleep(0.02)
    os.kill(night.pid, signal.SIGKILL)
    night.wait()
    done = thirdshift("resume", "two", "--warehouse", tmp_path / "warehouse.duckdb", "--json")
    assert done.returncode == 0, done.stderr
    warehouse = tmp_path / "warehouse.duckdb"
    ((rows, ids, errors),) = ask(
        warehouse,
        "select count(*), count(distinct request_id), count(error) from results where run_id = 'two'",
    )
    assert (rows, ids, errors) == (600, 600, 0)
    books = provider.books()
    ((settled, unsettled),) = ask(
        warehouse,
        """select sum(cost_usd) filter (status = 'settled'), coalesce(sum(cost_usd) filter (status = 'unsettled'), 0)
           from ledger""",
    )
    assert len(books) - 600 <= IN_FLIGHT
    assert settled <= billed(provider) <= settled + unsettled


def test_a_cap_holds_by_the_providers_books_and_a_higher_one_goes_on(
    tmp_path: Path, provider: Emulator
) -> None:
    warehouse = tmp_path / "warehouse.duckdb"
    job = write_job(tmp_path, provider, {"dear": PRICES["dear"]}, budget={"cap_usd": 0.05})
    done = thirdshift("run", job, "--run-id", "three", "--json")
    assert done.returncode == 4, done.stderr
    told = answer(done)
    assert told["outcomes"][0] == "budget"
    assert billed(provider) <= Decimal("0.05")
    assert 0 < told["results"] < 600
    answered = ask(warehouse, "select max(source_row) from results join requests using (run_id, request_id)")[
        0
    ][0]
    assert answered < told["results"] + IN_FLIGHT, "served in the order of the input"
    more = thirdshift("resume", "three", "--warehouse", warehouse, "--cap", "5", "--json")
    assert more.returncode == 0, more.stderr
    assert answer(more)["results"] == 600
    assert ask(warehouse, "select sum(cost_usd) from ledger")[0][0] == billed(provider)


def test_every_row_is_a_result_or_a_reject_with_a_reason(tmp_path: Path) -> None:
    rows = [
        {"request_id": "good", "prompt": "What is 1 plus 1?", "max_tokens": 8},
        {"request_id": None, "prompt": "no id", "max_tokens": 8},
        {"request_id": "good", "prompt": "again", "max_tokens": 8},
        {"request_id": "empty", "prompt": "", "max_tokens": 8},
        {"request_id": "long", "prompt": "word " * 5000, "max_tokens": 8},
        {"request_id": "twin", "prompt": "What is 1 plus 1?", "max_tokens": 8},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "requests.parquet")
    with emulated([cheap()], items=[KnownRow(prompt="What is 1 plus 1?", reference="2")]) as emulator:
        job = write_job(tmp_path, emulator, {"cheap": PRICES["cheap"] | {"context_window": 2000}})
        done = thirdshift("run", job, "--run-id", "four", "--json", watched=True)
        assert len(emulator.books()) == 1, "requests with one hash are paid for once"
    assert done.returncode == 0, done.stderr
    told, warehouse = answer(done), tmp_path / "warehouse.duckdb"
    assert told["results"] + told["rejects"] == len(rows)
    reasons = dict(ask(warehouse, "select source_row, reason from rejects"))
    assert set(reasons) == {1, 2, 3, 4}
    assert "null" in reasons[1] or "request_id" in reasons[1]
    assert "2,000 (cheap)" in reasons[4]
    attempts = dict(ask(warehouse, "select request_id, attempts from results"))
    assert attempts == {"good": 1, "twin": 0}


def test_a_job_with_mistakes_is_exit_2_and_names_every_place(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "name: x\ninput: nowhere.parquet\nquality: {floor: 1.5, scorer: exakt}\nendpoints:\n  - {nam: a, model: b/c}\n"
    )
    done = thirdshift("run", tmp_path / "job.yaml")
    assert done.returncode == 2
    for place in ("quality.floor", "exakt", "endpoints[0].nam"):
        assert place in done.stderr
    assert not list(tmp_path.glob("*.duckdb"))


def test_a_second_process_on_a_living_run_is_told_the_pid(tmp_path: Path, sums: list[KnownRow]) -> None:
    with emulated([dear(latency_seconds=600)], items=sums) as emulator:
        job = write_job(tmp_path, emulator, {"dear": PRICES["dear"]})
        first = start("run", job, "--run-id", "five")
        lock = tmp_path / "warehouse.duckdb.d" / "five" / "pid.lock"
        while not lock.exists():
            assert first.poll() is None
            time.sleep(0.02)
        second = thirdshift("run", job, "--run-id", "five")
        first.kill()
        first.wait()
    assert second.returncode == 2
    assert str(first.pid) in second.stderr
