"""The command line: each command is a few lines; its work is in another module, imported only when it is called."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from copy import copy
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.models import CommandInfo

from thirdshift.flows.cli.backtest import app as backtest_app
from thirdshift.flows.cli.completion import run_ids
from thirdshift.flows.cli.labels import labels
from thirdshift.flows.cli.maintenance import register
from thirdshift.flows.cli.models import models
from thirdshift.flows.cli.options import (
    JobsWarehouseOption,
    JsonOption,
    RehearsalsWarehouseOption,
    WarehouseOption,
    warehouse_file,
)
from thirdshift.flows.cli.report import register as register_report
from thirdshift.flows.cli.runs import register as register_runs
from thirdshift.flows.console import guarded
from thirdshift.flows.errors import UserError
from thirdshift.flows.formats import printable
from thirdshift.flows.init.command import register as register_init

PANELS = {
    "A night": ("init", "plan", "rehearse", "run", "resume", "serve", "demo"),
    "In the morning": ("runs", "report", "sql", "ledger", "labels", "export"),
    "Models": ("models", "backtest"),
    "Upkeep": ("doctor", "migrate", "purge"),
}
"""The commands as `--help` groups them, in the order in which people need them."""


class InPanels(TyperGroup):
    """A group of commands shown in the panels of PANELS, in their order."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        known: dict[str, Any] = dict(self.commands)
        self.commands.clear()
        for panel, names in PANELS.items():
            for name in (name for name in names if name in known):
                known[name].rich_help_panel = panel
                self.commands[name] = known.pop(name)
        self.commands.update(known)
        _guard(self)


def _guard(group: Any) -> None:
    """Whatever a library prints while a command works, stdout has the answer alone; help is printed before."""
    for command in group.commands.values():
        if hasattr(command, "commands"):
            _guard(command)
        if command.callback is not None:
            command.callback = guarded(command.callback)


app = typer.Typer(
    name="thirdshift",
    cls=InPanels,
    help="Answer a night's worth of LLM requests at the lowest price that clears a quality floor.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"thirdshift {version('thirdshift')}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Answer a night's worth of LLM requests at the lowest price that clears a quality floor."""


app.add_typer(backtest_app)
app.add_typer(models, name="models")
app.add_typer(labels, name="labels")
register(app)
register_report(app)
register_runs(app)
register_init(app)

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="The job file (YAML).", show_default=False)]
ParamOption = Annotated[
    list[str] | None,
    typer.Option(
        "--param", metavar="k=v", help="Fills ${k} in the job; may be repeated.", show_default=False
    ),
]
RunIdOption = Annotated[
    str | None,
    typer.Option(
        "--run-id",
        metavar="ID",
        help="The run's id; an unfinished run of that id goes on.",
        show_default=False,
    ),
]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Start anew where a run of that id exists.")]
YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Approve a plan above budget.approve_above_usd.")
]


def _hush(quiet: bool) -> bool:
    if quiet:
        os.environ["THIRDSHIFT_QUIET"] = "1"
    return quiet


QuietOption = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Say nothing but warnings and the end.", callback=_hush),
]
BatchOutputOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The results as an OpenAI batch's output file, too: a JSON line per request.",
        show_default=False,
    ),
]


@app.command(epilog="Example: thirdshift plan triage.yaml --param ds=2026-11-22")
def plan(
    job: JobFile,
    param: ParamOption = None,
    warehouse: JobsWarehouseOption = None,
    as_json: JsonOption = False,
    why: Annotated[
        str | None,
        typer.Option(metavar="REQUEST_ID", help="Why this request goes where it goes.", show_default=False),
    ] = None,
) -> None:
    """Say what a run would do and cost. Spends nothing. Exit 0: feasible; 3: infeasible."""
    from thirdshift.flows.cli.plan import show_plan
    from thirdshift.flows.runs.options import RunOptions

    call = RunOptions(job=job.resolve(), params=_pairs(param), warehouse=_resolved(warehouse))
    raise typer.Exit(show_plan(call, as_json=as_json, request_id=why))


@app.command(epilog="Example: thirdshift run triage.yaml --run-id monday")
def run(
    job: JobFile,
    run_id: RunIdOption = None,
    param: ParamOption = None,
    warehouse: JobsWarehouseOption = None,
    as_json: JsonOption = False,
    fresh: FreshOption = False,
    yes: YesOption = False,
    quiet: QuietOption = False,  # noqa: ARG001 (its callback hushes the screen)
    batch_output: BatchOutputOption = None,
) -> None:
    """Run a job: plan it, answer every request, account for every cent.

    Exit 0 done · 2 job or input wrong, nothing spent · 3 floor missed or not certified · 4 budget stop ·
    5 deadline stop · 6 more errors than tolerated.
    """
    from thirdshift.flows.cli.run import run_job
    from thirdshift.flows.runs.options import RunOptions

    call = RunOptions(
        job=job.resolve(),
        params=_pairs(param),
        run_id=run_id,
        warehouse=_resolved(warehouse),
        fresh=fresh,
        yes=yes,
    )
    raise typer.Exit(run_job(call, as_json=as_json, batch_output=batch_output))


@app.command(epilog="Example: thirdshift resume monday --cap 30")
def resume(
    run_id: Annotated[
        str,
        typer.Argument(
            metavar="RUN_ID", help="As `runs` lists it.", show_default=False, autocompletion=run_ids
        ),
    ],
    cap: Annotated[
        float | None, typer.Option(metavar="USD", help="A new cap for the whole run.", show_default=False)
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(help='As in a job: "06:00 Europe/Berlin", 8h, an instant.', show_default=False),
    ] = None,
    warehouse: WarehouseOption = None,
    as_json: JsonOption = False,
    yes: YesOption = False,
    quiet: QuietOption = False,  # noqa: ARG001 (likewise)
    batch_output: BatchOutputOption = None,
) -> None:
    """Go on with a run that was stopped or killed. What was answered is not paid for again."""
    from thirdshift.flows.api.runs import options_to_resume
    from thirdshift.flows.cli.run import run_job

    place = warehouse_file(warehouse)
    call = options_to_resume(run_id, place, cap_usd=cap, deadline=deadline, yes=yes)
    raise typer.Exit(run_job(call, as_json=as_json, batch_output=batch_output))


@app.command(epilog="Example: thirdshift rehearse triage.yaml --outcomes last_year.parquet")
def rehearse(
    job: JobFile,
    outcomes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Emulated models answer as recorded ones did.", show_default=False),
    ] = None,
    run_id: RunIdOption = None,
    param: ParamOption = None,
    warehouse: RehearsalsWarehouseOption = None,
    as_json: JsonOption = False,
    fresh: FreshOption = False,
) -> None:
    """Run a job against emulated providers with the real prices and limits: nothing leaves the machine or is billed.

    Writes to a warehouse of its own beside the job's (`warehouse.rehearsal.duckdb`) unless --warehouse names one.
    """
    from thirdshift.flows.api.runs import as_rehearsal
    from thirdshift.flows.cli.run import run_job
    from thirdshift.flows.runs.options import RunOptions

    call = RunOptions(
        job=job.resolve(),
        params=_pairs(param),
        run_id=run_id,
        warehouse=_resolved(warehouse),
        fresh=fresh,
        yes=True,
    )
    raise typer.Exit(run_job(as_rehearsal(call, _resolved(outcomes)), as_json=as_json))


@app.command(epilog="Example: thirdshift demo --folder /tmp/night")
def demo(
    folder: Annotated[
        Path | None, typer.Option(help="Where its files go; without it, ./demo.", show_default=False)
    ] = None,
    requests: Annotated[int, typer.Option(min=40, help="How many requests.")] = 2000,
    vllm: Annotated[
        bool,
        typer.Option("--vllm", help="Two small real models besides, in a checkout with vLLM; ./demo-vllm."),
    ] = False,
) -> None:
    """A whole night on emulated endpoints: no key, no GPU, no server to start."""
    from thirdshift.flows.cli.demo import emulated
    from thirdshift.flows.cli.demo import vllm as on_vllm
    from thirdshift.flows.cli.run import run_job

    night, place = (on_vllm.run_demo, "demo-vllm") if vllm else (emulated.run_demo, "demo")
    raise typer.Exit(night(folder or Path(place), requests, partial(run_job, as_json=False)))


@app.command(
    epilog="Example: thirdshift serve triage.yaml --cron '0 22 * * *' --timezone Europe/Berlin --param ds={date}"
)
def serve(
    job: JobFile,
    cron: Annotated[
        str | None,
        typer.Option(
            metavar="LINE",
            help="When nights begin, as cron has it; without it, they begin from the UI alone.",
            show_default=False,
        ),
    ] = None,
    timezone: Annotated[
        str, typer.Option(metavar="ZONE", help="The time zone of --cron, {date} and {yesterday}.")
    ] = "UTC",
    param: ParamOption = None,
    warehouse: JobsWarehouseOption = None,
) -> None:
    """Serve a job from this process: nights on a schedule and from the UI of a Prefect server (PREFECT_API_URL)."""
    from thirdshift.flows.cli.serve import Schedule, serve_job
    from thirdshift.flows.runs.options import RunOptions

    call = RunOptions(job=job.resolve(), params=_pairs(param), warehouse=_resolved(warehouse))
    raise typer.Exit(serve_job(call, None if cron is None else Schedule(cron, timezone)))


@app.command(
    epilog='Example: thirdshift sql "select endpoint, status, sum(cost_usd) from ledger group by all"'
)
def sql(
    query: Annotated[
        str | None,
        typer.Argument(metavar="QUERY", help="A select; docs/sql.md has many.", show_default=False),
    ] = None,
    warehouse: WarehouseOption = None,
    by_line: Annotated[
        bool, typer.Option("-x", "--line", help="A line for each column: a wide row, whole.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask the warehouse. Read-only. Without a question: a prompt, or what comes on stdin."""
    from thirdshift.flows.cli.sql import Layout, show_sql
    from thirdshift.flows.cli.sql_prompt import converse

    place = warehouse_file(warehouse)
    layout = Layout.JSON if as_json else Layout.LINE if by_line else Layout.BOX
    raise typer.Exit(converse(place, layout) if query is None else show_sql(query, place, layout=layout))


@app.command(epilog="Example: thirdshift doctor")
def doctor(
    warehouse: WarehouseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine has: interpreters, devices, keys, the warehouse; and what is missing, with the remedy."""
    from thirdshift.flows.cli.doctor import show_health

    raise typer.Exit(show_health(_resolved(warehouse), as_json=as_json))


def _pairs(options: list[str] | None) -> dict[str, str]:
    """Read `k=v` options into a dictionary. Raises UserError: one of them has no name or no =."""
    pairs: dict[str, str] = {}
    for text in options or ():
        name, equals, value = text.partition("=")
        if not (equals and name):
            raise UserError(f"--param {text}: write it as name=value, for example --param ds=2026-11-22")
        pairs[name] = value
    return pairs


def _resolved(path: Path | None) -> Path | None:
    return path.resolve() if path is not None else None


COLLECT_AFTER = 100_000
"""New objects, before Python looks for cycles among them; at its own 700 that takes a tenth of a short command's time."""


def main() -> None:
    """Run the program: a user's mistake ends in one message and its exit code; a fault of ours keeps its traceback."""
    gc.set_threshold(COLLECT_AFTER, 10, 10)
    atexit.register(
        gc.freeze
    )  # an interpreter that ends looks for cycles in all there is: a sixth of a short command
    os.environ.setdefault(
        "PYDANTIC_DISABLE_PLUGINS", "__all__"
    )  # looking for some reads every installed package
    # Parquet's writers heed this alone, and only where it is set before Arrow is loaded (warehouse/memory.py says why)
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    # once NumPy is imported each of OpenBLAS's threads, one a core, spins 2^26 cycles before it sleeps; 2^4 is the least
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    try:
        _named_first(sys.argv[1:2])()
    except UserError as error:
        print(f"thirdshift: {printable(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)


def _named_first(words: list[str]) -> typer.Typer:
    """The program with the one command that is called, which spares building twenty others; whole where none is named."""
    mine = [command for command in app.registered_commands if _name(command) in words]
    if not mine or "_THIRDSHIFT_COMPLETE" in os.environ:
        return app
    alone = copy(app)
    alone.registered_commands, alone.registered_groups = mine, []
    return alone


def _name(command: CommandInfo) -> str:
    return str(command.name or getattr(command.callback, "__name__", ""))
