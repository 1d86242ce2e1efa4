"""A few of the two hundred seeds of benchmarks/claims.py."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_SECONDS

BENCHMARK = ROOT / "benchmarks" / "claims.py"
NIGHTS = (
    "a random seventh, given",
    "a random seventh, sample",
    "the easiest half, given",
    "the easiest half, scorable",
    "the easiest half by length, sample",
    "one task, sample",
    "a relative floor, sample",
)


def test_no_floor_is_certified_falsely_where_only_some_answers_can_be_scored() -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARK, "--seeds", "3", "--workers", "1", "--nights", *NIGHTS],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.stdout, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    found = {line["night"]: line for line in told["found"]}
    assert set(found) == set(NIGHTS)
    assert max(line["false"] for line in found.values()) <= 1, found
    assert found["a random seventh, given"]["certified"] == found["one task, sample"]["certified"] == 0
    assert found["a random seventh, sample"]["of_all"] > 0, "a sample that is one certifies"
    easiest = [found[name] for name in NIGHTS if "easiest half" in name]
    assert [night["of_all"] for night in easiest] == [0, 0, 0], "it is certified of its population, if at all"
    assert easiest[1]["certified"] == 3
    assert all(night["others"] < night["scored"] - 0.2 for night in easiest), (
        "which says nothing of the others"
    )
