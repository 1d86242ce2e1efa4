"""Nights through the batch tier: the real command against the emulated provider, whose list of batches and books say
what was really sent and billed."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.support.nights import answer, ask, start, thirdshift, write_job, write_sums
from tests.support.servers import billed_usd, emulated, fetch
from thirdshift.engines.emulator import BatchHabits, EmulatedModel, Emulator
from thirdshift.flows.dispatch.dead_runs import enter_interrupted
from thirdshift.router.values import Price

ONE = EmulatedModel("one", Price(Decimal(1), Decimal(4)), ability=9.0)
NIGHT = {"model": "openai/one", "mode": "batch", "price": {"input": 0.5, "output": 2}, "turnaround": "1s"}
DAY = {"model": "openai/one", "price": {"input": 1, "output": 4}}
WHOLE = "select count(*), count(distinct request_id), count(error) from results"


def batches(emulator: Emulator) -> list[dict[str, Any]]:
    """All that the provider has, newest first."""
    listed: list[dict[str, Any]] = fetch(f"{emulator.api_base}/batches?limit=100").json["data"]
    return listed


def ledger(warehouse: Path) -> Decimal:
    total: Decimal = ask(warehouse, "select sum(cost_usd) from ledger")[0][0]
    return total


def test_the_batch_tier_is_chosen_where_there_is_time_and_costs_its_own_price(tmp_path: Path) -> None:
    sums = write_sums(tmp_path / "requests.parquet", 300)
    with emulated([ONE], items=sums, batches=BatchHabits(turnaround_seconds=1)) as emulator:
        job = write_job(
            tmp_path, emulator, {"day": DAY, "night": NIGHT | {"delete_remote": True}}, deadline="1h"
        )
        done = thirdshift("run", job, "--run-id", "one", "--json")
        assert done.returncode == 0, done.stderr
        assert [batch["request_counts"]["total"] for batch in batches(emulator)] == [300]
        files = fetch(f"{emulator.api_base}/files").json["data"]
        assert files == [], "deleted after the harvest, as asked"
        warehouse = tmp_path / "warehouse.duckdb"
        assert ask(warehouse, WHOLE) == [(300, 300, 0)]
        assert ask(warehouse, "select distinct endpoint, mode, status from ledger") == [
            ("night", "batch", "settled")
        ]
        assert ledger(warehouse) == billed_usd(emulator)


def begun(emulator: Emulator, night: Any) -> None:
    """Wait until the provider has a batch of the night's."""
    while not batches(emulator):
        assert night.poll() is None
        time.sleep(0.05)


def kill(night: Any, number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(night.pid, number)
    night.wait()


def interrupted(warehouse: Path) -> tuple[Decimal, Decimal]:
    """What a run is said to have cost once it is seen to be dead: settled, and at most unsettled besides."""
    enter_interrupted(warehouse)
    ((status, *figures),) = ask(warehouse, "select status, spent_usd, unsettled_usd from runs")
    assert status == "interrupted"
    assert ask(warehouse, "select sum(settled_usd), sum(unsettled_usd) from spend_by_endpoint") == [
        tuple(figures)
    ]
    return figures[0], figures[1]


def test_a_batch_under_way_when_its_process_is_killed_is_adopted_and_billed_once(tmp_path: Path) -> None:
    sums, warehouse = write_sums(tmp_path / "requests.parquet", 200), tmp_path / "warehouse.duckdb"
    with emulated([ONE], items=sums, batches=BatchHabits(turnaround_seconds=4)) as emulator:
        # by the worst case of each, the cap has room for the batch once
        job = write_job(tmp_path, emulator, {"night": NIGHT}, budget={"cap_usd": 0.05})
        night = start("run", job, "--run-id", "one")
        begun(emulator, night)
        kill(night)
        settled, unsettled = interrupted(warehouse)
        done = thirdshift("resume", "one", "--warehouse", warehouse, "--json")
        assert done.returncode == 0, done.stderr
        assert settled == 0 < billed_usd(emulator) <= unsettled <= Decimal("0.05")
        assert len(batches(emulator)) == 1
        assert Counter(entry["messages_key"] for entry in emulator.books()).most_common(1)[0][1] == 1
        assert ask(warehouse, WHOLE) == [(200, 200, 0)]
        assert ask(warehouse, "select distinct status from ledger") == [("settled",)]
        assert ledger(warehouse) == billed_usd(emulator)
        assert ask(warehouse, "select count(*), count(distinct shard_id) from shards") == [(1, 1)]


def test_a_stuck_batch_is_cut_short_in_time_and_only_its_rest_is_sent_in_real_time(tmp_path: Path) -> None:
    sums, warehouse = write_sums(tmp_path / "requests.parquet", 1_000), tmp_path / "warehouse.duckdb"
    habits = BatchHabits(turnaround_seconds=3, stuck_at=0.9, cancel_seconds=1)
    with emulated([ONE], items=sums, batches=habits) as emulator:
        job = write_job(
            tmp_path, emulator, {"night": NIGHT, "day": DAY}, deadline="50s", on_deadline="realtime"
        )
        done = thirdshift("run", job, "--run-id", "one", "--json")
        assert done.returncode == 0, done.stderr
        assert ask(warehouse, WHOLE) == [(1000, 1000, 0)]
        assert [batch["status"] for batch in batches(emulator)] == ["cancelled"]
        assert Counter(entry["mode"] for entry in emulator.books()) == {"batch": 900, "realtime": 100}
        served = dict(ask(warehouse, "select endpoint, count(*) from results group by endpoint"))
        assert served == {"night": 900, "day": 100}
        assert ledger(warehouse) == billed_usd(emulator)


def test_of_an_expired_batch_only_what_it_left_undone_is_sent_again(tmp_path: Path) -> None:
    sums, warehouse = write_sums(tmp_path / "requests.parquet", 200), tmp_path / "warehouse.duckdb"
    habits = BatchHabits(turnaround_seconds=2, expires_seconds=1)
    with emulated([ONE], items=sums, batches=habits) as emulator:
        job = write_job(tmp_path, emulator, {"night": NIGHT, "day": DAY})
        assert thirdshift("run", job, "--run-id", "one").returncode == 0
        assert [batch["status"] for batch in batches(emulator)] == ["expired"]
        modes = Counter(entry["mode"] for entry in emulator.books())
        assert modes.total() == 200
        assert 80 <= modes["batch"] <= 120
        assert ask(warehouse, WHOLE) == [(200, 200, 0)]
        assert ledger(warehouse) == billed_usd(emulator)

        only = write_job(tmp_path, emulator, {"night": NIGHT})
        done = thirdshift("run", only, "--run-id", "two", "--json")
        assert len(batches(emulator)) == 3, (
            "nobody else has it: the rest is given to one more batch, and no third"
        )
        told = answer(done)
        assert (done.returncode, told["results"]) == (6, 200)
        assert 30 <= told["errors"] <= 70


def test_the_deadline_stops_a_batch_and_keeps_what_it_has_done(tmp_path: Path) -> None:
    sums, warehouse = write_sums(tmp_path / "requests.parquet", 400), tmp_path / "warehouse.duckdb"
    with emulated([ONE], items=sums, batches=BatchHabits(turnaround_seconds=40)) as emulator:
        job = write_job(tmp_path, emulator, {"night": NIGHT, "day": DAY}, deadline="20s")
        done = thirdshift("run", job, "--run-id", "one", "--json")
        assert done.returncode == 5, done.stderr
        kept = answer(done)["results"]
        assert kept == len(emulator.books())
        assert 0 < kept < 400
        assert f"{400 - kept} not sent" in done.stderr
        assert "failed" not in done.stderr, "they are as they were, and nothing was billed"
        write_job(tmp_path, emulator, {"night": NIGHT | {"turnaround": "5h"}, "day": DAY})
        more = thirdshift("resume", "one", "--warehouse", warehouse, "--deadline", "1h", "--json")
        assert more.returncode == 0, more.stderr
        assert ask(warehouse, WHOLE) == [(400, 400, 0)]
        assert len(emulator.books()) == 400
        assert ledger(warehouse) == billed_usd(emulator)


def test_a_pilot_asks_in_real_time_what_the_batch_tier_then_answers(tmp_path: Path) -> None:
    sums, warehouse = write_sums(tmp_path / "requests.parquet", 300), tmp_path / "warehouse.duckdb"
    poor = replace(ONE, name="poor", price=Price(Decimal("0.1"), Decimal("0.4")), ability=0.0)
    with emulated([ONE, poor], items=sums) as emulator:
        endpoints = {"night": NIGHT, "day": DAY, "poor": {"price": {"input": 0.1, "output": 0.4}}}
        quality = {"floor": 0.95, "scorer": "numeric", "pilot": 40}
        job = write_job(tmp_path, emulator, endpoints, quality=quality, deadline="1h")
        done = thirdshift("run", job, "--run-id", "one", "--json")
        assert done.returncode == 0, done.stderr
        assert ask(warehouse, "select distinct mode from ledger where purpose = 'pilot'") == [("realtime",)]
        made = len(batches(emulator))
        assert 1 <= made <= 3, "a first one may tell how good the rest will be, a last one is a few for luck"
        twice = (
            "select request_id from ledger where endpoint in ('night', 'day') group by 1 having count(*) > 1"
        )
        assert ask(warehouse, twice) == [], "what one tier has answered the other is not asked"
        served = dict(ask(warehouse, "select endpoint, count(*) from results group by endpoint"))
        assert set(served) <= {"night", "poor", "day"}
        # what the poor one got right stays, as its score costs nothing; the batch tier answers the rest, but for a few,
        # which tell at once how long its model's answers are and how good it is
        assert served["night"] > 100
        assert served.get("day", 0) <= 40
        assert ledger(warehouse) == billed_usd(emulator)


def test_a_fresh_run_cancels_what_the_earlier_one_has_under_way_and_books_what_that_billed(
    tmp_path: Path,
) -> None:
    sums, warehouse = write_sums(tmp_path / "requests.parquet", 100), tmp_path / "warehouse.duckdb"
    with emulated([ONE], items=sums, batches=BatchHabits(turnaround_seconds=600)) as emulator:
        night = start("run", write_job(tmp_path, emulator, {"night": NIGHT}), "--run-id", "one")
        begun(emulator, night)
        kill(night, signal.SIGTERM)
        settled, unsettled = interrupted(warehouse)
        write_sums(tmp_path / "requests.parquet", 60)
        job = write_job(
            tmp_path, emulator, {"night": NIGHT | {"turnaround": "5h"}, "day": DAY}, deadline="1h"
        )
        done = thirdshift("run", job, "--run-id", "one", "--fresh", "--json")
        assert done.returncode == 0, done.stderr
        assert [batch["status"] for batch in batches(emulator)] == ["cancelled"]
        assert ask(warehouse, "select run_id, count(*) from results group by 1") == [("one", 60)]
        old = "select distinct status from ledger where run_id = 'one~1' order by 1"
        assert ask(warehouse, old)[-1] == ("void",)
        assert ("unsettled",) not in ask(warehouse, old)
        ((paid,),) = ask(warehouse, "select sum(cost_usd) from ledger where run_id = 'one~1'")
        assert settled == 0 <= paid <= unsettled
        assert ledger(warehouse) == billed_usd(emulator)


def test_what_cannot_be_adopted_now_is_sent_nowhere_else(tmp_path: Path) -> None:
    sums, warehouse = write_sums(tmp_path / "requests.parquet", 50), tmp_path / "warehouse.duckdb"
    with emulated([ONE], items=sums) as other:
        with emulated([ONE], items=sums, batches=BatchHabits(turnaround_seconds=600)) as emulator:
            endpoints = {"night": NIGHT, "day": DAY | {"api_base": other.api_base}}
            night = start("run", write_job(tmp_path, emulator, endpoints), "--run-id", "one")
            begun(emulator, night)
            kill(night)
        done = thirdshift("resume", "one", "--warehouse", warehouse)
        assert done.returncode == 1, done.stderr
        assert "Resume when the provider answers" in done.stderr
        assert other.books() == []
    assert [path.stem for path in (tmp_path / "warehouse.duckdb.d/one/journal").iterdir()] == [
        "00001-main-night"
    ]
