"""`init` looks at the data at hand and writes a job that can be planned as it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.nights import answer, thirdshift, write_sums
from thirdshift.engines.devices import Device, Machine
from thirdshift.flows.errors import UserError
from thirdshift.flows.init.candidates import endpoints_for
from thirdshift.flows.init.inference import NoPrompt, propose
from thirdshift.flows.init.partitions import job_name
from thirdshift.flows.init.servers import NoModels, served_at
from thirdshift.flows.init.writing import job_text, write_job
from thirdshift.flows.jobs.building import books, endpoint_values
from thirdshift.flows.jobs.job import Job, load_job
from thirdshift.flows.models.registry import load_registry
from thirdshift.warehouse.intake.sampling import sample

BARE = Machine((), (), (0,))
LONG = "A letter to a customer explains at length why the parcel was late and what is done about it now. " * 2


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(rows: list[dict[str, Any]]) -> Job:
    """The job that `init` makes of these rows, loaded as any job is."""
    pq.write_table(pa.Table.from_pylist(rows), "rows.parquet")
    assert write_job("rows.parquet", Path("job.yaml"), force=True, environ={}) == 0
    return load_job(Path("job.yaml"), environ={})


def rows(count: int = 40, **columns: Any) -> list[dict[str, Any]]:
    """Rows with these columns; a function gives the value of row n."""
    return [
        {name: value(n) if callable(value) else value for name, value in columns.items()}
        for n in range(count)
    ]


SCORED = [
    (lambda n: "ABCD"[n % 4], "choice"),
    (lambda n: f"({'abcd'[n % 4]})", "choice"),
    (lambda n: f"{n * 1000:,}", "numeric"),
    (lambda n: f"So 3 + {n} is\n#### {n + 3}", "numeric"),
    (lambda n: f"-${n}.50", "numeric"),
    (lambda n: ["bug", "feature request", "praise"][n % 3], "exact"),
    (lambda n: json.dumps({"category": "bug", "amount": n}), "fields"),
    (lambda n: LONG + str(n), None),
    (lambda n: None, None),
]


@pytest.mark.usefixtures("here")
def test_references_tell_the_scorer() -> None:
    for reference, scorer in SCORED:
        job = written(rows(request_id=str, prompt=lambda n: f"Say {n}", reference=reference))
        assert job.quality.scorer == scorer, reference(1)
        assert job.quality.fields == (
            {"category": "exact", "amount": "numeric"} if scorer == "fields" else {}
        )


@pytest.mark.usefixtures("here")
def test_columns_are_found_by_name_and_content() -> None:
    job = written(
        rows(
            ticket_id=lambda n: 4000 + n,
            title="Help",
            body=lambda n: f"It fails {n}",
            label=lambda n: ["bug", "praise"][n % 2],
            language=lambda n: ["de", "fr"][n % 2],
        )
    )
    request = job.request
    assert (request.id, request.prompt) == (("ticket_id",), "{title}\n\n{body}")
    assert (request.reference, request.task, request.max_tokens) == ("label", "language", 256)
    numbered = written(rows(text=lambda n: f"the same {n % 3}", note="x"))
    assert not isinstance(numbered.input, str)
    assert "row_number()" in numbered.input.sql
    assert numbered.request.prompt == "{text}"
    contract = written(rows(request_id=str, prompt="Hello", task="greet", max_tokens=5, reference="7"))
    assert contract.request.model_dump(exclude={"max_tokens"}) == Job.model_fields[
        "request"
    ].get_default().model_dump(exclude={"max_tokens"})


def test_data_without_anything_to_ask_is_told(here: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "price": [2.5, 3.5]}), "rows.parquet")
    with pytest.raises(NoPrompt, match="there are id, price"):
        propose(sample("rows.parquet", here))


def test_other_formats_are_read(here: Path) -> None:
    Path("it's odd; $ {x}.csv").write_text('id,question,answer\n1,"one, or two?",A\n2,three?,B\n')
    write_job("it's odd; $ {x}.csv", Path("csv.yaml"), force=False, environ={})
    job = load_job(Path("csv.yaml"), environ={})
    assert not isinstance(job.input, str)
    read = "read_csv('it''s odd; $ {x}.csv', sample_size = -1, files_to_sniff = -1)"
    assert job.input.sql == f"select * from {read}"
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 9}
    Path("batch.jsonl").write_text(json.dumps({"custom_id": "a", "body": body}))
    write_job("batch.jsonl", Path("batch.yaml"), force=False, environ={})
    assert load_job(Path("batch.yaml"), environ={}).input == "batch.jsonl"
    Path("rows.jsonl").write_text(
        '{"id": "a", "text": "Hi", "label": "x"}\n{"id": "b", "text": "Ho", "label": "y"}\n'
    )
    write_job("rows.jsonl", Path("rows.yaml"), force=False, environ={})
    assert load_job(Path("rows.yaml"), environ={}).request.id == ("id",)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_column_s_type_is_found_in_all_lines_of_all_files(here: Path, ending: str) -> None:
    whole, half, files = "2", "2.5", 40
    line = '{{"id": "{}", "text": "Hi", "label": {}}}' if ending == "jsonl" else "{},Hi,{}"
    for file in range(files):
        first = "" if ending == "jsonl" else "id,text,label\n"
        last = file == files - 1
        rows = 25_000 if last else 2
        lines = [
            line.format(f"{file}-{row}", half if last and row == rows - 1 else whole) for row in range(rows)
        ]
        Path(f"part-{file:02}.{ending}").write_text(first + "\n".join(lines) + "\n")
    write_job(f"part-*.{ending}", Path("job.yaml"), force=False, environ={})
    job = load_job(Path("job.yaml"), environ={})
    assert not isinstance(job.input, str)
    column = job.request.reference
    found = duckdb.sql(
        f"select any_value(typeof({column})), sum({column} - 2) from ({job.input.sql})"
    ).fetchone()
    assert (column, found) == ("label", ("DOUBLE", 0.5))


def test_a_batch_file_may_have_tools_in_its_last_line_alone(here: Path) -> None:
    ask = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 9}
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    told = {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}], "tools": []}
    bodies = [ask] * 25_000 + [told]
    lines = (json.dumps({"custom_id": str(row), "body": body}) for row, body in enumerate(bodies))
    Path("batch.jsonl").write_text("\n".join(lines))
    assert sample("batch.jsonl", here).rows == 25_001


def test_nothing_is_overwritten_unless_asked(here: Path) -> None:
    write_sums(here / "rows.parquet", 4)
    (here / "job.yaml").write_text("mine")
    with pytest.raises(UserError, match="--force"):
        write_job("rows.parquet", Path("job.yaml"), force=False, environ={})
    assert (here / "job.yaml").read_text() == "mine"
    with pytest.raises(UserError, match="no such file"):
        write_job("nothing.parquet", Path("other.yaml"), force=False, environ={})
    assert [path.name for path in sorted(here.iterdir())] == ["job.yaml", "rows.parquet"]


def test_keys_choose_models_from_cheap_to_strong(here: Path) -> None:
    write_sums(here / "rows.parquet", 4)
    keys = {"OPENAI_API_KEY": "sk-hidden", "DEEPSEEK_API_KEY": "sk-hidden"}
    found = sample("rows.parquet", here)
    endpoints = endpoints_for(keys, BARE, load_registry())
    text = job_text(found, propose(found), endpoints, here / "job.yaml")
    (here / "job.yaml").write_text(text)
    job = load_job(here / "job.yaml", environ=keys)
    values = endpoint_values(job, *books())
    assert {each.model.partition("/")[0] for each in values} == {"openai", "deepseek"}
    prices = [3 * each.price.base.input + each.price.base.output for each in values]
    assert prices == sorted(prices)
    priors = [each.quality_prior for each in values if each.quality_prior is not None]
    assert max(priors) - 0.05 >= job.quality.floor
    assert "sk-hidden" not in text


def test_a_gpu_becomes_a_worker(here: Path) -> None:
    write_sums(here / "rows.parquet", 4)
    found = sample("rows.parquet", here)
    gpus = (Device("cuda", 0, "A big one", 80_000), Device("cuda", 1, "A big one", 80_000))
    text = job_text(
        found, propose(found), endpoints_for({}, Machine(gpus, (), (0,)), load_registry()), here / "job.yaml"
    )
    (here / "job.yaml").write_text(text)
    (house,) = load_job(here / "job.yaml", environ={}).endpoints
    assert (house.engine, house.device, house.workers) == ("vllm", "cuda", 2)


def test_the_job_plans_as_it_stands(here: Path) -> None:
    write_sums(here / "rows.parquet", 60)
    done = thirdshift("init", "rows.parquet")
    assert done.returncode == 0, done.stderr
    assert "numeric" in done.stdout
    assert "Next: thirdshift plan job.yaml" in done.stdout
    assert answer(thirdshift("plan", "job.yaml", "--json"))["feasible"]
    assert "# system: " in Path("job.yaml").read_text()  # its prompts say themselves what is wanted
    assert "the first answers will tell" in thirdshift("plan", "job.yaml").stdout


def lake(folder: Path, key: str = "dt", above: str = "") -> None:
    """A table in two days' folders, as a lake has it."""
    for day in ("2026-11-21", "2026-11-22"):
        place = folder / "support_tickets" / above / f"{key}={day}"
        place.mkdir(parents=True)
        table = rows(
            ticket_id=lambda n, day=day: f"{day}-{n}",
            body=lambda n: f"It fails {n}",
            label=lambda n: ["bug", "praise"][n % 2],
            team=lambda n: ["eu", "us", "apac"][n % 3],
            odd=lambda n: n,
        )
        pq.write_table(pa.Table.from_pylist(table), place / "part-0.parquet")


@pytest.mark.parametrize(
    "source", ["support_tickets", "support_tickets/dt=2026-11-22", "support_tickets/dt=2026-11-22/*.parquet"]
)
def test_folders_by_the_day_become_a_param(
    here: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lake(here)
    (here / "jobs").mkdir()
    assert write_job(source, here / "jobs/job.yaml", force=False, environ={}) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "input dt=2026-11-22 the latest day there is; another: --param ds=…" in said
    assert "unique in all 40 rows" in said, "cap and reasons are of the day that a run takes, not of all days"
    text = (here / "jobs/job.yaml").read_text()
    assert str(here) not in text
    beside = [line.index(" # ") for line in text.splitlines() if re.match(r" *\w.* # ", line)]
    assert set(beside) == {38}, "comments stand in one column"
    job = load_job(here / "jobs/job.yaml", environ={})
    assert (job.name, job.given) == ("support-tickets", {"ds": "2026-11-22"})
    assert str(job.input).startswith("../support_tickets/dt=2026-11-22")
    assert job.request.metadata == ("team",)
    assert (
        '\n  system: "Answer with one of: bug, praise, and nothing else."\n' in text
    )  # a body asks for nothing
    planned = answer(thirdshift("plan", here / "jobs/job.yaml", "--param", "ds=2026-11-21", "--json"))
    assert planned["requests"] == 40


def test_partitions_above_the_day_stay_open(here: Path) -> None:
    lake(here, key="date", above="region=eu")
    write_job("support_tickets", Path("job.yaml"), force=False, environ={})
    assert (
        load_job(Path("job.yaml"), environ={}).input == "support_tickets/region=*/date=2026-11-22/*.parquet"
    )


def test_a_job_is_named_after_its_data() -> None:
    for source, name in [
        ("s3://lake/tickets/dt=2026-11-22/*.parquet", "tickets"),
        ("/data/Customer Mails/part-00000.parquet", "customer-mails"),
        ("reviews.v2.parquet", "reviews"),
        ("data.parquet", "data"),
        ("*.parquet", "job"),
    ]:
        assert job_name(source) == name, source


MODELS = [
    {"id": "Qwen/Qwen3-8B", "max_model_len": 40960},
    {"id": "/models/qwen3-8b", "meta": {"n_ctx_train": 131072, "n_ctx": 32768}},
    {"id": 7},
    {"id": "it's odd: #x"},
]


@contextmanager
def listing(status: int = 200, body: Any = None) -> Iterator[str]:
    """A server whose /v1/models says `body`; all else is 404, and /moved sends elsewhere."""

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302 if self.path.startswith("/moved") else status)
            self.send_header("Location", "/v1/models")
            self.end_headers()
            self.wfile.write(json.dumps({"data": MODELS} if body is None else body).encode())

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_servers_models_become_endpoints(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sums(here / "rows.parquet", 4)
    with listing() as url:
        assert write_job("rows.parquet", Path("job.yaml"), force=False, environ={}, server=url) == 0
        assert "window 40,960" in " ".join(capsys.readouterr().out.split())
        port = int(url.rpartition(":")[2])
        write_job("rows.parquet", Path("found.yaml"), force=False, environ={}, ports=(port, 1))
    job = load_job(Path("job.yaml"), environ={})
    assert [(part.name, part.model, part.context_window) for part in job.endpoints] == [
        ("qwen3-8b", "openai/Qwen/Qwen3-8B", 40960),
        ("qwen3-8b-2", "openai//models/qwen3-8b", 32768),
        ("it-s-odd-x", "openai/it's odd: #x", None),
    ]
    assert {part.api_base for part in job.endpoints} == {f"{url}/v1"}
    assert "found Qwen/Qwen3-8B" in " ".join(capsys.readouterr().out.split())
    assert f'api_base: "{url}/v1"' in Path("found.yaml").read_text()
    assert [part.name for part in load_job(Path("found.yaml"), environ={}).endpoints] == ["small", "large"]


def test_a_server_that_lists_nothing_is_told(here: Path) -> None:
    write_sums(here / "rows.parquet", 4)

    def says(url: str) -> str:
        with pytest.raises(UserError) as caught:
            write_job("rows.parquet", Path("job.yaml"), force=False, environ={}, server=url)
        return str(caught.value)

    with listing(401) as url:
        assert "it wants a key" in says(url)
        with pytest.raises(NoModels, match="does not take the key"):
            served_at(url, "sk-another")
    with listing(body=["x"]) as url:
        assert "lists no models" in says(url)
        assert "answered 302" in says(f"{url}/moved")
    assert "lists no models" in says("http://127.0.0.1:1/v1")
    for wrong in ("file:///etc/passwd", "127.0.0.1:8000", "http://user:secret@host/v1"):
        assert "write a server's address" in says(wrong)
    assert not Path("job.yaml").exists()
