"""Simulated nights: a seed decides everything, and the laws hold after every death."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.simulated.draw import drawn
from tests.support.simulated.laws import broken, reached
from tests.support.simulated.night import NightStory, SimulatedNight
from tests.support.simulated.provider import Net
from thirdshift.router.values import LedgerStatus

SEEDS = range(22)
PLANTED = sorted((ROOT / "tests" / "planted").glob("*.patch"))
"""Faults that the laws must find: `benchmarks/simulate.py --planted`."""


def play(seed: int, place: Path) -> NightStory:
    return SimulatedNight(drawn(seed), place).play()


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> list[NightStory]:
    return [play(seed, tmp_path_factory.mktemp(f"night-{seed}")) for seed in SEEDS]


def test_the_laws_hold_in_every_night(stories: list[NightStory]) -> None:
    assert {story.drawn.seed: found for story in stories if (found := broken(story))} == {}


def test_these_few_nights_reach_deaths_batches_and_every_end_of_an_attempt(stories: list[NightStory]) -> None:
    states = set[str]().union(*map(reached, stories))
    assert {f"entry {status}" for status in LedgerStatus if status is not LedgerStatus.RESERVED} <= states
    assert {"1 lives", "2 lives", "stopped by budget", "stopped by deadline", "failure expired"} <= states
    faults = Counter(fault for story in stories for fault in story.drawn.faults)
    assert {"process killed", "machine killed", "clock set", "outage", "lies", "stuck batch"} <= faults.keys()


def _after_a_draw(life: Callable[..., None]) -> Callable[..., None]:
    def drawn_first(*given: Any) -> None:
        random.random()
        life(*given)

    return drawn_first


def test_the_same_seed_writes_the_same_files_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = next(seed for seed in SEEDS if len(drawn(seed).deaths) > 1)
    first, second = ({}, {})
    for name, files in (("first", first), ("second", second)):
        play(seed, tmp_path / name)
        # another thread of this process draws from Python's own generator
        monkeypatch.setattr(SimulatedNight, "_life", _after_a_draw(SimulatedNight._life))
        for path in sorted((tmp_path / name).rglob("*")):
            if path.suffix in (".jsonl", ".npy", ".parquet"):
                files[str(path.relative_to(tmp_path / name))] = hashlib.sha256(path.read_bytes()).hexdigest()
    assert first == second
    assert any(name.endswith(".parquet") for name in first)


def test_a_batch_nobody_heard_of_whose_results_are_gone_is_in_the_books(tmp_path: Path) -> None:
    seed = next(
        seed for seed in count() if (tier := drawn(seed).endpoints[0].tier) and tier.name == "anthropic"
    )
    night = drawn(seed)
    habits = replace(
        night.habits, lost_creates=1, turnaround_seconds=60.0, stuck_at=None, enqueued_tokens=None
    )
    night = replace(
        night, net=Net(gone=1.0), habits=habits, plan=(0,) * len(night.plan), deaths=(), deadline_seconds=None
    )
    story = SimulatedNight(night, tmp_path).play()
    assert broken(story) == []
    assert {entry["model"] for entry in story.billed} >= {night.models[0].name}


@pytest.mark.parametrize("patch", PLANTED, ids=lambda patch: patch.stem)
def test_a_planted_fault_is_of_the_code_as_it_is(patch: Path) -> None:
    names, *hunks = re.split(r"^@@.*$\n", patch.read_text(encoding="utf-8"), flags=re.MULTILINE)
    source = (ROOT / names.splitlines()[0].removeprefix("--- a/")).read_text(encoding="utf-8")
    for hunk in hunks:
        before = "".join(line[1:] for line in hunk.splitlines(keepends=True) if not line.startswith("+"))
        assert source.count(before) == 1, f"{patch.name} does not apply any more: write it anew"
