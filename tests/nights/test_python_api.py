"""The Python API: what docs/python.md shows is run, and what a function returns is what its command prints."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import thirdshift
from tests.support.nights import answer, ask, environment, write_job, write_sums
from tests.support.nights import thirdshift as command
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_SECONDS
from tests.support.servers import billed_usd, cheap, emulated
from thirdshift.engines.emulator import Emulator
from thirdshift.flows.formats import jsonable

DOC = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
SECTIONS = {
    title: re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", DOC, re.DOTALL | re.MULTILINE)
}
CELLS = """
import asyncio, json, sys
async def notebook(cells):  # a notebook's cells run while its event loop does
    names = {}
    for cell in cells:
        exec(compile(cell, "cell", "exec"), names)
    return names
names = asyncio.run(notebook(json.loads(sys.argv[1])))
print(json.dumps({"told": eval(sys.argv[2], names)}))
"""
DAY = "2026-11-22"


@pytest.fixture(scope="module")
def provider(prefect_api: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Emulator]]:
    """A folder with `triage.yaml`, its input and recorded outcomes; the provider that answers."""
    folder = tmp_path_factory.mktemp("python")
    items = write_sums(folder / "requests.parquet", 30)
    write_outcomes(folder / "outcomes.parquet")
    with emulated([cheap(latency_seconds=0.0)], items=items) as emulator:
        endpoints = {"cheap": {"price": {"input": 0.1, "output": 0.4}}}
        job = write_job(folder, emulator, endpoints, name="triage", params={"ds": None, "level": 3})
        job.rename(folder / "triage.yaml")
        yield folder, emulator


def write_outcomes(path: Path, count: int = 200) -> None:
    rows = [
        {
            "request_id": f"r{n}", "prompt": f"What is {n}?", "task": "sums", "model": model, "score": float(n % 10 < good),
            "input_tokens": 10, "output_tokens": 5, "cost_usd": usd,
        }
        for n in range(count)
        for model, good, usd in (("small", 6, 0.001), ("large", 10, 0.01))
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path)


def notebook(folder: Path, cells: list[str], told: str) -> Any:
    """What an expression is after the cells."""
    done = subprocess.run(
        [sys.executable, "-c", CELLS, json.dumps(cells), told],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])["told"]


def test_the_notebook_of_the_document_runs(provider: tuple[Path, Emulator]) -> None:
    folder, emulator = provider
    told = notebook(
        folder,
        SECTIONS["In a notebook"],
        "[plan.feasible, rehearsal.results, rehearsal.warehouse, answers.num_rows, summary.exit_code, summary.run_id, "
        "summary.spent_usd, len(report.repeats)]",
    )
    feasible, rehearsed, rehearsal, answers, code, run_id, spent, repeats = told
    assert (feasible, rehearsed, answers, code, repeats) == (True, 30, 30, 0, 2)
    assert run_id == f"triage.ds={DAY}.level=3", "as the command names it"
    assert Path(rehearsal).name == "warehouse.rehearsal.duckdb"
    assert spent == pytest.approx(float(billed_usd(emulator))), "resumed, it spends nothing"


def test_the_flow_of_the_document_runs_a_night_as_its_subflow(provider: tuple[Path, Emulator]) -> None:
    folder, _ = provider
    (cell,) = SECTIONS["In a Prefect flow of your own"]
    spent = notebook(folder, [cell, "state = every_night('2026-11-23', return_state=True)"], "state.result()")
    ((booked,),) = ask(
        folder / "warehouse.duckdb",
        "select sum(cost_usd)::double from ledger where run_id = 'triage.ds=2026-11-23.level=3'",
    )
    assert spent == pytest.approx(booked)
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

    named = FlowRunFilter(name=FlowRunFilterName(any_=["triage.ds=2026-11-23.level=3"]))
    with get_client(sync_client=True) as client:
        (night,) = client.read_flow_runs(flow_run_filter=named)
    assert night.parent_task_run_id is not None


@pytest.mark.parametrize(
    "run_id", ["manual__2026-11-22T00:00:00+00:00", "3f1c2a7e-7f0b-4a53-9d5e-1d5f1e1f2a3b"]
)
def test_the_function_that_schedulers_call_goes_on_with_its_run_when_it_is_retried(
    provider: tuple[Path, Emulator], run_id: str
) -> None:
    folder, emulator = provider
    function, *callers = SECTIONS["In Airflow and Dagster"]
    twice = f"[triage({run_id!r}, {DAY!r}), triage({run_id!r}, {DAY!r})]"
    before = billed_usd(emulator)
    first, again = notebook(folder, [function], twice)
    assert first == again == {"results": 30, "spent_usd": pytest.approx(float(billed_usd(emulator) - before))}
    for caller in callers:
        calls = [node.func for node in ast.walk(ast.parse(caller)) if isinstance(node, ast.Call)]
        called = {function.id for function in calls if isinstance(function, ast.Name)}
        assert "triage" in called, "Airflow and Dagster are not installed here; what they call is"


def test_a_plan_is_what_the_command_prints(provider: tuple[Path, Emulator]) -> None:
    folder, _ = provider
    report = thirdshift.plan(folder / "triage.yaml", params={"ds": DAY})
    printed = answer(command("plan", folder / "triage.yaml", "--param", f"ds={DAY}", "--json"))
    moves = {"finish_at"}
    data = json.loads(json.dumps(asdict(report), default=jsonable))
    assert report.exit_code == 0
    assert list(data) == list(printed)
    assert {k: v for k, v in data.items() if k not in moves} == {
        k: v for k, v in printed.items() if k not in moves
    }


def test_a_backtest_is_what_the_command_prints(provider: tuple[Path, Emulator]) -> None:
    folder, _ = provider
    path = folder / "outcomes.parquet"
    report = thirdshift.backtest(pq.read_table(path), thirdshift.BacktestSettings(0.9), seed=3)
    assert (
        asdict(report)["mean"]
        == answer(command("backtest", path, "--floor", "0.9", "--seed", "3", "--json"))["mean"]
    )
    assert report.repeats[0].quality >= 0.9


def test_a_verdict_is_returned_and_the_run_goes_on_with_a_yes(
    provider: tuple[Path, Emulator], tmp_path: Path
) -> None:
    folder, _ = provider
    job = yaml.safe_load((folder / "triage.yaml").read_text())
    job |= {
        "input": str(folder / "requests.parquet"),
        "params": {},
        "budget": {"approve_above_usd": 0.0000001},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    cells = [
        "import thirdshift",
        "first = thirdshift.run('job.yaml', run_id='asked')",
        "again = thirdshift.resume('asked', warehouse=first.warehouse, yes=True)",
        "rows = thirdshift.query(first.warehouse, 'select count(*) as n from results').to_pylist()",
    ]
    told = notebook(
        tmp_path,
        cells,
        "[first.exit_code, list(first.outcomes), float(first.spent_usd), again.exit_code, again.results, rows]",
    )
    assert told == [4, ["approval"], 0.0, 0, 30, [{"n": 30}]]


INTERRUPTED = """
import thirdshift
try:
    thirdshift.run("job.yaml", run_id="cell")
except KeyboardInterrupt:
    print("interrupted")
summary = thirdshift.resume("cell", warehouse="warehouse.duckdb")
print(summary.exit_code, summary.results)
"""


def test_an_interrupt_of_a_notebooks_whole_process_group_ends_the_cell_and_the_next_resumes_the_run(
    tmp_path: Path,
) -> None:
    items = write_sums(tmp_path / "requests.parquet", 100)
    with emulated([cheap(latency_seconds=1.0)], items=items) as emulator:
        endpoint = {"price": {"input": 0.1, "output": 0.4}, "limits": {"concurrency": 8}}
        write_job(tmp_path, emulator, {"cheap": endpoint})
        alone = {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}
        kernel = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED],
            cwd=tmp_path, env=alone, stdout=subprocess.PIPE, text=True, start_new_session=True,
            # a shell that runs the tests in its background has them ignore interrupts
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )  # fmt: skip
        while emulator.totals().get("cheap", {}).get("requests", 0) < 10:
            assert kernel.poll() is None
            time.sleep(0.1)
        os.killpg(kernel.pid, signal.SIGINT)
        printed, _ = kernel.communicate(timeout=PATIENCE_SECONDS)
        assert (kernel.returncode, printed.splitlines()) == (0, ["interrupted", "0 100"])
        assert emulator.totals()["cheap"]["requests"] == 100, "none was sent twice"


def test_a_mistake_is_raised(provider: tuple[Path, Emulator], tmp_path: Path) -> None:
    folder, _ = provider
    with pytest.raises(thirdshift.UserError, match="no run nobody"):
        thirdshift.resume("nobody", warehouse=folder / "warehouse.duckdb")
    with pytest.raises(thirdshift.UserError, match="it names a folder"):
        thirdshift.rehearse(folder / "triage.yaml", run_id="..")
    with pytest.raises(thirdshift.UserError, match="nowhere"):
        thirdshift.query(tmp_path / "nowhere.duckdb", "select 1")
    with pytest.raises(thirdshift.UserError, match="outcomes: "):
        thirdshift.backtest(pa.table({"model": ["a"]}), thirdshift.BacktestSettings(0.9))
    with pytest.raises(thirdshift.JobError) as raised:
        thirdshift.plan(folder / "triage.yaml")
    assert raised.value.exit_code == 2
    assert "ds" in str(raised.value.mistakes[0])
