"""Intake: rows in = accepted + rejects, each reason readable; what is wrong as a whole names file, column
and remedy.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thirdshift.router.values import Request
from thirdshift.warehouse.errors import InputError
from thirdshift.warehouse.intake import frozen_writer, messages
from thirdshift.warehouse.intake.frozen import RowSource, batches, column
from thirdshift.warehouse.intake.intake import (
    InputSpec,
    Intake,
    RequestSpec,
    SqlSource,
    freeze,
    frozen,
    reject,
)
from thirdshift.warehouse.intake.rendering import RAW
from thirdshift.warehouse.journal import files

USER = [{"role": "user", "content": "hi"}]


def put(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def take(
    folder: Path,
    source: str | SqlSource = "in.parquet",
    request: RequestSpec | None = None,
    *,
    dedupe: bool = True,
) -> Intake:
    return freeze(InputSpec(source, folder, request, dedupe), folder / "run")


def requests(folder: Path) -> list[Request]:
    return list(RowSource(folder / "run", np.arange(len(column(folder / "run", "row")))))


def rejects(folder: Path) -> dict[int, str]:
    table = pq.read_table(folder / "run" / "rejects.parquet")
    return dict(zip(table["source_row"].to_pylist(), table["reason"].to_pylist(), strict=True))


def refused(folder: Path, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(InputError) as caught:
        take(folder, *args, **kwargs)
    assert frozen(folder / "run") is None
    return str(caught.value)


# --- rows ------------------------------------------------------------------------------------------------------------

BAD_ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "null id": ({"request_id": None}, "request_id is null"),
    "blank id": ({"request_id": "  "}, "request_id is empty"),
    "repeated id": ({"request_id": "first"}, "request_id is that of row 0, which stands"),
    "nothing asked": ({"prompt": None}, "prompt and messages are empty"),
    "blank prompt": ({"prompt": " \n\t "}, "prompt and messages are empty"),
    "broken JSON": ({"messages": '[{"role": "user", '}, r"messages is no valid JSON \(character"),
    "a number that is none": ({"messages": "[NaN]"}, "messages is no valid JSON"),
    "no list": ({"messages": '"hello"'}, "messages is no list"),
    "no message": ({"messages": "[]"}, "messages is an empty list"),
    "a string for a message": ({"messages": '["hello"]'}, "message 1 is no object"),
    "no role": ({"messages": '[{"content": "x"}]'}, "message 1 has no role"),
    "a strange role": (
        {"messages": '[{"role": "user", "content": "x"}, {"role": "bot", "content": "x"}]'},
        "message 2 has the role 'bot'; roles are assistant",
    ),
    "no content": ({"messages": '[{"role": "user"}]'}, "message 1 has no content"),
    "a number as content": (
        {"messages": '[{"role": "user", "content": 7}]'},
        "neither text nor a list of parts",
    ),
    "a bad part": (
        {"messages": '[{"role": "user", "content": ["x"]}]'},
        "a part of its content is no object",
    ),
    "only a system message": (
        {"messages": '[{"role": "system", "content": "x"}]'},
        "no message but the system's",
    ),
    "a blank message": ({"messages": '[{"role": "user", "content": " "}]'}, "messages are empty"),
    "half a character": ({"messages": '[{"role": "user", "content": "\\ud83d"}]'}, "half a surrogate pair"),
    "bad schema": ({"response_schema": "{"}, "response_schema is no valid JSON"),
    "a schema that is none": ({"response_schema": "[1]"}, "response_schema is no JSON object"),
    "a schema of no type": ({"response_schema": '{"type": 5}'}, r"is no valid JSON schema, at \$\.type"),
    "bad tools": ({"tools": '{"type": "function"}'}, "tools is no list of objects"),
    "no tokens": ({"max_tokens": "0"}, "max_tokens is 0; it must be a whole number from 1 to 2147483647"),
    "negative tokens": ({"max_tokens": "-5"}, "max_tokens is -5"),
    "a word for tokens": ({"max_tokens": "many"}, "max_tokens is many"),
    "a fraction of tokens": ({"max_tokens": "10.5"}, "max_tokens is 10.5"),
    "too many tokens": ({"max_tokens": "1e30"}, "max_tokens is 1e30"),
    "cold": ({"temperature": "-1"}, "temperature is -1; it must be a number from 0"),
    "no number": ({"temperature": "nan"}, "temperature is nan"),
}


def test_each_kind_of_bad_row_is_refused_with_its_reason_and_the_good_ones_go_on(tmp_path: Path) -> None:
    names = ["request_id", "prompt", "messages", "tools", "max_tokens", "temperature", "response_schema"]
    rows = [{"request_id": "first", "prompt": "good"}]
    rows += [
        {"request_id": f"bad {n}", "prompt": "ask"} | bad for n, (bad, _) in enumerate(BAD_ROWS.values())
    ]
    rows += [{"request_id": "last", "prompt": "good too", "max_tokens": "50"}]
    put(tmp_path / "in.parquet", **{n: pa.array([r.get(n) for r in rows], pa.string()) for n in names})

    result = take(tmp_path)

    assert (result.rows, result.rejects, result.source_rows) == (2, len(BAD_ROWS), len(BAD_ROWS) + 2)
    reasons = rejects(tmp_path)
    assert sorted(reasons) == list(range(1, len(BAD_ROWS) + 1))
    for row, (kind, (_, expected)) in enumerate(BAD_ROWS.items(), start=1):
        assert re.search(expected, reasons[row]), (kind, reasons[row])
    assert [(r.request_id, r.max_tokens, r.row) for r in requests(tmp_path)] == [
        ("first", 1024, 0),
        ("last", 50, 1),
    ]


def test_of_rows_with_one_id_the_first_acceptable_one_stands(tmp_path: Path) -> None:
    put(tmp_path / "in.parquet", request_id=["a", "a", "b", "a"], prompt=["", "two", "three", "four"])
    assert take(tmp_path).rows == 2
    assert rejects(tmp_path) == {0: "prompt is empty", 3: "request_id is that of row 1, which stands"}


def test_ids_of_other_types_become_text(tmp_path: Path) -> None:
    put(tmp_path / "in.parquet", request_id=[7, 8], prompt=["x", "y"])
    take(tmp_path)
    assert [r.request_id for r in requests(tmp_path)] == ["7", "8"]


def test_a_rows_value_beats_the_jobs(tmp_path: Path) -> None:
    put(
        tmp_path / "in.parquet",
        request_id=["own", "jobs"],
        prompt=["x", "y"],
        system=["row's", None],
        max_tokens=[5, None],
        temperature=[0.5, None],
        response_schema=['{"type":"object"}', None],
        policy=["pii", " "],
        metadata=[{"team": "a"}, {"team": "b"}],
    )
    spec = RequestSpec(
        system="job's {not a template}", max_tokens=9, temperature=None, response_schema='{"a":1}'
    )
    take(tmp_path, request=spec)
    own, jobs = requests(tmp_path)
    assert (own.max_tokens, own.temperature, own.response_schema) == (5, 0.5, {"type": "object"})
    assert (jobs.max_tokens, jobs.temperature, jobs.response_schema) == (9, None, {"a": 1})
    assert own.messages == ({"role": "system", "content": "row's"}, {"role": "user", "content": "x"})
    assert jobs.messages[0] == {"role": "system", "content": "job's {not a template}"}
    assert column(tmp_path / "run", "policy").to_pylist() == ["pii", None]
    assert [json.loads(m) for m in column(tmp_path / "run", "metadata").to_pylist()] == [
        {"team": "a"},
        {"team": "b"},
    ]


def test_a_template_renders_plain_columns_of_any_type(tmp_path: Path) -> None:
    put(
        tmp_path / "in.parquet",
        day=[date(2026, 11, 22)] * 4,
        nr=[1, 2, 3, 4],
        body=["it's {here}", None, "", 'quote " and \\'],
        label=["A", "B", "C", "D"],
    )
    spec = RequestSpec(id=("day", "nr"), prompt="Ticket {{{nr}}}: {body}", task="triage", reference="label")
    take(tmp_path, request=spec)
    first, third, fourth = requests(tmp_path)
    assert third.messages[0]["content"] == "Ticket {3}: "
    assert first.request_id == "2026-11-22/1"
    assert first.messages == ({"role": "user", "content": "Ticket {1}: it's {here}"},)
    assert fourth.messages[0]["content"] == 'Ticket {4}: quote " and \\'
    assert first.task == "triage"
    assert column(tmp_path / "run", "reference").to_pylist() == ["A", "C", "D"]
    assert rejects(tmp_path)[1] == "body is null, and the prompt needs it"


def test_a_template_whose_columns_are_all_blank_asks_nothing(tmp_path: Path) -> None:
    put(tmp_path / "in.parquet", request_id=["a", "b"], body=[" ", "x"])
    take(tmp_path, request=RequestSpec(prompt="Ticket: {body}"))
    assert rejects(tmp_path) == {0: "body is empty, so the prompt says nothing"}


def test_messages_pass_through_as_structs_or_json_with_images_and_tools(tmp_path: Path) -> None:
    image = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": "http://x/y.png"}}]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "42"},
    ]
    put(
        tmp_path / "in.parquet",
        request_id=["a", "b", "c"],
        messages=[
            json.dumps([{"role": "user", "content": image}]),
            json.dumps(turns),
            json.dumps({"messages": USER, "tools": tools}),
        ],
        tools=[json.dumps(tools), None, None],
    )
    take(tmp_path, request=RequestSpec(system="be brief"))
    a, b, c = requests(tmp_path)
    system = {"role": "system", "content": "be brief"}
    assert a.messages == (system, {"role": "user", "content": image})
    assert a.tools == tuple(tools)
    assert b.messages == (system, *turns)
    assert (c.messages, c.tools) == ((system, *USER), tuple(tools))
    sizes = column(tmp_path / "run", "prompt_bytes")
    assert sizes[0] > 8192 > sizes[1] > len(json.dumps(turns)) * 0.8


def test_structs_keep_only_the_fields_a_message_has(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "hi", "name": None},
        {"role": "assistant", "content": "yes", "name": "bo"},
    ]
    put(tmp_path / "in.parquet", request_id=["a"], messages=[turns])
    take(tmp_path)
    assert requests(tmp_path)[0].messages == ({"role": "user", "content": "hi"}, turns[1])


def test_a_system_message_of_the_row_is_not_preceded_by_the_jobs(tmp_path: Path) -> None:
    own = [{"role": "system", "content": "mine"}, *USER]
    put(tmp_path / "in.parquet", request_id=["a"], messages=[json.dumps(own)])
    take(tmp_path, request=RequestSpec(system="the job's"))
    assert requests(tmp_path)[0].messages == tuple(own)


# --- hashes and leaders ----------------------------------------------------------------------------------------------


def test_the_same_request_has_the_same_hash_however_it_is_written(tmp_path: Path) -> None:
    put(
        tmp_path / "in.parquet",
        request_id=list("abcde"),
        prompt=['hé\u0001 "\\', None, None, 'hé\u0001 "\\', "other"],
        messages=[
            None,
            '[ {"role":"user", "content":"h\\u00e9\\u0001 \\"\\\\"} ]',
            json.dumps(USER),
            None,
            None,
        ],
        max_tokens=[5, 5, 5, 6, 5],
    )
    take(tmp_path)
    hashes = column(tmp_path / "run", "request_hash").to_pylist()
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 4
    assert column(tmp_path / "run", "leader").tolist() == [0, 0, 2, 3, 4]


def test_without_dedupe_every_request_leads_itself(tmp_path: Path) -> None:
    put(tmp_path / "in.parquet", request_id=list("abc"), prompt=["x"] * 3)
    take(tmp_path, dedupe=False)
    assert column(tmp_path / "run", "leader").tolist() == [0, 1, 2]


def test_a_repeated_id_leads_nobody(tmp_path: Path) -> None:
    put(tmp_path / "in.parquet", request_id=["a", "a", "b"], prompt=["x", "y", "y"])
    take(tmp_path)
    assert column(tmp_path / "run", "leader").tolist() == [0, 1]


def test_rows_refused_later_close_ranks_and_their_duplicates_get_a_new_leader(tmp_path: Path) -> None:
    put(tmp_path / "in.parquet", request_id=list("abcdef"), prompt=["x", "y", "x", "", "x", "y"])
    take(tmp_path)
    result = reject(tmp_path / "run", {0: "longer than every context window", 1: "allowed on no endpoint"})
    assert (result.rows, result.rejects, result.source_rows) == (3, 3, 6)
    assert [r.request_id for r in requests(tmp_path)] == ["c", "e", "f"]
    assert column(tmp_path / "run", "leader").tolist() == [0, 0, 2]
    assert column(tmp_path / "run", "source_row").tolist() == [2, 4, 5]
    assert rejects(tmp_path) == {
        0: "longer than every context window",
        1: "allowed on no endpoint",
        3: "prompt is empty",
    }
    assert frozen(tmp_path / "run") == result


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c", None]), st.sampled_from(["x", "y", " ", None])),
        min_size=1,
        max_size=30,
    )
)
def test_rows_in_are_accepted_and_rejects(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("law")
    ids, prompts = (pa.array(list(values), pa.string()) for values in zip(*rows, strict=True))
    put(folder / "in.parquet", request_id=ids, prompt=prompts)
    good = {i for i, p in rows if i is not None and p in ("x", "y")}
    if not good:
        assert "none of its" in refused(folder)
        return
    result = take(folder)
    assert result.rows + result.rejects == result.source_rows == len(rows)
    assert {r.request_id for r in requests(folder)} == good
    assert result.rows == len(good)
    kept = set(column(folder / "run", "source_row").tolist())
    assert kept | set(rejects(folder)) == set(range(len(rows)))


# --- sources ---------------------------------------------------------------------------------------------------------


def test_globs_and_directories_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    for day in ("02", "01"):
        put(
            tmp_path / f"lake/dt=2026-11-{day}/x.parquet",
            request_id=[f"{day}-a", f"{day}-b"],
            prompt=["x", "y"],
        )
    for source, name in (
        ("lake", "one"),
        ("lake/*/*.parquet", "two"),
        (f"file://{tmp_path}/lake/*/x.parquet", "three"),
    ):
        freeze(InputSpec(source, tmp_path, RequestSpec(task="dt")), tmp_path / name)
        assert column(tmp_path / name, "request_id").to_pylist() == ["01-a", "01-b", "02-a", "02-b"]
        assert column(tmp_path / name, "source_row").tolist() == [0, 1, 2, 3]
        assert set(column(tmp_path / name, "task").to_pylist()) == {"2026-11-01", "2026-11-02"}


def test_what_is_hidden_in_a_folder_is_no_input(tmp_path: Path) -> None:
    for place in ("dt=1/a", "_temporary/0/half", "dt=1/_a", "dt=1/.b", ".tmp/c", "_old=1/d"):
        put(tmp_path / f"_lake/{place}.parquet", request_id=[place], prompt=["x"])
    freeze(InputSpec("_lake", tmp_path, RequestSpec()), tmp_path / "run")
    assert column(tmp_path / "run", "request_id").to_pylist() == ["_old=1/d", "dt=1/a"]


def test_an_object_store_is_read_through_fsspec(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    for name in "ba":
        put(tmp_path / "local.parquet", request_id=[name], prompt=["x"])
        store.put_file(str(tmp_path / "local.parquet"), f"/lake/{name}.parquet")
    take(tmp_path, "memory://lake/*.parquet")
    assert [r.request_id for r in requests(tmp_path)] == ["a", "b"]
    with pytest.raises(InputError, match="nothing there matches"):
        freeze(InputSpec("memory://lake/none-*.parquet", tmp_path), tmp_path / "other")


def test_a_query_gives_rows_with_paths_from_the_job_file(tmp_path: Path) -> None:
    put(tmp_path / "tickets.parquet", nr=[1, 2, 3], body=["a", "b", "c"])
    put(tmp_path / "labels.parquet", nr=[1, 3], label=["A", "C"])
    sql = """select nr as request_id, body as prompt, label as reference -- all that is labelled
             from 'tickets.parquet' join 'labels.parquet' using (nr) order by nr desc;"""
    take(tmp_path, SqlSource(sql))
    assert [r.request_id for r in requests(tmp_path)] == ["3", "1"]


def test_a_query_reaches_what_it_attaches(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "other.duckdb")) as con:
        con.execute("create table t as select 'a' as request_id, 'x' as prompt")
    take(tmp_path, SqlSource("select * from db.t", {"db": str(tmp_path / "other.duckdb")}))
    assert requests(tmp_path)[0].request_id == "a"
    missing = InputSpec(SqlSource("select 1", {"db": "/nowhere/x"}), tmp_path)
    with pytest.raises(InputError, match="attach db"):
        freeze(missing, tmp_path / "no")


def line(custom_id: Any = "a", **body: Any) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body})


def test_a_batch_file_is_read_as_a_provider_would(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    tools = [{"type": "function", "function": {"name": "f"}}]
    lines = [
        line("a", model="gpt-x", messages=USER, max_completion_tokens=7, temperature=0.3, top_p=0.9, seed=1),
        line("b", messages=USER, max_tokens=8, response_format=form, tools=tools, metadata={"k": "v"}),
        "",
        line("c", messages=USER, temperature=None, response_format={"type": "json_object"}),
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    take(tmp_path, "in.jsonl", RequestSpec(max_tokens=99, temperature=0.0))
    a, b, c = requests(tmp_path)
    assert (a.request_id, a.max_tokens, a.temperature, a.sampling) == ("a", 7, 0.3, {"seed": 1, "top_p": 0.9})
    assert (b.max_tokens, b.temperature, b.response_schema, b.tools) == (8, 0.0, schema, tuple(tools))
    assert (c.max_tokens, c.temperature, c.sampling) == (
        99,
        None,
        {"response_format": {"type": "json_object"}},
    )
    assert column(tmp_path / "run", "metadata").to_pylist() == [None, '{"k":"v"}', None]
    with gzip.open(tmp_path / "packed.jsonl.gz", "wt") as file:
        file.write("\n".join(lines))
    assert freeze(InputSpec("packed.jsonl.gz", tmp_path), tmp_path / "packed").rows == 3


def test_bad_lines_of_a_batch_file_are_refused_one_by_one(tmp_path: Path) -> None:
    bad = {
        "{": "the line is no valid JSON",
        "[]": "the line is no JSON object",
        line(None, messages=USER): "custom_id is missing or null",
        line("", messages=USER): "custom_id is empty",
        json.dumps({"custom_id": "x"}): "body is missing or no object",
        line("e").replace(
            "chat/completions", "embeddings"
        ): "url is /v1/embeddings; only /v1/chat/completions is answered",
        line("m"): "body.messages is missing",
        line("n", messages=USER, n=2): "body.n must be 1: a request has one answer",
        line("w", messages=USER, web_search_options={}): "body.web_search_options is not supported",
        line(
            "t", messages=USER, max_tokens=True
        ): "max_tokens is true; it must be a whole number from 1 to 2147483647",
        line(
            "u", messages=USER, max_tokens="20"
        ): 'max_tokens is "20"; it must be a whole number from 1 to 2147483647',
        line(
            "v", messages=USER, max_tokens=10**12
        ): "max_tokens is 1000000000000; it must be a whole number from 1 to 2147483647",
        line("h", messages=USER, temperature=-1): "temperature is -1; it must be a number from 0",
        line(
            "f", messages=USER, response_format={"type": "json_schema"}
        ): "response_format has no json_schema.schema",
    }
    (tmp_path / "in.jsonl").write_text("\n".join([line("good", messages=USER), *bad]))
    assert take(tmp_path, "in.jsonl").rows == 1
    assert rejects(tmp_path) == dict(enumerate(bad.values(), start=1))


# --- the input as a whole --------------------------------------------------------------------------------------------


def test_a_missing_file_is_named_with_its_nearest(tmp_path: Path) -> None:
    put(tmp_path / "tickets.parquet", request_id=["a"], prompt=["x"])
    assert 'input ticket.parquet: no such file; did you mean "tickets.parquet"?' in refused(
        tmp_path, "ticket.parquet"
    )
    assert "the pattern matches nothing" in refused(tmp_path, "*.csv")
    assert "does not exist" in refused(tmp_path, "nowhere/x.parquet")
    (tmp_path / "empty").mkdir()
    assert "holds no .parquet file" in refused(tmp_path, "empty")


def test_the_one_unreadable_file_of_many_is_named(tmp_path: Path) -> None:
    for n in range(3):
        put(tmp_path / f"in/{n}.parquet", request_id=[str(n)], prompt=["x"])
    (tmp_path / "in/1.parquet").write_bytes(b"PAR1 and then nothing")
    assert "in/1.parquet: cannot be read as Parquet" in refused(tmp_path, "in")


def test_damage_within_a_file_leaves_nothing_frozen(tmp_path: Path) -> None:
    path = put(tmp_path / "in.parquet", request_id=[str(n) for n in range(9999)], prompt=["x" * 50] * 9999)
    data = bytearray(path.read_bytes())
    data[40:4000] = b"\xff" * 3960
    path.write_bytes(data)
    assert "in.parquet" in refused(tmp_path)
    assert not (tmp_path / "run" / "requests").exists()


def test_a_missing_column_is_named_with_its_nearest_and_the_remedy(tmp_path: Path) -> None:
    put(tmp_path / "in.parquet", reqest_id=["a"], promt=["x"], body=["b"])
    message = refused(tmp_path)
    assert 'in.parquet: no column "request_id"' in message
    assert 'did you mean "reqest_id"?' in message
    assert "request.id" in message
    assert 'did you mean "promt"?' in refused(tmp_path, request=RequestSpec(id=("reqest_id",)))
    spec = RequestSpec(id=("reqest_id",), prompt="{bdy}")
    assert 'no column "bdy", which request.prompt needs; did you mean "body"?' in refused(
        tmp_path, request=spec
    )
    spec = RequestSpec(id=("reqest_id",), prompt="{body}", reference="lable")
    assert 'no column "lable"' in refused(tmp_path, request=spec)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("no column at all", "names no column"),
        ("{body.upper}", 'no column "body.upper"'),
        ("{body!r}", "no plain column name"),
        ("{body:>10}", "no plain column name"),
        ("{}", "no plain column name"),
        ("{body[0]}", "no plain column name"),
        ("{body", "request.prompt: .*written twice"),
    ],
)
def test_templates_take_plain_column_names_only(tmp_path: Path, template: str, says: str) -> None:
    put(tmp_path / "in.parquet", request_id=["a"], body=["x"])
    with pytest.raises(InputError, match=says):
        take(tmp_path, request=RequestSpec(prompt=template))


def test_an_input_without_one_acceptable_row_says_what_is_wrong_with_most(tmp_path: Path) -> None:
    put(tmp_path / "in.parquet", request_id=["a", "b", None], prompt=["", "", "x"])
    assert "none of its 3 rows is acceptable; 2 of them: prompt is empty" in refused(tmp_path)
    put(tmp_path / "in.parquet", request_id=pa.array([], pa.string()), prompt=pa.array([], pa.string()))
    assert "holds no row" in refused(tmp_path)


def test_a_prompt_that_is_no_text_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "in.parquet", request_id=["a"], prompt=[{"x": 1}])
    assert 'column "prompt" is STRUCT' in refused(tmp_path)


def test_a_failing_query_shows_its_mistake_but_no_value(tmp_path: Path) -> None:
    assert "syntax error" in refused(tmp_path, SqlSource("selec 1"))
    secret = refused(
        tmp_path, SqlSource("select 'a' as request_id, ('my diagnosis'::int)::varchar as prompt")
    )
    assert "diagnosis" not in secret


# --- frozen means frozen ---------------------------------------------------------------------------------------------


def test_what_is_frozen_stays_whatever_happens_to_the_files(tmp_path: Path) -> None:
    path = put(tmp_path / "in.parquet", request_id=["a"], prompt=["x"])
    before = take(tmp_path)
    path.unlink()
    assert take(tmp_path) == before
    assert frozen(tmp_path / "run") == before


def test_a_freeze_killed_at_any_step_is_absent_or_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Death is played at each rename and each sync: what the next process finds is nothing, or everything."""
    put(tmp_path / "in.parquet", request_id=["a", None], prompt=["x", "y"])
    states = set()
    for step in range(40):
        folder = tmp_path / f"try{step}"
        with monkeypatch.context() as patch:
            calls = _die_at(patch, step)
            with contextlib.suppress(_Death):
                freeze(InputSpec("in.parquet", tmp_path), folder)
            died = len(calls) > step
        there = frozen(folder)
        states.add(there is not None)
        assert there is None or (there.rows, there.rejects) == (1, 1)
        again = freeze(InputSpec("in.parquet", tmp_path), folder)
        assert (again.rows, pq.read_table(folder / "rejects.parquet").num_rows) == (1, 1)
        names = sorted(p.name for p in folder.iterdir())
        assert names == ["frozen.json", "id_types.json", "rejects.parquet", "requests", "rows.digest"]
        if not died:
            break
    assert states == {True, False}
    assert not died


class _Death(BaseException):
    pass


def _die_at(patch: pytest.MonkeyPatch, step: int) -> list[str]:
    """The operating system's calls end the process at call number `step`: like kill -9, nothing is tidied up after."""
    calls: list[str] = []

    def dying(name: str, real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) > step:
                raise _Death(name)
            return real(*args, **kwargs)

        return call

    patch.setattr(os, "fsync", dying("fsync", os.fsync))
    patch.setattr(Path, "replace", dying("rename", Path.replace))
    patch.setattr(shutil, "rmtree", dying("rmtree", shutil.rmtree))
    return calls


def test_frozen_files_are_their_owners_alone(tmp_path: Path) -> None:
    put(tmp_path / "in.parquet", request_id=["a"], prompt=["x"])
    take(tmp_path)
    run = tmp_path / "run"
    assert {p.stat().st_mode & 0o777 for p in [run, *run.rglob("*")] if p.is_dir()} == {0o700}
    assert {p.stat().st_mode & 0o777 for p in run.rglob("*") if p.is_file()} == {0o600}


# --- reading it back -------------------------------------------------------------------------------------------------


def test_requests_are_read_in_the_order_asked_from_any_row_group_and_again(tmp_path: Path) -> None:
    count = frozen_writer.GROUP_ROWS * 2 + 100
    ids = [f"r{n}" for n in range(count)]
    put(tmp_path / "in.parquet", request_id=ids, prompt=[f"question {n}" for n in range(count)])
    take(tmp_path)
    part = pq.ParquetFile(tmp_path / "run/requests/part-00000.parquet").metadata
    assert [part.row_group(n).num_rows for n in range(part.num_row_groups)] == [8192, 8192, 100]
    wanted = np.random.default_rng(1).permutation(count)[:5000]
    source = RowSource(tmp_path / "run", wanted)
    assert len(source) == 5000
    for _ in range(2):
        assert [r.row for r in source] == wanted.tolist()
    assert [r.request_id for r in RowSource(tmp_path / "run", wanted[:5])] == [f"r{n}" for n in wanted[:5]]
    assert "question" not in repr(source) + repr(next(iter(source)))
    rows = pa.Table.from_batches(batches(tmp_path / "run", ["row", "source_row"]))
    assert rows["row"].to_pylist() == list(range(count))


def test_a_big_input_is_split_into_files_and_read_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen_writer, "FILE_ROWS", frozen_writer.GROUP_ROWS)
    count = frozen_writer.GROUP_ROWS * 2 + 1
    put(tmp_path / "in.parquet", request_id=[str(n) for n in range(count)], prompt=["x"] * count)
    take(tmp_path)
    assert len(list((tmp_path / "run/requests").iterdir())) == 3
    assert column(tmp_path / "run", "leader").tolist() == [0] * count
    assert [r.request_id for r in RowSource(tmp_path / "run", np.array([count - 1, 0]))] == [
        str(count - 1),
        "0",
    ]


def test_files_complete_but_not_in_place_are_put_in_place(tmp_path: Path) -> None:
    place = tmp_path / files.BUILDING
    place.mkdir()
    (place / "x").write_text("new")
    (tmp_path / "x").write_text("old")
    files.settle(tmp_path)
    assert (tmp_path / "x").read_text() == "old"
    place.mkdir()
    (place / "x").write_text("new")
    (place / files.COMPLETE).touch()
    files.settle(tmp_path)
    assert (tmp_path / "x").read_text() == "new"
    assert not place.exists()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1), st.booleans())
def test_prompts_that_are_rendered_together_are_rendered_as_each_alone(
    prompts: list[str], with_schema: bool
) -> None:
    def rendered(prompts: list[str], max_tokens: list[int]) -> pa.RecordBatch:
        columns: dict[str, list[Any]] = {name: [None] * len(prompts) for name in RAW.names}
        columns |= {
            "prompt": prompts,
            "system": ['Say "yes" \u00e9'] * len(prompts),
            "max_tokens": max_tokens,
        }
        columns["response_schema"] = ['{"type": "object"}' if with_schema else None] * len(prompts)
        return messages.render(pa.RecordBatch.from_pydict(columns, schema=RAW), 5)

    count = len(prompts)
    together = rendered(prompts, [7] * count)
    alone = rendered([*prompts, "another"], [*[7] * count, 8])  # rows that differ are looked at one by one
    assert together == alone.slice(0, count)
    assert together.column("prompt_bytes").to_pylist() == [
        len(text.encode()) + (len('{"type": "object"}') if with_schema else 0)
        for text in together.column("messages").to_pylist()
    ]


def test_a_pipe_as_input_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.parquet")
    for source in ("rows.parquet", "."):
        with pytest.raises(InputError, match=r"rows\.parquet: is no file"):
            freeze(InputSpec(source, tmp_path), tmp_path / "run")


@pytest.mark.parametrize(
    "line",
    [
        {"custom_id": "a\ud800", "body": {"messages": USER}},
        {"custom_id": "a", "body": {"messages": [{"role": "user", "content": "\ud83d"}]}},
        {"custom_id": "a", "body": {"messages": USER, "metadata": {"k": "\udfff"}}},
        {"custom_id": "a", "body": {"messages": USER, "stop": ["\ud800"]}},
        {"custom_id": "a", "body": {"messages": USER, "tools": [{"type": "\ud800"}]}},
        {"custom_id": "a", "body": {"messages": USER, "n\ud800": 1}},
    ],
)
def test_half_a_surrogate_pair_in_a_batch_file_is_a_reject(tmp_path: Path, line: dict[str, Any]) -> None:
    lines = [line, {"custom_id": "whole", "body": {"messages": USER}}]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    frozen_input = freeze(InputSpec("b.jsonl", tmp_path), tmp_path / "run")
    assert (frozen_input.rows, frozen_input.rejects) == (1, 1)


def test_half_a_surrogate_pair_in_parquet_is_a_reject(tmp_path: Path) -> None:
    half = json.dumps([{"role": "user", "content": "\ud800"}])
    tools = json.dumps([{"type": "\ud800"}])
    good = json.dumps(USER)
    put(
        tmp_path / "a.parquet",
        request_id=["a", "b", "c"],
        messages=[half, good, good],
        tools=[None, tools, None],
    )
    frozen_input = freeze(InputSpec("a.parquet", tmp_path), tmp_path / "run")
    assert (frozen_input.rows, frozen_input.rejects) == (1, 2)


def test_ids_that_would_be_rounded_are_refused_with_file_and_column(tmp_path: Path) -> None:
    big = 9007199254740993
    put(tmp_path / "a.parquet", request_id=[big, big - 1], prompt=["x", "y"])
    put(tmp_path / "b.parquet", request_id=[1.0, None], prompt=["x", "y"])
    with pytest.raises(
        InputError, match=r'b\.parquet: column "request_id" is a double there and int64 in .*a\.parquet'
    ):
        freeze(InputSpec("*.parquet", tmp_path), tmp_path / "run")
    put(tmp_path / "b.parquet", request_id=[1.0, float(big)], prompt=["x", "y"])
    frozen_input = freeze(InputSpec("b.parquet", tmp_path), tmp_path / "run")
    assert (frozen_input.rows, frozen_input.rejects) == (1, 1)
    (why,) = pq.read_table(tmp_path / "run" / "rejects.parquet")["reason"].to_pylist()
    assert "is rounded" in why


def test_an_id_that_two_columns_could_be_is_refused(tmp_path: Path) -> None:
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array(["x"])]
    twice = pa.Table.from_arrays(columns, names=["request_id", "request_id", "prompt"])
    pq.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r'a\.parquet: has two columns called "request_id"'):
        freeze(InputSpec("a.parquet", tmp_path), tmp_path / "run")


def test_a_row_whose_messages_are_blank_has_its_prompt(tmp_path: Path) -> None:
    put(tmp_path / "in.parquet", request_id=["a"], prompt=["hi"], messages=[""])
    take(tmp_path)
    assert [list(request.messages) for request in requests(tmp_path)] == [USER]


def test_a_query_is_one_question_and_its_params_are_values(tmp_path: Path) -> None:
    put(tmp_path / "a.parquet", request_id=["1", "2"], prompt=["x", "y"], n=[1, 2])

    def asked(sql: str, **bound: Any) -> Intake:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return freeze(InputSpec(SqlSource(sql, bound=bound), tmp_path), tmp_path / "run")

    assert asked("select * from 'a.parquet' where request_id = $id", id="2", other="z").rows == 1
    assert asked("select * from read_parquet('./' || $f) where n = $n", f="a.parquet", n="1").rows == 1
    injected = "a.parquet') ; copy (select 1) to 'out"
    for sql, bound in (
        ("copy (select 1) to 'out'", {}),
        ("select 1; copy (select 1) to 'out'", {}),
        ("select 1) ; copy (select 1) to 'out' ; (select 1", {}),
        ("select * from read_parquet('./' || $f)", {"f": injected}),
        ("set threads = 1", {}),
        ("select * from 'a.parquet' where n = $m", {"n": "1"}),
        ("select * from read_csv('https://example.invalid/x.csv')", {}),
    ):
        with pytest.raises(InputError):
            asked(sql, **bound)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="extension httpfs, which is not installed"):
        asked("select * from read_csv('https://example.invalid/x.csv')")


@pytest.mark.parametrize(
    "reading",
    [
        "read_csv($f)",
        "read_csv($f::varchar)",
        "read_csv($f || '/secret.csv')",
        "read_csv(['in/a.csv', $f])",
        "read_csv(replace($f, 'x', 'y'))",
        "read_text($f)",
        "glob($f)",
        "query('select * from ' || $f)",
        "(with t as (select * from read_csv($f)) select * from t)",
    ],
)
def test_a_param_names_no_file_and_leads_out_of_no_folder_that_the_job_names(
    tmp_path: Path, reading: str
) -> None:
    for folder in ("in", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.csv").write_text(f"request_id,prompt\n1,{folder}\n")

    def asked(sql: str, **bound: Any) -> Intake:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return freeze(InputSpec(SqlSource(sql, bound=bound), tmp_path), tmp_path / "run")

    with pytest.raises(InputError, match=r"\$f decides which file"):
        asked(f"select * from {reading}", f=str(tmp_path / "other" / "a.csv"))
    named = "select a.* from read_csv('in/' || $f || '.csv', header = $h) a, range($n) where prompt <> $f"
    assert asked(named, f="a", h=True, n=1).rows == 1
    with pytest.raises(InputError, match=r"\$f leads out of the folder"):
        asked(named, f="../other/a", h=True, n=1)


def test_arrows_padding_is_taken_out_at_every_depth_and_nulls_that_were_written_stay(tmp_path: Path) -> None:
    def tool(name: str, **properties: Any) -> dict[str, Any]:
        parameters = {"type": "object", "properties": properties}
        return {"type": "function", "function": {"name": name, "parameters": parameters}}

    tools = [tool("price", ticker={"type": "string"}), tool("rain", city={"type": "string"})]
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    messages = [{"role": "user", "content": parts}]
    put(tmp_path / "nested" / "in.parquet", request_id=["a"], messages=[messages], tools=[tools])
    written = json.dumps([tool("price", ticker={"type": ["string", "null"], "default": None})])
    put(tmp_path / "text" / "in.parquet", request_id=["a"], messages=[json.dumps(messages)], tools=[written])
    for name in ("nested", "text"):
        folder = tmp_path / name
        take(folder)
        (request,) = requests(folder)
        assert list(request.messages) == messages
        assert list(request.tools or ()) == (tools if name == "nested" else json.loads(written))


@pytest.mark.parametrize("nested", [True, False])
def test_empty_lists_that_stand_for_none_are_not_sent(tmp_path: Path, nested: bool) -> None:
    """OpenAI refuses `tool_calls: []` and `tools: []`. Where a list of structs is null pyiceberg writes an empty one, and
    some servers answer with one."""
    asked: dict[str, Any] = {"role": "user", "content": [{"type": "text", "text": "a"}]}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [{**asked, "tool_calls": []}, {"role": "assistant", "content": [], "tool_calls": [call]}]
    tools = pa.array([[]], pa.list_(pa.struct([("type", pa.string())])))
    if nested:
        put(tmp_path / "in.parquet", request_id=["a"], messages=[messages], tools=tools)
    else:
        put(tmp_path / "in.parquet", request_id=["a"], messages=[json.dumps(messages)], tools=["[]"])
    take(tmp_path)
    (request,) = requests(tmp_path)
    assert list(request.messages) == [asked, {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert not request.tools


def test_a_nested_schema_is_sent_without_the_nulls_that_arrow_padded_it_with(tmp_path: Path) -> None:
    def schema(**properties: Any) -> dict[str, Any]:
        return {"type": "object", "properties": properties, "required": list(properties)}

    asked = [schema(name={"type": "string"}), schema(n={"type": "integer"}), None]
    put(tmp_path / "in.parquet", request_id=["a", "b", "c"], prompt=["x", "y", "z"], response_schema=asked)
    take(tmp_path)
    assert [request.response_schema for request in requests(tmp_path)] == asked


def test_bytes_that_are_text_are_read_as_text_and_others_refused(tmp_path: Path) -> None:
    """Polars makes bytes of JSON and of UUIDs, and older writers of all text."""
    talk = json.dumps(USER).encode()
    put(
        tmp_path / "in.parquet",
        request_id=[b"a", b"b", bytes(range(200, 216))],
        messages=[talk, b"\xff\xfe", talk],
        metadata=[b'{"team": "x"}', None, None],
        task=[b"t", b"t", b"t"],
    )
    intake = take(tmp_path)
    (request,) = requests(tmp_path)
    assert (request.request_id, list(request.messages), intake.tasks) == ("a", USER, ("t",))
    assert "messages holds bytes that are no text" in rejects(tmp_path)[1]
    assert "request_id holds bytes that are no text" in rejects(tmp_path)[2]


def test_a_file_without_rows_changes_no_type_of_the_others(tmp_path: Path) -> None:
    """In pandas every column of an empty table is a double."""
    empty = pa.array([], pa.float64())
    put(tmp_path / "in" / "1.parquet", request_id=empty, prompt=empty, max_tokens=empty)
    put(tmp_path / "in" / "2.parquet", request_id=[7, 2**53 + 1], prompt=["x", "y"], max_tokens=[5, 6])
    take(tmp_path, "in")
    assert [(r.request_id, r.max_tokens) for r in requests(tmp_path)] == [("7", 5), (str(2**53 + 1), 6)]
    assert "holds no row" in refused(tmp_path / "in", "1.parquet")
