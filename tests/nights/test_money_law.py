"""The law of money: whatever a night's course, settled <= the provider's books <= settled + unsettled at most."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thirdshift.flows.console import spent
from thirdshift.flows.report.queries import COUNTS
from thirdshift.router.values import Answer, Intent, LedgerStatus, Mode, Outcome, Purpose, Usage
from thirdshift.warehouse.exchange.invoices import INVOICE
from thirdshift.warehouse.exchange.settlement import settle, settlement
from thirdshift.warehouse.intake.intake import InputSpec, freeze
from thirdshift.warehouse.journal import parts
from thirdshift.warehouse.journal.journal import FileJournal, recover
from thirdshift.warehouse.journal.run_folder import MARKER, run_folder
from thirdshift.warehouse.store import ledger, prices, requests, results, runs
from thirdshift.warehouse.store.ingest import ingest_parts
from thirdshift.warehouse.store.reuse import answered_before, reuse
from thirdshift.warehouse.store.store import Warehouse

NOW = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)
ROWS = 6
FIGURES = {
    "runs": "select spent_usd, unsettled_usd from runs where run_id = 'night'",
    "spend_by_day": "select sum(settled_usd), sum(unsettled_usd) from spend_by_day where run_id = 'night'",
    "spend_by_task": "select sum(settled_usd), sum(unsettled_usd) from spend_by_task where run_id = 'night'",
    "spend_by_endpoint": "select sum(settled_usd), sum(unsettled_usd) from spend_by_endpoint where run_id = 'night'",
    "savings": "select spent_usd, unsettled_usd from savings where run_id = 'night'",
    "chargeback": "select sum(direct_usd + overhead_usd), sum(unsettled_usd) from chargeback where month = '2026-11'",
    "the report": "select spent_usd, unsettled_usd from (" + COUNTS.replace("$run_id", "'night'") + ")",
}
"""Every place where a run's money is shown, and its two figures there."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt: what was set aside, what the provider billed, and what we heard of it."""

    row: int
    purpose: Purpose
    reserved_usd: Decimal
    billed_usd: Decimal
    heard: bool
    """Else the outcome was never learnt: the connection dropped, or the process was killed."""
    killed: bool


@st.composite
def attempts(draw: st.DrawFn) -> Attempt:
    reserved = Decimal(draw(st.integers(1, 5000))) / 1000
    heard = draw(st.booleans())
    share = Decimal(draw(st.integers(0, 1000))) / 1000
    over = heard and draw(st.booleans())
    billed = (reserved * share).quantize(Decimal("1e-9")) + (reserved if over else 0)
    purpose = draw(st.sampled_from([Purpose.PILOT, Purpose.MAIN, Purpose.REPAIR, Purpose.JUDGE]))
    return Attempt(draw(st.integers(0, ROWS - 1)), purpose, reserved, billed, heard, draw(st.booleans()))


def begun(path: Path, run_id: str, at: datetime) -> Path:
    source = {"request_id": [f"r{n}" for n in range(ROWS)], "prompt": [f"p{n}" for n in range(ROWS)]}
    pq.write_table(pa.table(source), path.parent / "in.parquet")
    folder = run_folder(path, run_id)
    freeze(InputSpec("in.parquet", path.parent), folder)
    (folder / MARKER).touch()
    with Warehouse.open(path) as warehouse:
        runs.start(warehouse, {"run_id": run_id, "job": "tickets", "status": "running", "started_at": at})
        requests.save(warehouse, run_id, folder, {}, [])
    return folder


def lived(path: Path, run_id: str, course: list[Attempt], at: datetime = NOW) -> None:
    """The course of a night in its journal, a kill at its end, and what the next process makes of that."""
    folder = begun(path, run_id, at)
    with FileJournal(folder) as journal:
        for number, it in enumerate(course):
            intent = Intent(
                f"{run_id}-{number}", run_id, "s", it.row, f"r{it.row}", "small", "lab/small", "lab", Mode.REALTIME,
                it.purpose, 1, it.reserved_usd, at + timedelta(seconds=number),
            )  # fmt: skip
            journal.sent([intent])
            if it.heard:
                reply = Answer(it.row, f"r{it.row}", "text", "stop")
                status = LedgerStatus.SETTLED
                journal.settled(
                    [Outcome(intent.entry_id, status, it.billed_usd, at, Usage(100, 10), reply=reply)]
                )
            elif not it.killed:  # dropped: we know that we do not know
                journal.settled([Outcome(intent.entry_id, LedgerStatus.UNSETTLED, it.reserved_usd, at)])
    recover(folder)
    with Warehouse.open(path) as warehouse:
        ingest_parts(warehouse, *parts.of_run(folder))


@settings(max_examples=25, deadline=None)
@given(st.lists(attempts(), min_size=1, max_size=14), st.booleans())
def test_settled_is_no_more_and_settled_with_unsettled_no_less_than_the_providers_books(
    tmp_path_factory: pytest.TempPathFactory, course: list[Attempt], reused: bool
) -> None:
    path = tmp_path_factory.mktemp("law") / "w.duckdb"
    books = sum((it.billed_usd for it in course), Decimal(0))
    if reused:  # what another night was paid for is in no figure of this one
        earlier = [
            Attempt(n, Purpose.MAIN, Decimal(9), Decimal(7), heard=True, killed=False) for n in range(3)
        ]
        lived(path, "before", earlier, NOW - timedelta(days=40))
        with Warehouse.open(path) as warehouse:
            served = pa.table({"row": range(3), "endpoint": ["small"] * 3})
            results.compose(warehouse, "before", served)
            runs.finish(warehouse, "before", status="done", published_at=NOW)
    lived(path, "night", course)
    with Warehouse.open(path) as warehouse:
        if reused:
            hashes = warehouse.query("select request_hash from requests where run_id = 'night'")[
                "request_hash"
            ]
            found = answered_before(warehouse, "tickets", hashes, None, NOW, but_run="night")
            assert found.num_rows == 3
            reuse(warehouse, "night", found)
        prices.save(
            warehouse,
            "night",
            pa.table(
                {
                    "price_id": ["a"],
                    "endpoint": ["small"],
                    "input_usd_per_mtok": [1.0],
                    "output_usd_per_mtok": [1.0],
                }
            ),
        )
        results.compose(
            warehouse,
            "night",
            pa.table({"row": range(ROWS), "endpoint": pa.array([None] * ROWS, pa.string())}),
        )
        runs.finish(warehouse, "night", status="done", published_at=NOW)
        cost = ledger.spending(warehouse, "night")
        assert cost.settled_usd <= books <= cost.settled_usd + cost.unsettled_usd
        for place, sql in FIGURES.items():
            (row,) = warehouse.query(sql).to_pylist()
            assert tuple(row.values()) == (cost.settled_usd, cost.unsettled_usd), place
        said = spent(cost.settled_usd, cost.unsettled_usd)
        assert ("settled" in said and "more unsettled" in said) == bool(cost.unsettled_usd)
        # the provider's invoice tells the truth, and then there is one figure
        invoice = pa.Table.from_pylist(
            [{"day": NOW.date(), "model": "small", "cost_usd": books}], schema=INVOICE
        )
        settle(
            warehouse,
            settlement(
                warehouse.query("from ledger where run_id = 'night'"), invoice, until=NOW + timedelta(days=2)
            ),
            "the invoice",
        )
        assert ledger.spending(warehouse, "night") == ledger.Spending(books, Decimal(0))
        for place, sql in FIGURES.items():
            (row,) = warehouse.query(sql).to_pylist()
            assert tuple(row.values()) == (books, 0), place
