"""The warehouse: what is put in twice is in once, and every accepted request has one result."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.patience import PATIENCE_SECONDS
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
from thirdshift.warehouse.journal.run_folder import run_folder
from thirdshift.warehouse.store import dispatch, ledger, observations, requests, results, runs
from thirdshift.warehouse.store.ingest import ingest_parts, ingested_parts
from thirdshift.warehouse.store.store import Warehouse

NOW = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)
RUN = "night"


def intent(row: int, *, endpoint: str = "small", purpose: Purpose = Purpose.MAIN, attempt: int = 1) -> Intent:
    return Intent(
        entry_id=f"{row}-{endpoint}-{purpose}-{attempt}",
        run_id=RUN,
        shard_id=f"{purpose}-{endpoint}",
        row=row,
        request_id=f"r{row}",
        endpoint=endpoint,
        model=f"lab/{endpoint}",
        provider="lab",
        mode=Mode.REALTIME,
        purpose=purpose,
        attempt=attempt,
        reserved_usd=Decimal("0.01"),
        started_at=NOW,
    )


def answered(i: Intent, text: str, *, cost: str = "0.001", valid: bool | None = None, at: int = 1) -> Outcome:
    assert i.row is not None
    assert i.request_id is not None
    return Outcome(
        entry_id=i.entry_id,
        status=LedgerStatus.SETTLED,
        cost_usd=Decimal(cost),
        settled_at=NOW + timedelta(seconds=at),
        usage=Usage(10, 5),
        reply=Answer(i.row, i.request_id, text, "stop", valid=valid),
    )


def failed(i: Intent, kind: FailureKind, message: str) -> Outcome:
    assert i.row is not None
    assert i.request_id is not None
    reply = Failure(i.row, i.request_id, kind, message)
    return Outcome(i.entry_id, LedgerStatus.VOID, Decimal(0), NOW + timedelta(seconds=1), reply=reply)


def a_part(folder: Path, attempts: Sequence[tuple[Intent, Outcome | None]]) -> Path:
    with FileJournal(folder) as journal:
        journal.sent(i for i, _ in attempts)
        journal.settled(o for _, o in attempts if o is not None)
        part = journal.seal(attempts[0][0].shard_id or "overhead")
    assert part is not None
    return part


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A warehouse with a run of six requests, of which r3 repeats r1 and r5 repeats r2."""
    warehouse = tmp_path / "w.duckdb"
    folder = run_folder(warehouse, RUN)
    prompts = ["a", "b", "c", "b", "e", "c"]
    source = pa.table(
        {"request_id": [f"r{i}" for i in range(6)], "prompt": prompts, "reference": list("ABCDEF")}
    )
    pq.write_table(source, tmp_path / "in.parquet")
    freeze(InputSpec("in.parquet", tmp_path), folder)
    with Warehouse.open(warehouse) as store:
        runs.start(
            store,
            {"run_id": RUN, "job": "j", "status": "running", "started_at": NOW, "config": {"floor": 0.9}},
        )
        assert requests.save(store, RUN, folder) == 6
        assert requests.save_rejects(store, RUN, folder) == 0
    return warehouse


def ingest(path: Path, *attempts: tuple[Intent, Outcome | None]) -> int:
    part = a_part(run_folder(path, RUN), attempts)
    with Warehouse.open(path) as warehouse:
        return ingest_parts(warehouse, part)


def test_a_part_ingested_twice_changes_nothing(path: Path) -> None:
    part = a_part(run_folder(path, RUN), [(i := intent(0), answered(i, "x")), (intent(1), None)])
    with Warehouse.open(path) as warehouse:
        assert ingest_parts(warehouse, part) == 2
        assert ingest_parts(warehouse, part) == 0
    with Warehouse.open(path) as warehouse:
        assert ingest_parts(warehouse, part) == 0
        assert ingested_parts(warehouse, RUN) == {part.name}
        assert ledger.spending(warehouse, RUN).most_usd == Decimal("0.011")
        assert warehouse.query("select count(*) as n from responses")["n"].to_pylist() == [1]


def test_entries_sealed_twice_under_two_names_are_in_the_ledger_once(path: Path) -> None:
    part = a_part(run_folder(path, RUN), [(i := intent(0), answered(i, "x"))])
    realtime_counterpart = part.with_name("other.parquet")
    realtime_counterpart.write_bytes(part.read_bytes())
    with Warehouse.open(path) as warehouse:
        assert (ingest_parts(warehouse, part), ingest_parts(warehouse, realtime_counterpart)) == (1, 0)
        assert warehouse.query("from responses").num_rows == 1


def test_an_attempt_without_outcome_counts_with_the_most_it_can_have_cost(path: Path) -> None:
    ingest(path, (intent(0), None))
    with Warehouse.open(path) as warehouse:
        (entry,) = warehouse.query("select status, cost_usd, settled_at from ledger").to_pylist()
        assert entry == {"status": "unsettled", "cost_usd": Decimal("0.010000000"), "settled_at": None}
        assert warehouse.query("select cost_usd_at_most from unsettled").num_rows == 1


def test_every_accepted_request_has_one_result_and_duplicates_cost_no_attempt(path: Path) -> None:
    ingest(path, *[(i := intent(row), answered(i, f"answer {row}")) for row in (0, 1, 2, 4)])
    served = pa.table({"row": [0, 1, 2, 4], "endpoint": ["small"] * 4})
    with Warehouse.open(path) as warehouse:
        assert results.compose(warehouse, RUN, served) == 6
        assert results.compose(warehouse, RUN, served) == 6
        rows = warehouse.query(
            "select request_id, output, attempts, error from results order by request_id"
        ).to_pylist()
    assert [r["output"] for r in rows] == [f"answer {n}" for n in (0, 1, 2, 1, 4, 2)]
    assert [r["attempts"] for r in rows] == [1, 1, 1, 0, 1, 0]
    assert {r["error"] for r in rows} == {None}


def test_a_request_whose_every_attempt_failed_says_why_and_has_no_output(path: Path) -> None:
    first, second = intent(0), intent(0, endpoint="large")
    ingest(path, (first, failed(first, FailureKind.REFUSED, "small declined")))
    ingest(path, (second, failed(second, FailureKind.TIMEOUT, "large did not answer in 60 s")))
    served = pa.table(
        {"row": [0, 1], "endpoint": pa.array(["large", None]), "error": [None, "budget: no room"]}
    )
    with Warehouse.open(path) as warehouse:
        results.compose(warehouse, RUN, served)
        rows = warehouse.query(
            "select request_id, output, error, attempts from results order by 1"
        ).to_pylist()
    assert rows[0] == {
        "request_id": "r0",
        "output": None,
        "error": "timeout: large did not answer in 60 s",
        "attempts": 2,
    }
    assert [r["error"] for r in rows[1:]] == ["budget: no room"] * 2


def test_of_several_answers_at_one_endpoint_a_valid_one_is_served(path: Path) -> None:
    old, new = intent(0), intent(0, attempt=2)
    ingest(path, (old, answered(old, "{}", valid=True)), (new, answered(new, "oops", valid=False, at=9)))
    with Warehouse.open(path) as warehouse:
        results.compose(warehouse, RUN, pa.table({"row": [0], "endpoint": ["small"]}))
        assert warehouse.query("select output, attempts from results").to_pylist() == [
            {"output": "{}", "attempts": 2}
        ]


def test_a_judges_reply_is_never_served_nor_scored(path: Path) -> None:
    answer, verdict = intent(0), intent(0, purpose=Purpose.JUDGE)
    ingest(path, (answer, answered(answer, "yes")))
    ingest(path, (verdict, answered(verdict, "0.7", at=5)))
    with Warehouse.open(path) as warehouse:
        assert [
            row["output"] for batch in observations.unscored(warehouse, RUN) for row in batch.to_pylist()
        ] == ["yes"]
        results.compose(warehouse, RUN, pa.table({"row": [0], "endpoint": ["small"]}))
        assert warehouse.query("select output, attempts from results").to_pylist() == [
            {"output": "yes", "attempts": 1}
        ]


def test_each_duplicate_is_scored_against_its_own_reference_and_once(path: Path) -> None:
    ingest(path, (i := intent(1), answered(i, "B")))
    with Warehouse.open(path) as warehouse:
        todo = pa.Table.from_batches(observations.unscored(warehouse, RUN))
        assert todo.select(["request_id", "output", "reference"]).to_pylist() == [
            {"request_id": "r1", "output": "B", "reference": "B"},
            {"request_id": "r3", "output": "B", "reference": "D"},
        ]
        scores = todo.select(["request_id", "task", "endpoint", "model", "purpose"])
        scores = scores.append_column("score", pa.array([1.0, 0.0])).append_column(
            "run_id", pa.array([RUN] * 2)
        )
        observations.append(
            warehouse, scores.append_column("observed_at", pa.array([NOW + timedelta(minutes=1)] * 2))
        )
        assert list(observations.unscored(warehouse, RUN)) == []
        results.compose(warehouse, RUN, pa.table({"row": [1], "endpoint": ["small"]}))
        assert warehouse.query("select score from results order by request_id")["score"].to_pylist() == [
            1.0,
            0.0,
        ]


def test_a_finished_run_knows_what_it_spent_and_its_answers_are_published(path: Path) -> None:
    ingest(path, (i := intent(0), answered(i, "x", cost="0.25")))
    with Warehouse.open(path) as warehouse:
        results.compose(warehouse, RUN, pa.table({"row": [0], "endpoint": ["small"]}))
        assert warehouse.query("from answers").num_rows == 0
        runs.finish(warehouse, RUN, status="done", outcomes=["done"])
        run = runs.get(warehouse, RUN)
        assert run is not None
        assert (run["spent_usd"], run["status"], run["outcomes"]) == (Decimal("0.25"), "done", ["done"])
        assert run["config"] == {"floor": 0.9}
        assert warehouse.query("select run_id, output from answers").to_pylist() == [
            {"run_id": RUN, "output": "x"}
        ]
        assert runs.get(warehouse, "another") is None


def test_an_unknown_column_is_named_with_its_nearest(path: Path) -> None:
    with (
        Warehouse.open(path) as warehouse,
        pytest.raises(StoreError, match=r'"shard".*did you mean "shard_id"'),
    ):
        dispatch.save_shards(warehouse, pa.table({"run_id": [RUN], "shard": ["s"]}))


def test_a_warehouse_in_use_is_waited_for_and_the_holder_named(path: Path) -> None:
    code = (
        f"import duckdb, sys; c = duckdb.connect({str(path)!r}); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdout.readline()
    messages: list[str] = []
    with pytest.raises(StoreError, match=f"process {holder.pid} .*end that process"):
        Warehouse.open(path, wait_seconds=0.2, say=messages.append).__enter__()

    def say_and_let_go(text: str) -> None:
        messages.append(text)
        holder.communicate()

    with Warehouse.open(path, wait_seconds=PATIENCE_SECONDS, say=say_and_let_go) as warehouse:
        assert runs.get(warehouse, RUN) is not None
    assert holder.returncode == 0
    first, second = [text for text in messages if "waiting up to" in text]
    assert f"in use by process {holder.pid}" in first
    assert f"in use by process {holder.pid}" in second


def test_a_thread_that_has_the_warehouse_open_is_given_the_same_one_again(path: Path) -> None:
    with Warehouse.open(path) as warehouse, warehouse.transaction():
        runs.update(warehouse, RUN, status="failed")
        with Warehouse.open(path.parent / "." / path.name) as again:
            assert again is warehouse
        assert (runs.get(warehouse, RUN) or {})["status"] == "failed"  # it is still open, the transaction too
    with Warehouse.open(path) as afresh:
        assert afresh is not warehouse
        assert (runs.get(afresh, RUN) or {})["status"] == "failed"


def test_a_warehouse_is_its_owners_alone(path: Path) -> None:
    with Warehouse.open(path) as warehouse:
        dispatch.save_shards(warehouse, pa.table({"run_id": [RUN], "shard_id": ["s"]}))
        for name in (path, path.with_name("w.duckdb.wal")):
            assert stat.S_IMODE(name.stat().st_mode) == 0o600


def test_files_that_are_no_warehouse_are_refused_with_a_remedy(tmp_path: Path) -> None:
    text = tmp_path / "notes.duckdb"
    text.write_text("these are no tables" * 300)
    with pytest.raises(StoreError, match="cannot be opened as a warehouse"), Warehouse.open(text):
        pass
    with pytest.raises(StoreError, match="is no folder"), Warehouse.open(text / "w.duckdb"):
        pass
    rows = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"request_id": ["a"]}), rows)
    with pytest.raises(StoreError, match="it is no DuckDB file; name another"), Warehouse.open(rows):
        pass
    assert text.read_text().startswith("these are no tables")


def test_a_damaged_part_is_named_and_left(path: Path) -> None:
    part = a_part(run_folder(path, RUN), [(i := intent(0), answered(i, "x"))])
    part.write_bytes(part.read_bytes()[:200])
    with Warehouse.open(path) as warehouse, pytest.raises(StoreError, match=part.name):
        ingest_parts(warehouse, part)
    assert part.exists()


def test_no_result_is_found_by_comparing_every_row_with_every_reply(tmp_path: Path) -> None:
    served = pa.table({"row": range(100), "endpoint": ["small"] * 100, "error": pa.nulls(100, pa.string())})
    with Warehouse.open(tmp_path / "w.duckdb") as warehouse:
        plan = warehouse.query(f"explain {results.COMPOSE}", {"served": served}, run_id=RUN)
    steps = "\n".join(plan["explain_value"].to_pylist())
    assert "HASH_JOIN" in steps
    assert "NL_JOIN" not in steps
    assert "NESTED_LOOP" not in steps


def test_an_assignment_names_the_shard_in_which_its_endpoint_was_asked_or_else_it_went_out(
    tmp_path: Path,
) -> None:
    with Warehouse.open(tmp_path / "w.duckdb") as warehouse:
        warehouse.execute(
            """insert into requests by name from (values ('night', 'r0', 0, 0), ('night', 'r1', 1, 0),
               ('night', 'r2', 2, 2), ('night', 'r3', 3, 3), ('night', 'r4', 4, 4)) t(run_id, request_id, row, leader)"""
        )
        warehouse.execute(
            """insert into assignments by name select 'night' as run_id, 'r' || i as request_id, 'small' as endpoint
               from range(5) t(i)"""
        )
        warehouse.execute(
            """insert into ledger by name from (values
               ('night', 'r0', 'small', '1-pilot-small', 'pilot'), ('night', 'r0', 'small', '3-main-small', 'main'),
               ('night', 'r2', 'small', '1-pilot-small', 'pilot'), ('night', 'r3', 'large', '4-repair-large', 'repair'),
               ('night', 'r4', 'large', '2-pilot-large', 'pilot'), ('night', 'r4', 'large', '5-main-large', 'main'))
               t(run_id, request_id, endpoint, shard_id, purpose)"""
        )
        dispatch.name_shards(warehouse, "night")
        named = warehouse.query("select shard_id from assignments order by request_id")[
            "shard_id"
        ].to_pylist()
    assert named == ["3-main-small", "3-main-small", "1-pilot-small", None, "5-main-large"]
