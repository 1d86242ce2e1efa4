"""What the documents show is so."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tests.support.nights import thirdshift
from tests.support.paths import ROOT
from thirdshift.flows.api.backtests import BacktestFigures
from thirdshift.flows.cli.app import app
from thirdshift.flows.jobs.building import books, endpoint_values
from thirdshift.flows.jobs.job import load_job
from thirdshift.flows.jobs.reference import reference
from thirdshift.router.backtesting.recorded_outcomes import COLUMNS

DOCS = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def commands(path: Path) -> list[str]:
    """Every `thirdshift …` in code, inline or in a block."""
    text = path.read_text(encoding="utf-8")
    fenced = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`([^`\n]+)`", text)
    lines = [line.strip() for block in [*fenced, *inline] for line in block.splitlines()]
    bare = [line.removeprefix("$ ").removeprefix(".venv/bin/").partition(" #")[0] for line in lines]
    return [line for line in bare if line.startswith("thirdshift ")]


def test_the_reference_of_the_job_file_is_made_from_its_models() -> None:
    told = (ROOT / "docs" / "job-file.md").read_text(encoding="utf-8")
    assert told == reference(), "run: .venv/bin/python -m thirdshift.flows.jobs.reference > docs/job-file.md"


@pytest.mark.parametrize("snippet", blocks(ROOT / "docs" / "endpoints.md", "yaml"))
def test_each_recipe_of_the_cookbook_is_an_endpoint_with_a_price(snippet: str, tmp_path: Path) -> None:
    text: dict[str, Any] = {"name": "recipe", "input": "x.parquet", "endpoints": yaml.safe_load(snippet)}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(text))
    job = load_job(tmp_path / "job.yaml", environ=None)
    assert all(endpoint.price for endpoint in endpoint_values(job, *books()))


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_each_command_in_the_documents_is_one_that_the_program_has(path: Path) -> None:
    root = typer.main.get_command(app)
    for line in commands(path):
        words = shlex.split(line.replace("…", ""))[1:]
        command: Any = root
        while words and hasattr(command, "commands") and not words[0].startswith("-"):
            assert words[0] in command.commands, f"{path.name}: {line}"
            command = command.commands[words.pop(0)]
        options = {
            name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]
        }
        asked = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert asked <= options | {"--help", "--install-completion", "--show-completion"}, (
            f"{path.name}: {line}"
        )


def test_the_page_on_backtests_has_each_figure_and_each_column() -> None:
    text = (ROOT / "docs" / "backtest.md").read_text(encoding="utf-8")
    columns, figures = (
        [name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.split("|")[1])]
        for table in re.findall(r"^\| --- \| --- \|\n((?:\|.*\n)+)", text, re.MULTILINE)
    )
    assert figures == [figure.name for figure in fields(BacktestFigures)]
    assert set(columns) == {*COLUMNS, "input_tokens", "output_tokens", "answer"}


def test_a_night_in_ten_minutes_goes_as_written(tmp_path: Path, demo_night: Path) -> None:
    shutil.copytree(demo_night, tmp_path / "demo")
    lines = [line for block in blocks(ROOT / "docs" / "a-night.md", "console") for line in block.splitlines()]
    first, *others = [line.removeprefix("$ ") for line in lines]
    assert first == "thirdshift demo", "which the fixture has played"
    for line in others:
        done = thirdshift(*shlex.split(line)[1:], cwd=tmp_path)
        assert done.returncode in (0, 3), f"{line}: {done.stderr}"
        assert done.returncode == 0 or "rehearse" in line, "how emulated models score, nobody has promised"
    assert (tmp_path / "demo" / "night.html").exists()
