"""Whole nights at other tiers than OpenAI's: killed as a batch is made, among strangers; expired with all that was done."""

from __future__ import annotations

import time
from collections import Counter
from decimal import Decimal
from pathlib import Path

from tests.support.nights import ask, night_here, start, thirdshift, write_job, write_sums
from tests.support.patience import PATIENCE_SECONDS
from tests.support.servers import billed_usd, emulated
from thirdshift.engines.emulator import BatchHabits, EmulatedModel
from thirdshift.engines.registry import tier_rows
from thirdshift.router.values import Price

ONE = EmulatedModel(
    "one", Price(Decimal(1), Decimal(4)), ability=9.0, batch_price=Price(Decimal("0.5"), Decimal(2))
)
NIGHT = {"mode": "batch", "price": {"input": 0.5, "output": 2}}
WHOLE = "select count(*), count(distinct request_id), count(error) from results"


def test_a_night_killed_as_its_batch_is_made_finds_it_by_its_files_name_among_strangers(
    tmp_path: Path,
) -> None:
    """Together keeps no metadata and lists other people's batches beside ours."""
    sums, warehouse = write_sums(tmp_path / "requests.parquet", 60), tmp_path / "warehouse.duckdb"
    habits = BatchHabits(
        turnaround_seconds=3, tier=tier_rows().named("together_ai"), strangers=5, lost_creates=1
    )
    with emulated([ONE], items=sums, batches=habits) as emulator:
        job = write_job(tmp_path, emulator, {"night": NIGHT | {"model": "together_ai/one"}})
        night = start("run", job, "--run-id", "one")
        until = time.monotonic() + PATIENCE_SECONDS
        while b"batch_emulated_" not in emulator._get("/v1/batches") and time.monotonic() < until:
            assert night.poll() is None
        night.kill()
        night.wait()
        done = thirdshift("resume", "one", "--warehouse", warehouse)
        assert done.returncode == 0, done.stderr
        assert ask(warehouse, WHOLE) == [(60, 60, 0)]
        assert len(emulator.books()) == 60, "made once"
        assert ask(warehouse, "select sum(cost_usd) from ledger") == [(billed_usd(emulator),)]


def test_what_gemini_loses_with_a_batch_is_answered_elsewhere_and_booked_at_its_most(tmp_path: Path) -> None:
    sums, warehouse = write_sums(tmp_path / "requests.parquet", 250), tmp_path / "warehouse.duckdb"
    habits = BatchHabits(
        turnaround_seconds=1,
        tier=tier_rows().named("gemini"),
        expires_seconds=2,
        stuck_at=0.5,
        stuck_batches=0.5,
    )
    with emulated([ONE], items=sums, seed=4, batches=habits) as emulator:
        day = {"model": "openai/one", "price": {"input": 1, "output": 4}}
        job = write_job(tmp_path, emulator, {"night": NIGHT | {"model": "gemini/one"}, "day": day})
        done = night_here(job, "one")
        assert done.code == 0, done.said
        assert ask(warehouse, WHOLE) == [(250, 250, 0)]
        shards = ask(warehouse, "select requests from shards where endpoint = 'night' order by 1")
        assert len(shards) == 3, "jobs are small where everything can be lost"
        assert max(shards) <= (84,)
        states = Counter(ask(warehouse, "select endpoint, status from ledger"))
        lost = states["night", "unsettled"]
        sent = sum(requests for (requests,) in shards)
        assert 0 < lost < sent <= 250
        assert states == {
            ("night", "settled"): sent - lost,
            ("night", "unsettled"): lost,
            ("day", "settled"): lost + 250 - sent,  # a few have told how long answers are
        }
        ((booked,),) = ask(warehouse, "select sum(cost_usd) from ledger")
        assert booked >= billed_usd(emulator), "whether an empty expiry is billed is not told"
