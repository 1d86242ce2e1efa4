"""What leaves the warehouse: published Parquet with the manifest last, and answers to read-only questions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.paths import ROOT
from thirdshift.router.values import Answer, Intent, LedgerStatus, Mode, Outcome, Purpose, Usage
from thirdshift.warehouse.errors import AskError, PublishError, StoreError
from thirdshift.warehouse.exchange import publish as publish_module
from thirdshift.warehouse.exchange.publish import publish
from thirdshift.warehouse.intake.intake import InputSpec, RequestSpec, freeze
from thirdshift.warehouse.journal.journal import FileJournal
from thirdshift.warehouse.journal.run_folder import MARKER, run_folder
from thirdshift.warehouse.store import requests, results, runs
from thirdshift.warehouse.store.ask import ask
from thirdshift.warehouse.store.ingest import ingest_parts
from thirdshift.warehouse.store.store import Warehouse

NOW = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)
SCHEMA = {
    "type": "object",
    "properties": {
        "category": {"enum": ["a", "b"]},
        "amount": {"type": ["number", "null"]},
        "count": {"type": "integer"},
        "urgent": {"type": "boolean"},
        "tags": {"type": "array"},
        "score": {"type": "string"},
        "odd/name'\"": {"type": "string"},
        "Score": {"type": "integer"},
        "answer_score": {"type": "boolean"},
        "": {"type": "string"},
    },
}
OUTPUTS: list[tuple[str, bool | None]] = [
    (
        json.dumps(
            {
                "category": "a",
                "amount": 1.5,
                "count": 3,
                "urgent": True,
                "tags": ["x"],
                "score": "high",
                "odd/name'\"": "q",
                "Score": 5,
                "answer_score": False,
                "": "nameless",
            }
        ),
        True,
    ),
    (json.dumps({"category": "b", "amount": None, "count": "many"}), True),
    ('{"category": "not valid"}', False),
    ("no JSON at all", None),
]


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    path = tmp_path / "w.duckdb"
    count = len(OUTPUTS)
    pq.write_table(
        pa.table({"request_id": [f"r{n}" for n in range(count)], "prompt": [f"p{n}" for n in range(count)]}),
        tmp_path / "in.parquet",
    )
    spec = RequestSpec(response_schema=json.dumps(SCHEMA))
    for run_id in ("one", "two"):
        folder = run_folder(path, run_id)
        folder.mkdir(parents=True)
        (folder / MARKER).touch(0o600)
        freeze(InputSpec("in.parquet", tmp_path, spec), folder)
        with FileJournal(folder) as journal:
            for n, (output, valid) in enumerate(OUTPUTS):
                journal.sent([intent(run_id, n)])
                reply = Answer(n, f"r{n}", f"{output}", "stop", valid=valid)
                journal.settled(
                    [Outcome(f"{run_id}{n}", LedgerStatus.SETTLED, Decimal(1), NOW, Usage(1, 1), reply=reply)]
                )
            part = journal.seal("s")
        assert part is not None
        with Warehouse.open(path) as warehouse:
            runs.start(
                warehouse, {"run_id": run_id, "job": "tickets/eu", "started_at": NOW, "status": "running"}
            )
            requests.save(warehouse, run_id, folder)
            ingest_parts(warehouse, part)
            results.compose(warehouse, run_id, pa.table({"row": range(count), "endpoint": ["small"] * count}))
    return path


def intent(run_id: str, n: int) -> Intent:
    return Intent(
        f"{run_id}{n}", run_id, "s", n, f"r{n}", "small", "lab/small", "lab", Mode.REALTIME, Purpose.MAIN, 1,
        Decimal(1), NOW,
    )  # fmt: skip


def test_results_are_published_with_the_schemas_properties_as_typed_columns(
    warehouse: Path, tmp_path: Path
) -> None:
    published = publish(warehouse, "one", "out", tmp_path)
    folder = tmp_path / "out/job=tickets%2Feu/run_id=one"
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "part-00000.parquet"]
    assert (published.path, published.rows) == (str(folder), 4)
    table = pq.read_table(folder / "part-00000.parquet", partitioning=None)
    assert {name: str(table.schema.field(name).type) for name in table.column_names[5:16]} == {
        "valid": "bool",
        "category": "string",
        "amount": "double",
        "count": "int64",
        "urgent": "bool",
        "tags": "string",
        "answer_score": "string",
        "odd/name'\"": "string",
        "answer_answer_Score": "int64",
        "answer_answer_answer_score": "bool",
        "answer_": "string",
    }
    first, second, third, fourth = table.to_pylist()
    assert [first[c] for c in ("category", "amount", "count", "urgent", "tags", "answer_score", "odd/name'\"")] == [
        "a", 1.5, 3, True, '["x"]', "high", "q",
    ]  # fmt: skip
    collided = ("answer_answer_Score", "answer_answer_answer_score", "answer_")
    assert [first[c] for c in collided] == [5, False, "nameless"]
    assert (second["category"], second["amount"], second["count"]) == ("b", None, None)
    assert (third["category"], third["output"], third["valid"]) == (None, '{"category": "not valid"}', False)
    assert fourth["category"] is None
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["rows"], manifest["run_id"], manifest["columns"]["count"]) == (4, "one", "int64")
    assert manifest["files"][0]["bytes"] == (folder / "part-00000.parquet").stat().st_size
    assert not (run_folder(warehouse, "one") / "publish").exists()


@pytest.mark.parametrize(
    ("columns", "spec", "expected"),
    [
        ({"ticket_id": [7, 8]}, ("ticket_id",), {"request_id": "string", "ticket_id": "int64"}),
        ({"request_id": [7, 8]}, None, {"request_id": "int64"}),
        (
            {"shop": ["a", "b/c"], "day": [date(2026, 1, 2), date(2026, 1, 3)]},
            ("shop", "day"),
            {"request_id": "string", "shop": "string", "day": "date32[day]"},
        ),
        ({"task": [7, 8]}, ("task",), {"request_id": "string"}),
    ],
)
def test_a_published_row_carries_its_id_cost_and_certificate(
    tmp_path: Path, columns: dict[str, list[Any]], spec: tuple[str, ...] | None, expected: dict[str, str]
) -> None:
    """Joined to the table that was asked, and to the ledger, without a cast."""
    path = tmp_path / "w.duckdb"
    pq.write_table(pa.table(columns | {"prompt": ["p", "q"]}), tmp_path / "in.parquet")
    folder = run_folder(path, "one")
    folder.mkdir(parents=True)
    (folder / MARKER).touch(0o600)
    freeze(InputSpec("in.parquet", tmp_path, RequestSpec(id=spec)), folder)
    with Warehouse.open(path) as warehouse:
        runs.start(warehouse, {"run_id": "one", "job": "j", "started_at": NOW, "status": "done"})
        requests.save(warehouse, "one", folder)
        ids = warehouse.query("select request_id from requests order by row")["request_id"].to_pylist()
        answered = [{"run_id": "one", "request_id": one, "output": "x", "score": 1.0} for one in ids]
        warehouse.append("results", pa.Table.from_pylist(answered))
        paid = [("settled", 2), ("settled", 1), ("unsettled", 5), ("void", 0)]
        entries = [
            {"run_id": "one", "request_id": ids[0], "status": status, "cost_usd": Decimal(usd)}
            for status, usd in paid
        ]
        warehouse.append("ledger", pa.Table.from_pylist(entries))
        claims = [
            {"run_id": "one", "task": task, "floor": 0.9, "certified": True, "issued_at": NOW + later}
            for task, later in ((None, timedelta(0)), (None, timedelta(1)), ("default", timedelta(2)))
        ]
        warehouse.append("certificates", pa.Table.from_pylist(claims))
    published = publish(path, "one", "out", tmp_path)
    table = pq.read_table(published.files[0], partitioning=None)
    first = "endpoint" if "task" in columns else "task"
    leading = [name for name in table.column_names[: table.column_names.index(first)] if name != "task"]
    assert {name: str(table.schema.field(name).type) for name in leading} == expected
    for name in expected.keys() & columns.keys():
        assert table[name].to_pylist() == columns[name]
    assert table["cost_usd"].to_pylist() == [3, 0]
    assert table["unsettled_usd"].to_pylist() == [5, 0]
    manifest = json.loads((Path(published.path) / "manifest.json").read_text())
    by_id = {claim["certificate_id"]: claim for claim in manifest["certificates"]}
    (named,) = set(table["certificate_id"].to_pylist())
    assert len(by_id) == 3
    assert by_id[named] == manifest["certificates"][0], "the latest of the whole batch"
    assert by_id[named]["task"] is None


def test_others_may_read_what_is_published(warehouse: Path, tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        publish(warehouse, "one", "out", tmp_path)
    finally:
        os.umask(mask)
    parts = list((tmp_path / "out").rglob("*.parquet"))
    assert {p.stat().st_mode & 0o777 for p in parts} == {0o644}


def test_publishing_again_replaces_and_leaves_nothing_stale(
    warehouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(publish_module, "PART_ROWS", 1)
        patch.setattr(publish_module, "BATCH_ROWS", 1)
        assert len(publish(warehouse, "one", "out", tmp_path).files) == 4
    assert len(publish(warehouse, "one", "out", tmp_path).files) == 1
    assert len(list((tmp_path / "out").rglob("part-*.parquet"))) == 1


class _Death(BaseException):
    pass


def test_the_manifest_is_there_only_when_everything_is(
    warehouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk gives up at each step of publishing anew over a complete lot."""
    publish(warehouse, "one", "out", tmp_path)
    manifest = tmp_path / "out/job=tickets%2Feu/run_id=one/manifest.json"
    real = os.replace

    def dying(source: Any, target: Any) -> None:
        if str(target).endswith("part-00000.parquet") and "publish" not in str(target):
            raise _Death
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(_Death):
            publish(warehouse, "one", "out", tmp_path)
    assert not manifest.exists()
    publish(warehouse, "one", "out", tmp_path)
    assert manifest.exists()


def test_an_object_store_gets_the_same(warehouse: Path, tmp_path: Path) -> None:
    published = publish(warehouse, "two", "memory://answers/deep", tmp_path)
    store = fsspec.filesystem("memory")
    names = sorted(name.rpartition("/")[2] for name in store.ls(published.path, detail=False))
    assert names == ["manifest.json", "part-00000.parquet"]
    with store.open(published.files[0]) as file:
        assert pq.read_table(file).num_rows == 4


def test_a_place_that_cannot_be_written_is_named(warehouse: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PublishError, match=r"output .*file/job=.*the results are in .*w\.duckdb"):
        publish(warehouse, "one", "file", tmp_path)
    with pytest.raises(PublishError, match="there is no run three"):
        publish(warehouse, "three", "out", tmp_path)
    with pytest.raises(PublishError, match="output nosuch://x"):
        publish(warehouse, "one", "nosuch://x", tmp_path)


def test_the_latest_published_answer_per_job_and_request_wins(warehouse: Path) -> None:
    with Warehouse.open(warehouse) as store:
        runs.finish(store, "two", published_at=datetime(2026, 11, 23, tzinfo=UTC))
        runs.finish(store, "one", published_at=datetime(2026, 11, 22, tzinfo=UTC))
    (row,) = ask(
        warehouse, "select count(*) n, min(run_id) run, min(loaded_at) as loaded from answers"
    ).to_pylist()
    assert (row["n"], row["run"]) == (4, "two")
    with Warehouse.open(warehouse) as store:
        runs.finish(store, "two", published=False)
    assert ask(warehouse, "select distinct run_id from answers")["run_id"].to_pylist() == ["one"]


# --- questions -------------------------------------------------------------------------------------------------------


def test_a_question_is_answered(warehouse: Path) -> None:
    sql = "select endpoint, sum(cost_usd) as usd from spend_by_endpoint group by all;"
    assert ask(warehouse, sql).to_pylist() == [{"endpoint": "small", "usd": Decimal("8.000000000")}]


def test_no_progress_bar_is_drawn_into_what_is_printed(warehouse: Path) -> None:
    bar = "select current_setting('enable_progress_bar') as bar"
    assert ask(warehouse, bar)["bar"].to_pylist() == [False]
    with Warehouse.open(warehouse) as store:
        assert [row["bar"] for batch in store.stream(bar) for row in batch.to_pylist()] == [False]


@pytest.mark.parametrize(
    "sql",
    [
        "insert into runs (run_id) values ('x')",
        "delete from ledger",
        "drop view answers",
        "create temp table t as select 1",
        "attach 'other.duckdb'",
        "copy ledger to 'ledger.csv'",
        "export database 'elsewhere'",
        "install httpfs",
        "load httpfs",
        "set threads = 1",
        "checkpoint",
        "select 1; delete from ledger",
        "select * from read_csv('/etc/passwd')",
        "select * from read_text('/etc/hostname')",
        "from '/etc/passwd'",
        "select * from glob('/*')",
        "select * from read_parquet('https://example.com/x.parquet')",
        "select getenv('HOME')",
    ],
)
def test_sql_changes_nothing_and_reaches_nothing_else(warehouse: Path, sql: str) -> None:
    before = warehouse.read_bytes()
    with pytest.raises(AskError):
        ask(warehouse, sql)
    assert warehouse.read_bytes() == before
    assert sorted(p.name for p in warehouse.parent.iterdir()) == ["in.parquet", "w.duckdb", "w.duckdb.d"]


def test_mistakes_in_sql_come_back_as_sentences(warehouse: Path) -> None:
    def says(sql: str) -> str:
        with pytest.raises(AskError) as caught:
            ask(warehouse, sql)
        return str(caught.value)

    assert says("selec 1") == 'syntax error at or near "selec"'
    assert 'Table with name ledgr does not exist; Did you mean "ledger"' in says("from ledgr")
    assert "\n" not in says("select nope from ledger")
    assert says("") == "one question at a time: that was 0 statements"


def test_a_question_to_a_file_that_is_not_there_makes_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no warehouse; run a job first"):
        ask(tmp_path / "w.duckdb", "select 1")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "warehouse.rehearsal.duckdb").touch()
    with pytest.raises(StoreError, match=r"--warehouse \(here is warehouse.rehearsal.duckdb\)"):
        ask(tmp_path / "w.duckdb", "select 1")


def test_what_a_killed_writer_had_committed_can_be_read(warehouse: Path) -> None:
    code = f"""
import os
from pathlib import Path
from thirdshift.warehouse.store import runs
from thirdshift.warehouse.store.store import Warehouse
with Warehouse.open(Path({str(warehouse)!r})) as w:
    runs.start(w, {{"run_id": "three"}})
    os.kill(os.getpid(), 9)
"""
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == -9
    assert ask(warehouse, "select count(*) as n from runs")["n"].to_pylist() == [3]
