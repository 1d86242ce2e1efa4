"""The law of money: whatever a night's course, settled <= the provider's books <= settled + unsettled at most."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thirdshift.engines.core.budget import RunBudget
from thirdshift.flows.console import money, spent
from thirdshift.flows.quality import finishing
from thirdshift.flows.report import sentences, tables
from thirdshift.flows.report.data import RunFacts, load_facts
from thirdshift.flows.report.figures import plots
from thirdshift.flows.report.page import tiles
from thirdshift.flows.report.queries import COUNTS
from thirdshift.flows.runs.context import context_for
from thirdshift.flows.runs.options import RunOptions
from thirdshift.flows.runs.summary import lines
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
"""Every table and view where a run's money is, and its two figures there."""
JOB = """\
name: tickets
input: in.parquet
warehouse: w.duckdb
endpoints: [{name: small, model: lab/small, provider: lab, api_base: "http://127.0.0.1:1/v1", price: {input: 1, output: 1}}]
"""
DOLLARS = re.compile(r"\$[\d,]+(?:\.\d+)?")


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
    (path.parent / "job.yaml").write_text(JOB)
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


def told(path: Path, facts: RunFacts) -> Iterator[tuple[str, str]]:
    """Every sentence with money that a run's end says: on the terminal, in Prefect, on the report's page."""
    context = context_for(RunOptions(path.parent / "job.yaml"), "night")
    with Warehouse.open(path) as warehouse:
        summary = finishing.summary(warehouse, context, runs.get(warehouse, "night") or {})
    yield from (("the terminal, and Prefect's report", line) for line in lines(summary))
    yield from (("a tile of the page", f"{tile.what} {tile.shown} {tile.note}") for tile in tiles(facts))
    yield from (("what to do next", text) for text in sentences.next_steps(facts))
    yield "the bill in words", sentences.bill(facts)
    yield from (("the estimate in words", text) for text in sentences.estimate(facts))
    yield from ((f"the drawing {name}", plot.description) for name, plot in plots(facts).items())


def named(course: list[Attempt], *, reused: bool) -> list[Decimal]:
    """What is told besides under its own name: what was billed above a ceiling and what that allowed; what three reused
    answers at 7 USD each cost their run, which is not paid again."""
    above = [it for it in course if it.heard and it.billed_usd > it.reserved_usd]
    sums = [
        sum((it.billed_usd for it in above), Decimal(0)),
        sum((it.reserved_usd for it in above), Decimal(0)),
    ]
    return [*sums, Decimal(21)] if reused else sums


def shown(path: Path, settled: Decimal, unsettled: Decimal, besides: list[Decimal]) -> None:
    """Every figure that is shown is what was settled, or what more it can be at most, or a named part of one of these."""
    facts = load_facts(path, "night")
    by_purpose: dict[str, Decimal] = {}
    for row in facts.spend:
        by_purpose[row["purpose"]] = by_purpose.get(row["purpose"], Decimal(0)) + row["settled_usd"]
    alone = [row[name] for row in facts.bill for name in ("alone_usd", "saved_usd", "saved_usd_at_least")]
    allowed = {
        money(abs(usd))
        for usd in (settled, unsettled, *by_purpose.values(), *alone, *besides)
        if usd is not None
    }
    for place, text in told(path, facts):
        assert set(DOLLARS.findall(text)) <= allowed, (place, text)
        if unsettled and settled and money(settled) in DOLLARS.findall(text):
            assert "settled" in text or "by its own ceiling" in text, (place, text)
    tabled(facts, settled, unsettled)


def tabled(facts: RunFacts, settled: Decimal, unsettled: Decimal) -> None:
    """The report's tables add up to the same two figures, under their names."""
    for made in (tables.spend(facts), tables.spend_by_task(facts)):
        if made is None:
            assert settled == unsettled == 0
            continue
        for column, usd in (("Settled", settled), ("Unsettled at most", unsettled)):
            at = made.head.index(column)
            assert sum(Decimal(row[at].value or 0) for row in made.rows) == usd, made.title
    bill = tables.bill(facts)
    assert bill is not None
    ours = {
        row[0].text: Decimal(row[1].value or 0) for row in bill.rows if row[0].text.startswith("this run")
    }
    both = {"this run, settled": settled, "this run, unsettled": unsettled}
    assert ours == (both if unsettled else {"this run": settled})
    for made in (tables.dearest(facts), tables.slowest(facts)):
        assert made is None or "Cost at most" in made.head


@given(st.lists(attempts(), min_size=1, max_size=14))
def test_while_a_night_goes_on_the_books_are_between_what_is_settled_and_that_with_what_is_open(
    course: list[Attempt],
) -> None:
    budget, books = RunBudget(None), Decimal(0)
    for it in course:
        assert budget.reserve(it.reserved_usd)
        books += it.billed_usd
        if it.heard:
            budget.settle(it.reserved_usd, it.billed_usd)
        elif not it.killed:
            budget.settle(it.reserved_usd, it.reserved_usd, certain=False)
        bill = budget.figures
        assert bill.settled_usd <= books <= bill.settled_usd + bill.unsettled_usd + bill.in_flight_usd
        said = spent(bill.settled_usd, bill.unsettled_usd, bill.in_flight_usd)
        figures = {money(bill.settled_usd), money(bill.unsettled_usd), money(bill.in_flight_usd)}
        assert set(DOLLARS.findall(said)) <= figures
        assert ("more unsettled" in said, "more in flight" in said) == (
            bool(bill.unsettled_usd),
            bool(bill.in_flight_usd),
        )


@settings(max_examples=10, deadline=None)
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
    shown(path, cost.settled_usd, cost.unsettled_usd, named(course, reused=reused))
    with Warehouse.open(path) as warehouse:
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
    shown(path, books, Decimal(0), named(course, reused=reused))
