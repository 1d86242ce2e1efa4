"""Three of the fifty seeds of benchmarks/cap.py."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_SECONDS

BENCHMARK = ROOT / "benchmarks" / "cap.py"


def test_a_cap_is_never_passed_and_spent_to_the_last_reservation() -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARK, "--seeds", "3"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads(done.stdout.splitlines()[-1])
    assert (data["seeds"], data["in_flight"], data["broken"]) == (3, 100, {})
    assert data["answers"] > 100
