"""The `sql` prompt: questions over several lines, answered one by one; nothing is changed, kept from others, or held."""

from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path

import duckdb
import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from thirdshift.flows.cli.sql import Layout, show_sql
from thirdshift.flows.cli.sql_prompt import Session, _names, finished, from_stream, prompted, statements
from thirdshift.flows.errors import UserError
from thirdshift.flows.models.registry import home
from thirdshift.warehouse.store import runs
from thirdshift.warehouse.store.store import Warehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    place = tmp_path / "warehouse.duckdb"
    with Warehouse.open(place) as opened:
        runs.start(opened, {"run_id": "monday\x1b[31m", "job": "sums", "status": "done"})
    return place


def test_a_statement_ends_at_a_semicolon_outside_quotes_and_comments() -> None:
    assert statements("select 1; select ';' ; ") == (["select 1", "select ';'"], " ")
    assert statements("select 'it''s; so' -- not; here\n, 2;") == (
        ["select 'it''s; so' -- not; here\n, 2"],
        "",
    )
    assert statements('select "a;b" /* ; */ from t') == ([], 'select "a;b" /* ; */ from t')
    assert finished("")
    assert finished(".tables")
    assert finished("select 1;  ")
    assert not finished("select 1")
    assert not finished("select ';")
    assert not finished("select 1; select")


def typed(warehouse: Path, text: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text(text)
        assert prompted(Session(warehouse), _names(warehouse)) == 0
    told = capsys.readouterr()
    return told.out, told.err


def test_questions_are_asked_over_several_lines_and_mistakes_are_told(
    warehouse: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = typed(
        warehouse,
        "select run_id,\rjob\rfrom runs;\rselect nonsense;\rdelete from runs;\r.tables\r.exit\r",
        capsys,
    )
    assert "monday\\e[31m" in out
    assert "\x1b" not in out
    assert "ledger: entry_id" in out
    assert "nonsense" in err
    assert "only questions" in err
    kept = home() / "sql_history"
    assert "delete from runs;" in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_between_questions_the_file_is_free(warehouse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = _names(warehouse)
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("select 1;\r.exit\r")
        prompted(Session(warehouse, Layout.JSON), names)
        with duckdb.connect(str(warehouse)) as con:
            con.execute("checkpoint")
    assert '"rows": [{"1": 1}]' in capsys.readouterr().out


def test_what_is_piped_in_is_answered_in_turn(warehouse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert from_stream(io.StringIO("select 1 as a;\nselect 2 as b"), Session(warehouse, Layout.JSON)) == 0
    assert capsys.readouterr().out.splitlines() == [
        '{"columns": ["a"], "rows": [{"a": 1}]}',
        '{"columns": ["b"], "rows": [{"b": 2}]}',
    ]
    with pytest.raises(UserError, match="nonsense"):
        from_stream(io.StringIO("select nonsense; select 1"), Session(warehouse, Layout.JSON))
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="nothing was asked"):
        from_stream(io.StringIO(" ;\n"), Session(warehouse, Layout.JSON))


def test_every_table_and_view_fits_a_terminal_of_eighty_columns(
    demo_night: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo's own night: a job as JSON, prompts, answers, and columns by the dozen."""
    monkeypatch.setenv("COLUMNS", "80")
    place = demo_night / "warehouse.duckdb"
    for table in _names(place):
        show_sql(f"select * from {table}", place)
        drawn = capsys.readouterr().out.splitlines()
        assert max(len(line) for line in drawn) <= 80, table
        assert len(drawn) <= 40 + 12, table
    show_sql("select * from runs", place)
    assert len(capsys.readouterr().out.splitlines()) < 10


def test_a_row_is_read_whole_by_lines(demo_night: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = demo_night / "warehouse.duckdb"
    show_sql("select run_id, config, null as nothing from runs", place, layout=Layout.LINE)
    run_id, config, nothing = (line.partition(" = ") for line in capsys.readouterr().out.splitlines())
    assert (run_id[0], nothing[0].strip(), nothing[2]) == (" run_id", "nothing", "NULL")
    assert json.loads(config[2])["name"] == "demo"
    show_sql("select 1 as a, 'x' as bcd union all select 2, 'y'", place, layout=Layout.LINE)
    assert capsys.readouterr().out == "  a = 1\nbcd = x\n\n  a = 2\nbcd = y\n"


@pytest.mark.parametrize("layout", list(Layout))
def test_columns_of_one_name_are_told_apart(
    warehouse: Path, capsys: pytest.CaptureFixture[str], layout: Layout
) -> None:
    show_sql("select a.run_id, b.* from runs a join runs b using (run_id)", warehouse, layout=layout)
    assert capsys.readouterr().out.count("monday") >= 2
    show_sql("select 1 as a, 2 as A, 3 as a_1, 4 as a", warehouse, layout=layout)
    told = capsys.readouterr().out
    if layout is Layout.JSON:
        assert json.loads(told) == {
            "columns": ["a", "A_1", "a_1_1", "a_2"],
            "rows": [{"a": 1, "A_1": 2, "a_1_1": 3, "a_2": 4}],
        }
    assert "a_1_1" in told


def test_an_interval_is_written_in_json_as_iso_8601_has_it(
    warehouse: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    took = "timestamp '2026-11-30 01:01:05.250001' - timestamp '2026-11-30 01:00:00'"
    show_sql(f"select {took} as a, interval '1 month 2 days' as b", warehouse, layout=Layout.JSON)
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows == [{"a": "P0M0DT65.250001S", "b": "P1M2DT0S"}]


def test_sums_of_whole_numbers_and_maps_are_themselves_in_json(
    warehouse: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = "select sum(9007199254740993::bigint) as n, map {'k': 1} as m, map {7: [map {date '2026-11-22': 2}]} as deep"
    show_sql(query, warehouse, layout=Layout.JSON)
    told = capsys.readouterr().out
    assert '"n": 9007199254740993,' in told
    assert json.loads(told)["rows"][0] | {"n": 0} == {
        "n": 0,
        "m": {"k": 1},
        "deep": {"7": [{"2026-11-22": 2}]},
    }


def test_what_is_no_number_is_null_in_json(warehouse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = "select 1 / 0 as endless, ['nan'::double, 1.5] as several, {'x': '-inf'::double} as within"
    show_sql(query, warehouse, layout=Layout.JSON)
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert told["rows"] == [{"endless": None, "several": [None, 1.5], "within": {"x": None}}]


def test_commands_with_a_dot_say_what_there_is_instead(
    warehouse: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = typed(
        warehouse,
        ".schema runs\r.mode line\rselect 41 + 1 as answer;\r.mode chart\r.nonsense\rquit;\rselect 43;\r",
        capsys,
    )
    assert out == "answer = 42\n"
    assert err.splitlines() == [
        "there is no .schema here; ask: describe runs;",
        ".mode chart: the modes are box, line, json",
        "there is no .nonsense; .help says what there is",
    ]


def test_commands_are_read_from_a_file_too(warehouse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = ".mode json\nselect 1 as a;\n.mode line\ndescribe select 2 as b;\nexit\nselect nonsense;"
    assert from_stream(io.StringIO(text), Session(warehouse)) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert json.loads(first)["rows"] == [{"a": 1}]
    assert "column_name = b" in rest
    with pytest.raises(UserError, match=r"there is no \.read here; .* thirdshift sql < FILE"):
        from_stream(io.StringIO(".read x.sql"), Session(warehouse))


def test_a_home_that_cannot_be_written_keeps_no_history(
    warehouse: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("THIRDSHIFT_HOME", os.devnull)
    out, _ = typed(warehouse, "select 41 + 1 as answer;\r\x04", capsys)
    assert "42" in out
