"""Every row of the batch tiers against an emulator that is held to that row; limits are scaled down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from multiprocessing import get_context
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.engines import MemoryJournal, kinds, requests
from tests.support.paths import ROOT
from tests.support.servers import billed_usd
from thirdshift.engines.batch.engine import BatchEngine
from thirdshift.engines.batch.openai import file_name, label_in
from thirdshift.engines.batch.watcher import overdue_seconds
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.emulator import BatchHabits, EmulatedModel, Emulator
from thirdshift.engines.errors import BadEndpointError
from thirdshift.engines.registry import tier_of, tier_rows
from thirdshift.flows.models.tiers import page
from thirdshift.router.interfaces import EngineContext, Shard
from thirdshift.router.tiers import BatchTier, Expiry
from thirdshift.router.values import Endpoint, Mode, Price, PriceSchedule, Purpose

PRICE = Price(Decimal(100), Decimal(400))
LINES, AT_ONCE = 8, 2
KEY = "run~mark/s"
"""As a run names a shard."""
BUILT = [tier.name for tier in tier_rows().tiers if tier.missing is None]
PROCESSES = get_context("forkserver")
"""Each child has what this module imports already, and no thread of the test's."""
PROCESSES.set_forkserver_preload([__name__])
FILES = [name for name in BUILT if name != "anthropic"]
"""Wires A, B and C."""


def scaled(name: str) -> BatchTier:
    """A row with limits that a test can reach."""
    tier = tier_rows().named(name)
    assert tier is not None
    return tier.with_limits(requests=LINES, batches=AT_ONCE)


@contextmanager
def held_to(tier: BatchTier, **habits: Any) -> Iterator[Emulator]:
    model = EmulatedModel("m", PRICE, ability=1.0, batch_price=PRICE)
    told = {"turnaround_seconds": 0.1, "max_requests": LINES, "tier": tier, "strangers": 4, **habits}
    with Emulator([model], batches=BatchHabits(**told)) as emulator:
        yield emulator


def engine_at(api_base: str, tier: BatchTier, keep: Path, journal: MemoryJournal) -> BatchEngine:
    wire = tier.wire
    endpoint = Endpoint("night", f"{wire}/m", PriceSchedule(PRICE), Mode.BATCH, api_base=api_base)
    endpoint = replace(endpoint, tier=tier, emulated=True)
    context = EngineContext(journal, RunBudget(None), keep=keep)
    return BatchEngine(endpoint, context, poll_first_seconds=0.05, poll_max_seconds=0.1)


@pytest.mark.parametrize("name", BUILT)
def test_each_row_is_kept_to_and_what_is_billed_is_what_is_booked(name: str, tmp_path: Path) -> None:
    """2 x its line limit + 1 requests, with a reply lost and strangers in the list."""
    tier, journal = scaled(name), MemoryJournal()
    work = requests(2 * LINES + 1)
    with held_to(tier, lost_creates=1) as emulator:
        engine = engine_at(emulator.api_base, tier, tmp_path, journal)
        ticket = engine.submit(Shard("run", "s", "night", Purpose.MAIN, work), KEY)
        replies = {said.row: said for said in engine.collect(ticket)}
        engine.close()
        assert kinds(replies) == {"answer": len(work)}
        assert len(emulator.books()) == len(work), "billed = unique"
        assert journal.cost == billed_usd(emulator)
        assert journal.statuses == {"settled": len(work)}


@pytest.mark.parametrize("name", BUILT)
def test_what_a_killed_process_left_at_each_tier_is_adopted(name: str, tmp_path: Path) -> None:
    tier, journal = scaled(name), MemoryJournal(across_processes=True)
    shard = Shard("run", "s", "night", Purpose.MAIN, requests(LINES))
    with held_to(tier, turnaround_seconds=1.0) as emulator:
        first = engine_at(emulator.api_base, tier, tmp_path, journal)
        ticket = first.submit(shard, KEY)
        while not first.progress(ticket).done and not _made(emulator, tier):
            pass
        first.close()
        second = engine_at(emulator.api_base, tier, tmp_path, journal)
        replies = {said.row: said for said in second.collect(second.submit(shard, KEY))}
        second.close()
        assert kinds(replies) == {"answer": LINES}
        assert len(emulator.books()) == LINES
        assert journal.cost == billed_usd(emulator)


def _make(api_base: str, tier: BatchTier, keep: Path) -> None:
    """Submit a batch and wait for the end, which is a SIGKILL."""
    engine = engine_at(api_base, tier, keep, MemoryJournal(across_processes=True))
    list(engine.collect(engine.submit(Shard("run", "s", "night", Purpose.MAIN, requests(LINES)), "run/s")))
    sleep(600)


def _made(emulator: Emulator, tier: BatchTier) -> bool:
    """Whether a batch of ours is in the provider's list."""
    jobs = "/messages/batches" if tier.name == "anthropic" else tier.jobs
    return b"emulated_" in emulator._get(f"/v1{jobs}")


@pytest.mark.parametrize("name", FILES)
def test_a_batch_that_expires_at_each_tier_leaves_what_its_row_says(name: str, tmp_path: Path) -> None:
    tier, journal = scaled(name), MemoryJournal()
    if tier.expiry is Expiry.NEVER:  # one that hangs is cancelled instead
        assert tier.window is not None
        tier = tier.model_copy(update={"windows": (tier.window.model_copy(update={"hours": 1e-4}),)})
        assert overdue_seconds(tier) < 0.6
    with held_to(tier, stuck_at=0.5, expires_seconds=0.6) as emulator:
        engine = engine_at(emulator.api_base, tier, tmp_path, journal)
        ticket = engine.submit(Shard("run", "s", "night", Purpose.MAIN, requests(LINES)), KEY)
        replies = {said.row: said for said in engine.collect(ticket)}
        engine.close()
        if tier.expiry is Expiry.LOSES:
            assert kinds(replies) == {"expired": LINES}
            assert journal.statuses == {"unsettled": LINES}, "whether it is billed is not told"
            assert journal.cost >= billed_usd(emulator)
            return
        assert kinds(replies) == {"answer": LINES // 2, "expired": LINES // 2}
        assert journal.cost == billed_usd(emulator)


@pytest.mark.parametrize("name", [tier.name for tier in tier_rows().tiers if tier.missing is not None])
def test_what_is_not_built_is_refused_with_the_reason(name: str) -> None:
    tier = tier_rows().named(name)
    assert tier is not None
    assert tier.missing is not None
    with pytest.raises(BadEndpointError, match="batch does not work yet for"):
        tier_of(Endpoint("e", f"{name}/m", PriceSchedule(PRICE), Mode.BATCH))


def test_twelve_providers_and_more_are_reached_by_the_wires_a_and_b() -> None:
    rows = [tier for tier in tier_rows().tiers if tier.missing is None and tier.name != "compatible"]
    assert len([tier for tier in rows if tier.family in ("A", "B")]) >= 12


@given(st.text("abc/~st._:+-0"))
def test_a_label_is_read_back_from_the_name_of_its_file(label: str) -> None:
    """A run's key has `~`, and what is not found again is made, and paid, twice."""
    assert "/" not in file_name(label)
    assert label_in(file_name(label)) == label


def test_the_page_on_tiers_is_current() -> None:
    written = ROOT / "docs" / "tiers.md"
    assert written.read_text(encoding="utf-8") == page(), (
        "run: python -m thirdshift.flows.models.tiers > docs/tiers.md"
    )
