"""The demo: a batch of exercises that the project makes itself, answered by three emulated models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from thirdshift.engines.emulator import EmulatedModel, Emulator, KnownRow, OutputTokens
from thirdshift.flows.cli.demo import exercises
from thirdshift.flows.errors import UserError
from thirdshift.flows.runs.options import RunOptions
from thirdshift.router.values import Price

Runner = Callable[[RunOptions], int]
"""What runs a job and prints how it ended, as the `run` command does; it returns the exit code."""

MODELS = (
    EmulatedModel("emulated-small", Price(Decimal("0.10"), Decimal("0.40")), ability=0.55, slope=8),
    EmulatedModel("emulated-middle", Price(Decimal("0.60"), Decimal("2.40")), ability=0.9, slope=8),
    EmulatedModel("emulated-frontier", Price(Decimal("5.00"), Decimal("25.00")), ability=1.6, slope=8),
)
"""Prices like a small, a middle and a frontier model's of 2026; abilities on the exercises' scale, 0 to 1."""

SEED = 3

JOB = """\
# Written by `thirdshift demo`. The endpoints are emulated: a loopback server that lives while the demo runs.
name: demo
input: requests.parquet
warehouse: warehouse.duckdb
request: {{max_tokens: 64}}
quality:
  floor: 0.90          # mean score of all requests
  scorer: exact        # the answer equals the reference
  pilot: 300           # requests tried on the candidates to learn who is good at what
budget: {{cap_usd: 1.00}}
endpoints:
{endpoints}"""

ENDPOINT = """\
  - name: {name}
    model: openai/{model}
    api_base: {api_base}
    price: {{input: {input}, output: {output}}}
"""

ALONE = (
    "select endpoint, alone_usd, avg(score) filter (purpose = 'pilot') as score_in_pilot "
    "from savings left join observations using (run_id, endpoint) group by all order by alone_usd"
)
QUERIES = (
    ("Who answered what, and how well?",
     "select endpoint, task, count(*) as requests, avg(score) as score from results group by all order by all"),
    ("Where did the money go?",
     "select endpoint, purpose, attempts, settled_usd, unsettled_usd from spend_by_endpoint order by settled_usd desc"),
    ("What would a single endpoint have cost?", ALONE),
)  # fmt: skip


WRITTEN = "# Written by `"
"""A demo's job file begins so."""


def folder_for_demo(folder: Path) -> Path:
    """The folder, made where it is missing. Raises UserError where files that a demo would replace are not a demo's."""
    job = folder / "job.yaml"
    names = [name for name in ("job.yaml", "requests.parquet") if (folder / name).exists()]
    if names and not (job.is_file() and job.read_bytes().startswith(WRITTEN.encode())):
        raise UserError(f"{folder / names[0]} is no demo's file, and is left alone; name another --folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--folder {folder}: cannot be made: {error.strerror}") from error
    return folder


def run_demo(folder: Path, requests: int, run: Runner) -> int:
    """Write the demo's files into `folder`, run the job, show its results; return the exit code."""
    folder_for_demo(folder)
    items = list(exercises.items(requests, SEED))
    print(
        f"{len(items):,} exercises in {len(exercises.TASKS)} tasks; three emulated models on loopback, nothing is billed"
    )
    write_requests(folder / "requests.parquet", items)
    known = (KnownRow(prompt=i.prompt, reference=i.reference, difficulty=i.difficulty) for i in items)
    with Emulator([with_short_answers(model) for model in MODELS], items=known, seed=SEED) as emulator:
        job = folder / "job.yaml"
        job.write_text(
            JOB.format(endpoints="".join(endpoint_text(model, emulator.api_base) for model in MODELS))
        )
        code = run(RunOptions(job=job.resolve(), fresh=True, run_id="demo"))
    show(folder)
    return code


def with_short_answers(model: EmulatedModel) -> EmulatedModel:
    """Return a model whose answers are a few tokens long, at a real provider's latency on a small scale."""
    from dataclasses import replace

    return replace(model, output=OutputTokens(median=4.0, spread=0.3), latency_seconds=0.05)


def write_requests(path: Path, items: list[exercises.Item]) -> None:
    """Write exercises as a Parquet file of requests with their references."""
    columns = ("request_id", "task", "prompt", "reference")
    pq.write_table(pa.table({name: [getattr(item, name) for item in items] for name in columns}), path)


def endpoint_text(model: EmulatedModel, api_base: str) -> str:
    """Return the lines of a job file for an emulated model at `api_base`."""
    price = model.price
    if not isinstance(price, Price):
        raise TypeError("the demo's prices do not change by the hour")
    name = model.name
    return ENDPOINT.format(
        name=name, model=model.name, api_base=api_base, input=price.input, output=price.output
    )


def show(folder: Path, queries: Sequence[tuple[str, str]] = QUERIES) -> None:
    """Print the answers to `queries` (title, SQL), and where to look further."""
    from thirdshift.flows.formats import as_table
    from thirdshift.warehouse.store.ask import ask

    console = Console(highlight=False)
    warehouse = folder / "warehouse.duckdb"
    for question, query in queries:
        table: Table = as_table(ask(warehouse, query))
        table.title, table.caption = question, None
        console.print(table)
        console.print(f'  thirdshift sql --warehouse {warehouse} "{query}"', style="dim", soft_wrap=True)
    console.print(f"\nThe job: {folder / 'job.yaml'}   The answers and the ledger: {warehouse}")
