"""Five of the hundred kills of benchmarks/faults.py."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_SECONDS

BENCHMARK = ROOT / "benchmarks" / "faults.py"


def test_nights_killed_at_random_instants_end_whole_and_pay_once() -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARK, "5", "--seed", "3"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads(done.stdout.splitlines()[-1])
    assert data["kills"] == 5
    assert sum(data["hindered"].values()) >= 5, "beside readers, few files and full disks"
    assert data["billed"] > data["requests"]
    assert all(data["laws"].values())
