"""What the README shows is what the program prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from thirdshift.flows.jobs.building import books, endpoint_values
from thirdshift.flows.jobs.job import load_job

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_demo_ends_as_the_readme_shows(demo_night: Path) -> None:
    shown = re.findall(r"```\n(.*?)```", README, re.DOTALL)[1].strip().splitlines()
    printed = [line.rstrip() for line in (demo_night / "printed").read_text(encoding="utf-8").splitlines()]
    start = next(number for number, line in enumerate(printed) if " results, " in line)
    table = next(number for number, line in enumerate(printed) if line.strip() == shown[3].strip())
    told = printed[start : start + 3] + printed[table : table + len(shown) - 3]
    for ours, theirs in zip(shown, told, strict=True):
        assert words(ours) == words(theirs)
        assert figures(ours) == pytest.approx(figures(theirs), rel=0.1, abs=0.05)


def words(line: str) -> list[str]:
    """What a line says besides its figures."""
    return re.sub(r"[-+]?[\d.,]*\d", "#", line).split()


def figures(line: str) -> list[float]:
    return [float(figure.replace(",", "")) for figure in re.findall(r"\d[\d,]*\.?\d*", line)]


def test_the_first_command_comes_within_eighty_words() -> None:
    assert len(README.partition("make demo")[0].split()) < 80


def test_the_job_in_the_readme_is_a_job(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "job.yaml").write_text(text)
    job = load_job(tmp_path / "job.yaml", environ=None)
    assert [endpoint.name for endpoint in endpoint_values(job, *books())] == [
        "flash",
        "opus",
        "ours",
        "house",
    ]
