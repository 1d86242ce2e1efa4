"""What one night means for the next: answers not paid twice, a shared budget, charge-back, text that is forgotten."""

from __future__ import annotations

import os
import re
import signal
import time
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.nights import answer, ask, night_here, start, thirdshift, write_job, write_sums
from tests.support.servers import billed_usd, cheap, dear, emulated
from thirdshift.engines.emulator import Emulator, KnownRow, ability_for
from thirdshift.flows.errors import UserError

PILOT_TOLD = r"costs \$([0-9.]+) more, and the pilot before it up to \$([0-9.]+)"
PRICED = {"cheap": {"price": {"input": 0.1, "output": 0.4}}}
BOTH = PRICED | {"dear": {"price": {"input": 5, "output": 25}}}


def write_rows(path: Path, numbers: list[int]) -> list[KnownRow]:
    """Additions by number: the same number is the same prompt under another id."""
    rows = [
        {
            "request_id": f"r{k:05d}",
            "prompt": f"What is {n} plus 1?",
            "reference": str(n + 1),
            "metadata": {"customer": "acme" if n % 4 else "bolt"},
        }
        for k, n in enumerate(numbers)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return [KnownRow(prompt=f"What is {n} plus 1?", reference=str(n + 1)) for n in sorted(set(numbers))]


def calls(emulator: Emulator) -> int:
    return len(emulator.books())


def test_the_next_night_pays_for_new_requests_alone(tmp_path: Path) -> None:
    first = [*range(240), *range(160)]  # 400 rows, 40 % duplicates
    known = write_rows(tmp_path / "requests.parquet", [*first, *range(1000, 1020)])
    keys = {
        "reuse": "answered",
        "reuse_max_age": "90d",
        "quality": {"floor": 0.5, "scorer": "numeric", "pilot": 30},
    }
    with emulated([cheap(latency_seconds=0.01), dear(latency_seconds=0.01)], items=known) as emulator:
        write_rows(tmp_path / "requests.parquet", first)
        job = write_job(tmp_path, emulator, PRICED, **keys)
        assert night_here(job, "monday").code in (0, 3)
        assert calls(emulator) == 240
        spent = billed_usd(emulator)

        write_rows(tmp_path / "requests.parquet", [*range(1000, 1020), *first])
        done = thirdshift("run", job, "--run-id", "tuesday", "--json")
        assert done.returncode in (0, 3), done.stderr
        assert calls(emulator) == 240 + 20
        warehouse = tmp_path / "warehouse.duckdb"
        ((saved,),) = ask(warehouse, "select sum(cost_usd) from ledger where run_id = 'monday'")
        assert saved == spent
        assert (answer(done)["reused"], answer(done)["reused_usd"]) == (240, float(saved))
        again = thirdshift("run", job, "--run-id", "tuesday")
        assert f"240 answers reused, ${saved:.6f} not paid again" in again.stdout
        assert calls(emulator) == 260
        rows = ask(
            warehouse,
            """select reused_from, count(*), sum(attempts), count(score), count(error) from results
               where run_id = 'tuesday' group by 1 order by 1 nulls first""",
        )
        assert rows == [(None, 20, 20, 20, 0), ("monday", 400, 0, 400, 0)]
        assert answer(done)["certificate"]["scored"] == 420

        # an endpoint that has left the job answers nothing any more, and a pilot is not sent what is there already
        job = write_job(tmp_path, emulator, BOTH, **keys)
        assert night_here(job, "wednesday").code in (0, 3)
        assert calls(emulator) == 260
        job = write_job(tmp_path, emulator, {"dear": BOTH["dear"]}, **keys)
        assert night_here(job, "thursday").code in (0, 3)
        assert calls(emulator) == 260 + 260


def test_an_answer_under_other_parameters_is_another_answer(tmp_path: Path) -> None:
    known = write_rows(tmp_path / "requests.parquet", [*range(40)])
    keys = {"reuse": "answered", "quality": {"floor": 0.5, "scorer": "numeric", "pilot": 0}}
    with emulated([cheap(latency_seconds=0.01)], items=known) as emulator:

        def calls_of(run_id: str, **params: float) -> int:
            before = calls(emulator)
            job = write_job(tmp_path, emulator, {"cheap": PRICED["cheap"] | {"params": params}}, **keys)
            assert night_here(job, run_id).code in (0, 3)
            return calls(emulator) - before

        assert calls_of("monday", top_p=0.5) == 40
        assert calls_of("tuesday", top_p=0.9) == 40
        assert calls_of("wednesday", top_p=0.9) == 0
        assert calls_of("thursday", top_p=0.5) == 0
        assert calls_of("friday") == 40


def test_a_budget_of_the_day_is_shared_by_the_nights_in_it_killed_ones_too(tmp_path: Path) -> None:
    known = write_sums(tmp_path / "requests.parquet", 400)
    window = {"budget": {"cap_usd": 0.03, "window": "day"}}
    slow, fast = ({"dear": BOTH["dear"] | {"limits": {"concurrency": many}}} for many in (1, 64))
    with emulated([dear(latency_seconds=0.1)], items=known) as emulator:
        job = write_job(tmp_path, emulator, slow, **window)  # it takes 40 s, and is killed on the way
        night = start("run", job, "--run-id", "killed")
        while calls(emulator) < 20:
            assert night.poll() is None
            time.sleep(0.02)
        with pytest.raises(UserError, match="share one cap"):
            night_here(job, "meanwhile")
        os.kill(night.pid, signal.SIGKILL)
        night.wait()
        before = billed_usd(emulator)
        assert before < Decimal("0.03")
        write_job(tmp_path, emulator, fast, **window)
        for run_id in ("second", "third"):
            done = night_here(job, run_id)
            assert done.code == 4, done.said
            assert before <= billed_usd(emulator) <= Decimal("0.03")
        assert done.summary["spent_usd"] < 0.001, "nothing worth a request was left"
        write_job(tmp_path, emulator, fast, budget={"cap_usd": 5, "window": "day"})
        assert night_here(job, "fourth").code == 0


def test_a_plan_above_what_needs_no_approval_waits_for_a_yes(tmp_path: Path) -> None:
    known = write_sums(tmp_path / "requests.parquet", 300)
    quality = {"floor": 0.9, "scorer": "numeric", "pilot": 40}
    with emulated([cheap(latency_seconds=0.01), dear(latency_seconds=0.01)], items=known) as emulator:
        # dearer than that even where all of it is cheap: told before the pilot
        job = write_job(tmp_path, emulator, BOTH, quality=quality, budget={"approve_above_usd": 0.0001})
        done = night_here(job, "one")
        assert (done.code, done.summary["outcomes"][0], done.summary["spent_usd"]) == (4, "approval", 0)
        assert calls(emulator) == 0
        said = night_here(job, "one").said
        assert "--yes" in said
        # what is asked for bounds what is spent where it is approved of: the pilot is in it
        cheapest, pilot = map(Decimal, re.search(PILOT_TOLD, said).groups())  # type: ignore[union-attr]
        assert pilot >= 40 * Decimal("0.00001"), "as many requests as may be tried, on the dear endpoint too"
        assert night_here(job, "one", yes=True).summary["results"] == 300
        (spent,) = ask(
            tmp_path / "warehouse.duckdb", "select sum(cost_usd) from ledger where purpose = 'pilot'"
        )[0]
        assert 0 < spent <= pilot
        assert cheapest > 0
        # only the plan is too dear
        job = write_job(tmp_path, emulator, BOTH, quality=quality, budget={"approve_above_usd": 0.005})
        assert night_here(job, "two").code == 4
        pilots = ask(
            tmp_path / "warehouse.duckdb", "select distinct purpose from ledger where run_id = 'two'"
        )
        assert pilots == [("pilot",)]
        done = night_here(job, "two", yes=True)
        assert done.summary["results"] == 300
        assert "approval" not in done.summary["outcomes"]


def test_spending_is_charged_to_tags_and_old_nights_are_forgotten(tmp_path: Path) -> None:
    known = write_rows(tmp_path / "requests.parquet", list(range(60)))
    warehouse = tmp_path / "warehouse.duckdb"
    with emulated([cheap(latency_seconds=0.01)], items=known) as emulator:
        job = write_job(
            tmp_path, emulator, PRICED, tags={"team": "support"}, charge_by=["customer"], retention_days=30
        )
        assert night_here(job, "old").code == 0
        warehouse.unlink()  # lost: all that was paid for is in the run's folder, and comes back
        assert night_here(job, "old").code == 0
        assert calls(emulator) == 60
        charged = ask(
            warehouse, "select tag, direct_usd + overhead_usd + unsettled_usd from chargeback order by 1"
        )
        assert [tag for tag, _ in charged] == ["team=support, customer=acme", "team=support, customer=bolt"]
        assert sum(usd for _, usd in charged) == billed_usd(emulator)
        with duckdb.connect(str(warehouse)) as con:
            con.execute("update runs set started_at = started_at - interval 31 days")
        folder = tmp_path / "warehouse.duckdb.d" / "old"
        assert len(list(folder.glob("parts/*"))) == 1, "a run that is over has one part"
        (folder / "journal").mkdir()
        damaged = folder / "journal" / "00009-main-cheap.jsonl"
        damaged.write_bytes(b"\x00damage\n")
        between = night_here(job, "between")
        assert (between.code, between.summary["outcomes"]) == (0, ["done"]), "tonight's answers are there"
        assert "retention_days: text older than 30 days is not erased yet" in between.said
        damaged.unlink()
        assert "the text of 60 requests in 1 run is erased" in night_here(job, "new").said
        billed = billed_usd(emulator)
    assert not folder.exists()
    page = tmp_path / "old.html"
    assert thirdshift("report", "old", "--warehouse", warehouse, "--output", page).returncode == 0
    texts = ask(warehouse, "select run_id, count(output), count(*) from results group by 1 order by 1")
    assert texts == [("between", 60, 60), ("new", 60, 60), ("old", 0, 60)]
    assert ask(warehouse, "select sum(cost_usd) from ledger where run_id = 'old'") == [(billed / 3,)]


def test_text_that_is_kept_for_longer_than_the_calendar_goes_back_is_kept(tmp_path: Path) -> None:
    known = write_rows(tmp_path / "requests.parquet", list(range(20)))
    with emulated([cheap(latency_seconds=0.01)], items=known) as emulator:
        done = night_here(write_job(tmp_path, emulator, PRICED, retention_days=10**12), "one")
    assert (done.code, done.summary["results"]) == (0, 20)


def test_a_second_night_looks_at_less_and_a_model_that_got_worse_is_named_and_serves_less(
    tmp_path: Path,
) -> None:
    known = write_sums(tmp_path / "requests.parquet", 500)
    quality = {"floor": 0.85, "scorer": "numeric", "pilot": 120}
    warehouse = tmp_path / "warehouse.duckdb"
    nights = {}
    for run_id, right in (("monday", 0.93), ("tuesday", 0.93), ("wednesday", 0.4)):
        models = [
            cheap(ability=ability_for(right), slope=1, latency_seconds=0.01),
            dear(ability=ability_for(0.999), slope=1, latency_seconds=0.01),
        ]
        with emulated(models, items=known, seed=3) as emulator:
            job = write_job(tmp_path, emulator, BOTH, quality=quality)
            done = thirdshift("run", job, "--run-id", run_id, "--json")
        assert done.returncode == 0, done.stderr
        nights[run_id] = done
    pilots = """select run_id, sum(cost_usd)::double, count(*) from ledger where purpose = 'pilot' group by 1 order by 1"""
    (_, first_usd, first), (_, second_usd, second), _ = ask(warehouse, pilots)
    assert second < 0.6 * first
    assert second_usd < 0.6 * first_usd
    assert "scores of earlier nights stand in for" in nights["tuesday"].stderr
    assert "got worse" not in nights["tuesday"].stderr
    assert "cheap got worse" in nights["wednesday"].stderr
    assert [each["endpoint"] for each in answer(nights["wednesday"])["drift"]] == ["cheap"]
    share = "select run_id, avg((endpoint = 'cheap')::int) from results group by 1 order by 1"
    shares = dict(ask(warehouse, share))
    assert shares["tuesday"] > 0.8
    assert shares["wednesday"] < 0.7, (
        "it is right in two of five, costs a fiftieth, and what fails is sent on"
    )
