"""What finance asks: charge-back sums to the ledger, savings, reuse of earlier answers, budget windows."""

from __future__ import annotations

import itertools
import json
import os
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.support.questions import QUESTIONS, WATERMARK
from thirdshift.flows.cli.app import app
from thirdshift.flows.execution.earlier_runs import within_window
from thirdshift.flows.report.queries import ESTIMATES
from thirdshift.flows.runs.context import context_for
from thirdshift.flows.runs.options import RunOptions
from thirdshift.router.values import (
    Answer,
    Failure,
    FailureKind,
    Intent,
    LedgerStatus,
    Mode,
    Outcome,
    Purpose,
    Usage,
)
from thirdshift.warehouse.errors import StoreError
from thirdshift.warehouse.intake.intake import InputSpec, freeze
from thirdshift.warehouse.journal.journal import FileJournal
from thirdshift.warehouse.journal.run_folder import MARKER, run_folder
from thirdshift.warehouse.store import dispatch, ledger, prices, requests, results, runs
from thirdshift.warehouse.store.ingest import ingest_parts
from thirdshift.warehouse.store.ledger import spent_in_window
from thirdshift.warehouse.store.reuse import answered_before, reuse
from thirdshift.warehouse.store.store import Warehouse

NOW = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)
COUNT = 7
_names = itertools.count()


def a_run(
    path: Path,
    run_id: str,
    entries: list[tuple[int | None, Purpose, str, Decimal]],
    *,
    at: datetime = NOW,
    job: str = "tickets",
    prompts: list[str] | None = None,
    valid: bool | None = None,
) -> None:
    """A whole night: `entries` are (row, purpose, status, cost); each settled one is an answer of that row."""
    prompts = prompts or [f"p{n}" for n in range(COUNT)]
    source = {
        "request_id": [f"r{n}" for n in range(len(prompts))],
        "prompt": prompts,
        "metadata": [{"customer": "acme" if n % 3 else "bolt"} for n in range(len(prompts))],
    }
    pq.write_table(pa.table(source), path.parent / "in.parquet")
    folder = run_folder(path, run_id)
    freeze(InputSpec("in.parquet", path.parent), folder)
    (folder / MARKER).touch()
    with Warehouse.open(path) as warehouse:
        runs.start(warehouse, {"run_id": run_id, "job": job, "status": "running", "started_at": at})
        requests.save(warehouse, run_id, folder, {"team": "support"}, ["customer"])
    with FileJournal(folder) as journal:
        for row, purpose, status, cost in entries:
            intent = an_intent(run_id, row, purpose, cost, at)
            journal.sent([intent])
            if status != "unsettled":
                reply = (
                    None
                    if row is None
                    else Answer(row, f"r{row}", f"{run_id} says {row}", "stop", valid=valid)
                )
                if status == "void" and row is not None:
                    reply = Failure(row, f"r{row}", FailureKind.REFUSED, "declined")  # type: ignore[assignment]
                journal.settled(
                    [Outcome(intent.entry_id, LedgerStatus(status), cost, at, Usage(100, 10), reply=reply)]
                )
        part = journal.seal("s")
    assert part is not None
    with Warehouse.open(path) as warehouse:
        ingest_parts(warehouse, part)
        leaders = warehouse.query("select row from requests where run_id = $r and row = leader", r=run_id)[
            "row"
        ]
        results.compose(
            warehouse, run_id, pa.table({"row": leaders, "endpoint": pa.array(["small"] * len(leaders))})
        )
        runs.finish(warehouse, run_id, status="done", published_at=at)


def an_intent(run_id: str, row: int | None, purpose: Purpose, cost: Decimal, at: datetime) -> Intent:
    return Intent(
        f"{run_id}-{next(_names)}", run_id, "s", row, None if row is None else f"r{row}", "small", "lab/small",
        "lab" if (row or 0) % 2 else "house", Mode.REALTIME, purpose, 1, cost, at,
    )  # fmt: skip


def one(warehouse: Warehouse, sql: str) -> dict[str, Any]:
    (row,) = warehouse.query(sql).to_pylist()
    return dict(row)


ENTRIES = st.lists(
    st.tuples(
        st.integers(0, COUNT - 1) | st.none(),
        st.sampled_from(list(Purpose)),
        st.sampled_from(["settled", "unsettled", "void"]),
        st.integers(0, 10**12).map(lambda n: Decimal(n).scaleb(-9)),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=12)
@given(ENTRIES, ENTRIES)
def test_chargeback_sums_to_the_ledger_to_the_last_place(
    tmp_path_factory: pytest.TempPathFactory, first: list[Any], second: list[Any]
) -> None:
    path = tmp_path_factory.mktemp("charge") / "w.duckdb"
    a_run(path, "one", first)
    a_run(path, "two", second, at=NOW + timedelta(days=20))
    with Warehouse.open(path) as warehouse:
        booked = one(
            warehouse,
            """select sum(cost_usd) as all_usd, coalesce(sum(cost_usd) filter (where status = 'unsettled'), 0) as open
               from ledger""",
        )
        charged = one(
            warehouse,
            """select sum(direct_usd) + sum(overhead_usd) + sum(unsettled_usd) as all_usd, sum(unsettled_usd) as open
               from chargeback""",
        )
        assert charged == booked
        by_month = (
            "select month, sum(direct_usd + overhead_usd + unsettled_usd) as usd from chargeback group by 1"
        )
        by_day = "select strftime(day, '%Y-%m') as month, sum(cost_usd) as usd from spend_by_day group by 1"
        assert (
            warehouse.query(by_month + " order by 1").to_pylist()
            == warehouse.query(by_day + " order by 1").to_pylist()
        )


def test_what_belongs_to_no_request_is_spread_over_the_answered_ones_by_count(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    # rows 0, 3, 6 are bolt's, the four others acme's; row 6 gets no answer
    main = [(n, Purpose.MAIN, "settled", Decimal(1)) for n in range(6)] + [
        (6, Purpose.MAIN, "void", Decimal(0))
    ]
    a_run(
        path,
        "one",
        [*main, (None, Purpose.OVERHEAD, "settled", Decimal(6)), (2, Purpose.PILOT, "unsettled", Decimal(3))],
    )
    house = {"run_id": "one", "worker_id": "house-0#1", "started_at": NOW, "accounting_usd": Decimal(3)}
    with Warehouse.open(path) as warehouse:
        dispatch.save_workers(warehouse, pa.Table.from_pylist([house]))
        rows = warehouse.query(
            """select tag, sum(direct_usd) as direct, sum(overhead_usd) as overhead, sum(unsettled_usd) as open,
                      sum(accounting_usd) as paid_already
               from chargeback group by 1 order by 1"""
        ).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("team=support, customer=acme", 4, 4, 2, 2),
        ("team=support, customer=bolt", 2, 2, 1, 1),
    ]


def test_savings_say_what_each_endpoint_alone_would_have_cost(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    a_run(path, "one", [(n, Purpose.MAIN, "settled", Decimal("0.001")) for n in range(COUNT)])
    in_force = pa.table(
        {
            "price_id": ["a", "b", "c"],
            "endpoint": ["small", "frontier", "house"],
            "input_usd_per_mtok": [10.0, 100.0, 0.0],
            "output_usd_per_mtok": [0.0, 1000.0, 0.0],
            "usd_per_hour": [None, None, 2.5],
        }
    )
    with Warehouse.open(path) as warehouse:
        prices.save(warehouse, "one", in_force)
        prices.save(warehouse, "one", in_force)
        rows = warehouse.query("select * from savings order by endpoint").to_pylist()
    found = {r["endpoint"]: (r["basis"], r["spent_usd"], r["alone_usd"], r["saved_usd"]) for r in rows}
    spent = Decimal("0.007")
    # 7 requests of 100 tokens in and 10 out
    assert found["small"] == ("tokens", spent, Decimal("0.007"), 0)
    assert found["frontier"] == ("tokens", spent, Decimal("0.14"), Decimal("0.133"))
    assert found["house"][2] is None, "hours cannot be told from tokens"


def test_savings_leave_unsettled_and_reused_apart(tmp_path: Path) -> None:
    """Five requests are paid for, 0.001 each, and an attempt may have cost 0.004 more; two were answered another day."""
    path = tmp_path / "w.duckdb"
    a_run(
        path, "before", [(5, Purpose.MAIN, "settled", Decimal(1)), (6, Purpose.MAIN, "settled", Decimal(1))]
    )
    paid = [(n, Purpose.MAIN, "settled", Decimal("0.001")) for n in range(5)]
    a_run(path, "one", [*paid, (0, Purpose.MAIN, "unsettled", Decimal("0.004"))])
    in_force = pa.table(
        {
            "price_id": ["b"],
            "endpoint": ["frontier"],
            "input_usd_per_mtok": [100.0],
            "output_usd_per_mtok": [0.0],
        }
    )
    with Warehouse.open(path) as warehouse:
        hashes = warehouse.query("select request_hash from requests where run_id = 'one' and row >= 5")[
            "request_hash"
        ]
        reuse(warehouse, "one", answered_before(warehouse, "tickets", hashes, None, NOW, but_run="one"))
        prices.save(warehouse, "one", in_force)
        row = one(warehouse, "from savings")
        run = runs.get(warehouse, "one")
        by_day = one(warehouse, "select * from spend_by_day where run_id = 'one'")
    # 5 requests of 100 tokens at 100 USD a million are 0.05; the two that were reused are no merit of the plan
    assert (row["requests"], row["reused"], row["alone_usd"]) == (5, 2, Decimal("0.05"))
    assert (row["spent_usd"], row["unsettled_usd"]) == (Decimal("0.005"), Decimal("0.004"))
    assert (row["saved_usd"], row["saved_usd_at_least"]) == (Decimal("0.045"), Decimal("0.041"))
    assert run is not None
    assert (run["spent_usd"], run["unsettled_usd"]) == (Decimal("0.005"), Decimal("0.004"))
    assert (by_day["settled_usd"], by_day["unsettled_usd"]) == (Decimal("0.005"), Decimal("0.004"))


def invoice_of(folder: Path, text: str, made: datetime = NOW + timedelta(days=3)) -> Path:
    """A provider's usage export, and when it was made."""
    path = folder / "house.csv"
    path.write_text(text)
    os.utime(path, (made.timestamp(), made.timestamp()))
    return path


@pytest.mark.parametrize(
    ("begun", "made", "lines", "told"),
    [
        # made at noon of the day itself: what the afternoon was billed is not in it
        (time(1), NOW.replace(hour=12), "2026-11-22,small,1.00", "until the end of 2026-11-22"),
        # the attempt of 23:30 can have been billed after midnight, and the export ends there
        (time(23, 30), NOW + timedelta(days=3), "2026-11-22,small,1.00", "until the end of 2026-11-23"),
    ],
)
def test_an_invoice_that_is_not_complete_lowers_no_figure(
    tmp_path: Path, begun: time, made: datetime, lines: str, told: str
) -> None:
    path = tmp_path / "w.duckdb"
    entries = [(0, Purpose.MAIN, "settled", Decimal(1)), (2, Purpose.MAIN, "unsettled", Decimal("0.4"))]
    a_run(path, "one", entries, at=datetime.combine(NOW.date(), begun, UTC))
    bill = invoice_of(tmp_path, f"day,model,cost_usd\n{lines}\n", made)
    words = ["ledger", "reconcile", str(bill), "--settle", "--warehouse", str(path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert told in done.output
    with Warehouse.open(path) as warehouse:
        assert ledger.spending(warehouse, "one") == ledger.Spending(Decimal(1), Decimal("0.4"))


def test_what_began_before_midnight_is_settled_by_both_days_together(tmp_path: Path) -> None:
    """1.00 settled and at most 0.40 unsettled, of 23:30; the provider books 0.90 before midnight, 0.30 after: 0.20."""
    path = tmp_path / "w.duckdb"
    entries = [(0, Purpose.MAIN, "settled", Decimal(1)), (2, Purpose.MAIN, "unsettled", Decimal("0.4"))]
    a_run(path, "one", entries, at=NOW.replace(hour=23, minute=30))
    lines = "day,model,cost_usd\n2026-11-22,small,0.90\n2026-11-23,small,0.30\n"
    bill = invoice_of(tmp_path, lines)
    words = ["ledger", "reconcile", str(bill), "--settle", "--warehouse", str(path)]
    assert CliRunner().invoke(app, words).exit_code == 0
    with Warehouse.open(path) as warehouse:
        assert ledger.spending(warehouse, "one") == ledger.Spending(Decimal("1.2"), Decimal(0))


def test_an_invoice_settles_what_was_unsettled_and_windows_count_the_truth(tmp_path: Path) -> None:
    """1.00 is settled, two attempts may have cost 0.40 and 0.60; the provider bills 1.25 for that day."""
    path = tmp_path / "w.duckdb"
    a_run(
        path,
        "one",
        [(0, Purpose.MAIN, "settled", Decimal(1)), (2, Purpose.MAIN, "unsettled", Decimal("0.4")),
         (4, Purpose.MAIN, "unsettled", Decimal("0.6"))],
    )  # fmt: skip
    bill = invoice_of(tmp_path, "day,model,cost_usd\n2026-11-22,small,1.25\n")
    with Warehouse.open(path) as warehouse:
        assert spent_in_window(warehouse, "tickets", "day", NOW) == ledger.Spending(Decimal(1), Decimal(1))
    done = CliRunner().invoke(
        app, ["ledger", "reconcile", str(bill), "--settle", "--warehouse", str(path), "--json"]
    )
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)["settlement"]
    assert (data["entries"], Decimal(data["cost_usd"]), Decimal(data["at_most_usd"])) == (
        2,
        Decimal("0.25"),
        1,
    )
    with Warehouse.open(path) as warehouse:
        rows = warehouse.query(
            "select status, cost_usd, settled_by from ledger order by cost_usd"
        ).to_pylist()
        assert [tuple(row.values()) for row in rows] == [
            ("settled", Decimal("0.1"), "invoice house.csv"),
            ("settled", Decimal("0.15"), "invoice house.csv"),
            ("settled", Decimal(1), None),
        ]
        assert spent_in_window(warehouse, "tickets", "day", NOW) == ledger.Spending(
            Decimal("1.25"), Decimal(0)
        )
        run = runs.get(warehouse, "one")
        assert run is not None
        assert (run["spent_usd"], run["unsettled_usd"]) == (Decimal("1.25"), 0)


def test_an_invoice_that_does_not_agree_settles_nothing(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    a_run(
        path,
        "one",
        [(0, Purpose.MAIN, "settled", Decimal(1)), (2, Purpose.MAIN, "unsettled", Decimal("0.4"))],
    )
    for billed, why in (("0.80", "0.20 USD less than is settled"), ("1.90", "0.50 beyond what is unsettled")):
        bill = invoice_of(tmp_path, f"day,model,cost_usd\n2026-11-22,small,{billed}\n")
        done = CliRunner().invoke(
            app, ["ledger", "reconcile", str(bill), "--settle", "--warehouse", str(path)]
        )
        assert "not settled: small on 2026-11-22" in done.output
        assert why.split()[0] in done.output
        with Warehouse.open(path) as warehouse:
            assert ledger.spending(warehouse, "one") == ledger.Spending(Decimal(1), Decimal("0.4"))


def test_estimates_are_compared_with_what_was_sent(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    a_run(
        path,
        "one",
        [(0, Purpose.MAIN, "settled", Decimal("0.5")), (0, Purpose.REPAIR, "settled", Decimal("0.25"))],
    )
    plan = pa.table(
        {
            "run_id": ["one"] * 2,
            "request_id": ["r0", "r1"],
            "task": ["default"] * 2,
            "endpoint": ["small"] * 2,
            "input_tokens": [90, 90],
            "output_tokens": [20, 20],
            "predicted_usd": [0.6, 0.6],
        }
    )
    with Warehouse.open(path) as warehouse:
        dispatch.save_assignments(warehouse, plan)
        dispatch.save_assignments(warehouse, plan)
        row = one(warehouse, "from estimate_vs_actual")
    assert (row["requests"], row["requests_sent"]) == (2, 1)
    assert (row["input_tokens_estimated"], row["input_tokens_actual"]) == (90, 100)
    assert (row["predicted_usd"], row["cost_usd"]) == (Decimal("0.6"), Decimal("0.75"))


def test_an_estimate_is_compared_with_all_that_its_request_cost_whoever_was_asked(tmp_path: Path) -> None:
    """A plan's figure has a request's second answer in it, and what it is sent on to; a pilot's looks elsewhere are not."""
    path = tmp_path / "w.duckdb"
    paid = [(Purpose.MAIN, "0.5"), (Purpose.VOTE, "0.25"), (Purpose.REPAIR, "1"), (Purpose.PILOT, "8")]
    a_run(path, "one", [(0, purpose, "settled", Decimal(usd)) for purpose, usd in paid])
    plan = pa.table(
        {
            "run_id": ["one"],
            "request_id": ["r0"],
            "task": ["default"],
            "endpoint": ["small"],
            "input_tokens": [90],
            "output_tokens": [20],
            "predicted_usd": [1.6],
        }
    )
    with Warehouse.open(path) as warehouse:
        dispatch.save_assignments(warehouse, plan)
        warehouse.execute(
            "update ledger set endpoint = 'dear', input_tokens = 300 where purpose in ('vote', 'repair', 'pilot')"
        )
        row = one(warehouse, "from estimate_vs_actual")
        (told,) = warehouse.query(ESTIMATES, run_id="one").to_pylist()
    for figures in (row, told):
        assert (figures["endpoint"], figures["input_tokens_actual"]) == ("small", 100)
        assert (figures["predicted_usd"], figures["cost_usd"]) == (Decimal("1.6"), Decimal("1.75"))


# --- reuse -----------------------------------------------------------------------------------------------------------


def test_the_next_night_pays_only_for_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    a_run(path, "one", [(n, Purpose.MAIN, "settled", Decimal("0.5")) for n in range(COUNT)])
    prompts = ["new", *[f"p{n}" for n in range(COUNT)], "p3"]
    a_run(
        path,
        "two",
        [(0, Purpose.MAIN, "settled", Decimal("0.5"))],
        prompts=prompts,
        at=NOW + timedelta(days=1),
    )
    with Warehouse.open(path) as warehouse:
        hashes = warehouse.query("select request_hash from requests where run_id = 'two' and row = leader")[
            "request_hash"
        ]
        found = answered_before(warehouse, "tickets", hashes, timedelta(days=90), NOW + timedelta(days=1))
        found = found.filter(pa.compute.equal(found["run_id"], "one"))
        assert found.num_rows == COUNT
        assert sum(found["saved_usd"].to_pylist()) == Decimal("3.5")
        for _ in range(2):
            reuse(warehouse, "two", found)
        table = pa.table({"row": range(len(prompts) - 1), "endpoint": ["small"] * (len(prompts) - 1)})
        assert results.compose(warehouse, "two", table) == len(prompts)
        rows = warehouse.query(
            "select request_id, output, attempts, reused_from, error from results where run_id = 'two' order by 1"
        ).to_pylist()
        assert {r["error"] for r in rows} == {None}
        assert [r["reused_from"] for r in rows] == [None] + ["one"] * (COUNT + 1)
        assert [r["attempts"] for r in rows] == [1] + [0] * (COUNT + 1)
        assert rows[4]["output"] == rows[8]["output"] == "one says 3"
        assert ledger.spending(warehouse, "two").most_usd == Decimal("0.5")
        assert warehouse.count("responses", "two") == COUNT + 1
        # a third night takes them from the run that paid, though the second holds them too
        again = answered_before(warehouse, "tickets", hashes, None, NOW + timedelta(days=2))
        assert set(again["reused_from"].to_pylist()) == {"one", "two"}
        assert again["reused_from"].to_pylist().count("one") == COUNT


def test_where_references_are_a_sample_no_answer_is_reused_for_its_score(tmp_path: Path) -> None:
    path, later = tmp_path / "w.duckdb", NOW + timedelta(days=1)
    for run_id, at, score in (("good", NOW, 1.0), ("newest", later, 0.0)):
        a_run(path, run_id, [(0, Purpose.MAIN, "settled", Decimal(1))], at=at)
        with Warehouse.open(path) as w:
            runs.update(w, run_id, config={"quality": {"references": "sample"}})
            w.execute("update results set score = $s where run_id = $r", s=score, r=run_id)
    a_run(path, "other", [(0, Purpose.MAIN, "settled", Decimal(1))], at=later + timedelta(days=1))
    with Warehouse.open(path) as w:
        hashes = w.query("select request_hash from requests where run_id = 'good' and row = 0")[
            "request_hash"
        ]
        by_score = answered_before(w, "tickets", hashes, None, later)
        by_rule = answered_before(w, "tickets", hashes, None, later, by_sample=True)
    assert by_score["run_id"].to_pylist() == ["good"]
    assert by_rule["run_id"].to_pylist() == ["newest"], "the latest, of runs that chose none by its score"


def test_the_docs_query_of_what_is_new_since_a_watermark_leaves_reused_answers_out(tmp_path: Path) -> None:
    """Of seven answers of the second night six are of the first, whose last was published at NOW."""
    path, later = tmp_path / "w.duckdb", NOW + timedelta(days=1)
    a_run(path, "one", [(n, Purpose.MAIN, "settled", Decimal("0.5")) for n in range(COUNT)])
    a_run(path, "two", [(0, Purpose.MAIN, "settled", Decimal("0.5"))], at=later)
    with Warehouse.open(path) as warehouse:
        hashes = warehouse.query("select request_hash from requests where run_id = 'two' and row > 0")[
            "request_hash"
        ]
        reuse(warehouse, "two", answered_before(warehouse, "tickets", hashes, None, later, but_run="two"))
        table = pa.table({"row": range(COUNT), "endpoint": ["small"] * COUNT})
        results.compose(warehouse, "two", table)
        question = QUESTIONS["Which answers are new since a watermark?"]
        assert WATERMARK in question
        everything = warehouse.query(question)
        new = warehouse.query(question.replace(WATERMARK, f"timestamptz '{NOW.isoformat()}'")).to_pylist()
        counts = warehouse.query(QUESTIONS["How many of a night's answers are new, and how many are reused?"])
    assert everything["run_id"].to_pylist() == ["two"] * COUNT
    assert [(row["request_id"], row["reused_from"]) for row in new] == [("r0", None)]
    assert counts.to_pylist() == [
        {"run_id": "one", "new": COUNT, "reused": 0},
        {"run_id": "two", "new": 1, "reused": COUNT - 1},
    ]


def test_old_failed_invalid_and_other_jobs_answers_are_not_reused(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    a_run(path, "failed", [(0, Purpose.MAIN, "void", Decimal(0))])
    a_run(path, "invalid", [(1, Purpose.MAIN, "settled", Decimal(1))], valid=False)
    a_run(path, "other", [(2, Purpose.MAIN, "settled", Decimal(1))], job="other")
    a_run(path, "old", [(3, Purpose.MAIN, "settled", Decimal(1))], at=NOW - timedelta(days=91))
    a_run(path, "fresh", [(4, Purpose.MAIN, "settled", Decimal(1))], at=NOW - timedelta(days=89))
    with Warehouse.open(path) as warehouse:
        hashes = warehouse.query("select distinct request_hash from requests")["request_hash"]
        found = answered_before(warehouse, "tickets", hashes, timedelta(days=90), NOW)
    assert found["run_id"].to_pylist() == ["fresh"]


# --- windows ---------------------------------------------------------------------------------------------------------


def test_a_window_begins_at_midnight_or_on_the_first_where_the_clock_hangs(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    berlin = ZoneInfo("Europe/Berlin")
    moments = {
        "today": datetime(2026, 11, 22, 0, 30, tzinfo=berlin),
        "yesterday": datetime(2026, 11, 21, 23, 30, tzinfo=berlin),
        "last month": datetime(2026, 10, 31, 23, 30, tzinfo=berlin),
    }
    for n, (run_id, at) in enumerate(moments.items()):
        a_run(path, run_id, [(0, Purpose.MAIN, "settled", Decimal(10**n))], at=at.astimezone(UTC))
    a_run(path, "stranger", [(0, Purpose.MAIN, "settled", Decimal(5000))], at=NOW, job="other")
    now = datetime(2026, 11, 22, 2, 0, tzinfo=berlin)
    with Warehouse.open(path) as warehouse:
        assert spent_in_window(warehouse, "tickets", "day", now).settled_usd == 1
        assert spent_in_window(warehouse, "tickets", "month", now).settled_usd == 11
        assert spent_in_window(warehouse, "tickets", "month", now, but_run="today").settled_usd == 10
        assert (
            spent_in_window(
                warehouse, "tickets", "day", now.astimezone(timezone(timedelta(hours=-8)))
            ).settled_usd
            == 11
        )
        assert spent_in_window(warehouse, "nobody", "month", now).settled_usd == 0
        with pytest.raises(StoreError, match='"day" or "month", not "week"'):
            spent_in_window(warehouse, "tickets", "week", now)


def test_a_run_that_goes_on_after_midnight_has_the_new_days_cap(tmp_path: Path) -> None:
    path, now = tmp_path / "w.duckdb", datetime.now(UTC)
    endpoint = "{name: e, model: openai/e, api_base: 'http://127.0.0.1:1/v1', price: {input: 1, output: 1}}"
    job = tmp_path / "job.yaml"
    job.write_text(
        f"{{name: tickets, input: in.parquet, budget: {{cap_usd: 10, window: day}}, endpoints: [{endpoint}]}}"
    )
    a_run(path, "mine", [(0, Purpose.MAIN, "settled", Decimal(5))], at=now - timedelta(days=1))
    of_today = [(0, Purpose.MAIN, "settled", Decimal(3)), (1, Purpose.MAIN, "unsettled", Decimal("0.5"))]
    a_run(path, "other", of_today, at=now)
    a_run(path, "others yesterday", [(0, Purpose.MAIN, "settled", Decimal(4))], at=now - timedelta(days=1))
    messages: list[str] = []
    with Warehouse.open(path) as warehouse:
        context = within_window(
            warehouse, context_for(RunOptions(job=job, warehouse=path), "mine"), messages.append
        )
        assert context.cap_usd is not None
        assert context.cap_usd - ledger.spending(warehouse, "mine").most_usd == Decimal("6.5"), (
            "what its escrow can still give"
        )
    assert (
        "other runs of this day: $3.00 settled, up to $0.50 more unsettled; the cap is $10.00" in messages[0]
    )
    assert "and $6.50 are left" in messages[0]
