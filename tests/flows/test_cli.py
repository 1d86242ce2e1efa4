"""The command line helps: each command has an example that would work, and the shell can complete."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tests.support import newest
from tests.support.nights import PROGRAM
from thirdshift.flows.cli.app import PANELS, app


def leaves(command: Any, name: str = "thirdshift") -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its full name."""
    if hasattr(command, "commands"):
        for word, sub in command.commands.items():
            yield from leaves(sub, f"{name} {word}")
    else:
        yield name, command


COMMANDS = dict(leaves(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_and_an_example_that_it_takes(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    said = command.epilog.removeprefix("Example: ")
    assert said.startswith(name)
    words = shlex.split(said)[len(name.split()) :]
    command.make_context(name, words, resilient_parsing=False).close()


def test_each_command_with_a_warehouse_says_which_without_one() -> None:
    """`The DuckDB file.` told nobody where a run of `run JOB` is that `runs` does not list."""
    here = "The DuckDB file; without it, warehouse.duckdb here."
    elsewhere = dict.fromkeys(("plan", "run", "serve"), "The DuckDB file; without it, the job's.") | {
        "rehearse": "The DuckDB file; without it, warehouse.rehearsal.duckdb beside the job's."
    }
    for name, command in COMMANDS.items():
        for option in command.params:
            if option.name == "warehouse":
                assert option.help == elsewhere.get(name.removeprefix("thirdshift "), here), name


def answers_in_json(command: Any, name: str = "") -> Iterator[str]:
    """Every command that has `--json`, by its name; one that has commands below it can have it too."""
    if any("--json" in option.opts for option in command.params):
        yield name
    for word, sub in getattr(command, "commands", {}).items():
        yield from answers_in_json(sub, f"{name} {word}".lstrip())


def test_make_test_newest_runs_each_command_that_answers_in_json() -> None:
    assert set(answers_in_json(typer.main.get_command(app))) == set(newest.COMMANDS)


def test_each_command_stands_in_a_panel_of_the_help() -> None:
    root: Any = typer.main.get_command(app)
    assert [name for names in PANELS.values() for name in names] == list(root.commands)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--endpoints", "a", "--shortlist", "2"], "leave --shortlist out"),
        (["--endpoints", "a,"], "empty name"),
        (["--endpoints", ""], "empty name"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_a_backtests_options_that_say_nothing_are_refused(options: list[str], says: str) -> None:
    words = ["backtest", "nope.parquet", "--floor", "0.5", *options]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert says in done.output


def completed(folder: Path, *words: str) -> list[str]:
    asked = {"COMP_WORDS": " ".join(["thirdshift", *words]), "COMP_CWORD": str(len(words))}
    return subprocess.run(
        [PROGRAM], env={**os.environ, "_THIRDSHIFT_COMPLETE": "complete_bash", **asked}, cwd=folder,
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip


def test_the_shell_completes_commands_options_and_runs(tmp_path: Path) -> None:
    assert completed(tmp_path, "re") == ["rehearse", "resume", "report"]
    assert "--texts" in completed(tmp_path, "report", "--t")
    for run_id in ("monday", "tuesday"):
        folder = tmp_path / "warehouse.duckdb.d" / run_id
        folder.mkdir(parents=True)
        (folder / "job.json").write_text("{}")
    assert completed(tmp_path, "report", "mon") == ["monday"]


def test_a_command_that_is_named_says_the_same_help_as_among_all() -> None:
    for name, options in (
        ("plan", ["--why", "--json"]),
        ("models", ["--licence"]),
        ("ledger", ["reconcile"]),
    ):
        done = subprocess.run([PROGRAM, name, "--help"], capture_output=True, text=True, check=True)
        assert all(option in done.stdout for option in options), done.stdout


def test_planning_imports_neither_scipy_nor_prefect_nor_litellm() -> None:
    program = """
import sys
import thirdshift.flows.cli.app, thirdshift.flows.cli.plan
dear = ("scipy", "jsonschema", "fsspec", "rich", "prefect", "litellm", "tiktoken")
print(*(name for name in dear if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_package_is_the_program_too() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "thirdshift", "--version"], capture_output=True, text=True, check=True
    )
    assert (
        said.stdout
        == subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    )
