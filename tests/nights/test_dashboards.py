"""A dashboard that has the warehouse open all night keeps no night waiting; its own copy is new when the night ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.nights import answer, ask, thirdshift, write_job, write_sums
from tests.support.servers import billed_usd, cheap, emulated

DASHBOARD = """
import duckdb, sys
held = [duckdb.connect(place, read_only=True) for place in sys.argv[1:]]
print("open", flush=True)
sys.stdin.read()
"""


def test_a_dashboard_on_the_warehouse_and_on_its_copy_keeps_no_night_waiting(tmp_path: Path) -> None:
    items = write_sums(tmp_path / "requests.parquet", 30)
    warehouse, copy = tmp_path / "warehouse.duckdb", tmp_path / "boards" / "copy.duckdb"
    with emulated([cheap()], items=items) as emulator:
        endpoint = {"price": {"input": 0.1, "output": 0.4}}
        job = write_job(tmp_path, emulator, {"cheap": endpoint}, warehouse_copy=str(copy))
        assert answer(thirdshift("run", job, "--run-id", "first", "--json"))["results"] == 30
        assert ask(copy, "select run_id, status from runs") == [("first", "done")]
        with subprocess.Popen(
            [sys.executable, "-c", DASHBOARD, str(warehouse), str(copy)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as dashboard:
            assert dashboard.stdout is not None
            assert dashboard.stdout.readline() == "open\n"
            done = thirdshift("run", job, "--run-id", "second", "--json")
            assert dashboard.poll() is None
            dashboard.communicate()
        assert answer(done)["results"] == 30, done.stderr
        assert "going on in a copy" in done.stderr
        billed = billed_usd(emulator)
    for place in (warehouse, copy):
        assert ask(place, "select run_id, status from runs order by 1") == [
            ("first", "done"),
            ("second", "done"),
        ]
        assert ask(place, "select sum(cost_usd) from ledger") == [(billed,)]
