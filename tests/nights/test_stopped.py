"""A night that is told to stop, by a signal or a closed terminal: the warehouse says so, and what was billed is in it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.nights import PROGRAM, write_job, write_sums
from tests.support.patience import PATIENCE_SECONDS
from tests.support.servers import billed_usd, cheap, emulated
from thirdshift.flows.api.questions import query


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_its_warehouse_says_interrupted_and_its_ledger_is_what_was_billed(
    tmp_path: Path, number: signal.Signals
) -> None:
    items = write_sums(tmp_path / "requests.parquet", 400)
    with emulated([cheap(latency_seconds=0.3)], items=items) as emulator:
        endpoint = {"price": {"input": 0.1, "output": 0.4}, "limits": {"concurrency": 4}}
        job = write_job(tmp_path, emulator, {"cheap": endpoint})
        process = subprocess.Popen(
            [PROGRAM, "run", job, "--run-id", "tonight"],
            env={name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # whoever runs the tests may have told them to outlive their terminal
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # noqa: PLW1509
        )
        last = time.monotonic() + PATIENCE_SECONDS
        while emulator.totals().get("cheap", {}).get("requests", 0) < 20:
            assert time.monotonic() < last
            time.sleep(0.1)
        process.send_signal(number)
        _, printed = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 128 + signal.SIGTERM, printed
        assert "go on with: thirdshift resume tonight" in printed
        billed = billed_usd(emulator)
    warehouse = tmp_path / "warehouse.duckdb"
    # what a busy machine had no time for on its way out, whoever asks next makes up for
    (run,) = query(warehouse, "select status, spent_usd from runs").to_pylist()
    sums = "coalesce(sum(cost_usd) filter (status = '{}'), 0)"
    (ledger,) = query(
        warehouse,
        f"select {sums.format('settled')} as settled, {sums.format('unsettled')} as unsettled from ledger",
    ).to_pylist()
    assert run == {"status": "interrupted", "spent_usd": ledger["settled"]}
    assert ledger["settled"] <= billed <= ledger["settled"] + ledger["unsettled"]
    assert billed > 0
