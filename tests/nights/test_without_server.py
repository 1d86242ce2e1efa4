"""A night without a Prefect server needs nothing of Prefect's; a server that is named must answer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.nights import PROGRAM, answer, write_job, write_sums
from tests.support.servers import cheap, emulated


def run(job: Path, home: Path, *before: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command without any Prefect server, in the home of a user who has none of ours."""
    stays = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return subprocess.run(
        [*before, PROGRAM, "run", job, "--fresh", "--run-id", "tonight", "--json"],
        env={
            **stays,
            "PREFECT_HOME": str(home / "prefect"),
            "THIRDSHIFT_HOME": str(home / "ours"),
            **variables,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=home,
    )


def test_a_night_without_a_server_imports_no_prefect_and_leaves_its_home_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "prefect" / "prefect.db"
    theirs.parent.mkdir()
    theirs.write_bytes(b"migrated by another version")
    items = write_sums(tmp_path / "requests.parquet", 10)
    with emulated([cheap()], items=items) as emulator:
        job = write_job(tmp_path, emulator, {"cheap": {"price": {"input": 0.1, "output": 0.4}}})
        done = run(job, tmp_path, sys.executable, "-X", "importtime")
    assert (done.returncode, answer(done)["results"]) == (0, 10), done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time")]
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert "thirdshift.flows.execution.sending" in imported
    assert {name.partition(".")[0] for name in imported} & {"prefect", "litellm"} == set()
    assert [path.name for path in theirs.parent.iterdir()] == ["prefect.db"]
    assert theirs.read_bytes() == b"migrated by another version"


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "http://no-such-host.invalid/api"])
def test_a_server_that_does_not_answer_is_one_sentence(tmp_path: Path, url: str) -> None:
    write_sums(tmp_path / "requests.parquet", 10)
    with emulated([cheap()]) as emulator:
        job = write_job(tmp_path, emulator, {"cheap": {"price": {"input": 0.1, "output": 0.4}}})
        done = run(job, tmp_path, PREFECT_API_URL=url)
        assert (done.returncode, emulator.totals()) == (2, {})
    assert done.stderr.startswith(
        f"thirdshift: no Prefect server answers at PREFECT_API_URL={url}; start it, or unset"
    )
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        (
            "home/profiles.toml",
            'active = "m"\n[profiles.m]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n',
            True,
        ),
        ("here/prefect.toml", '[api]\nurl = "http://127.0.0.1:9/api"\n', True),
        ("here/.env", "PREFECT_API_URL=http://127.0.0.1:9/api\n", True),
        ("here/pyproject.toml", '[tool.prefect.api]\nurl = "http://127.0.0.1:9/api"\n', True),
        ("here/pyproject.toml", '[project]\nname = "theirs"\n', False),
        ("home/profiles.toml", 'active = "m"\n[profiles.m]\nPREFECT_LOGGING_LEVEL = "INFO"\n', False),
    ],
)
def test_a_server_is_named_wherever_prefect_reads_settings(
    tmp_path: Path, name: str, text: str, named: bool
) -> None:
    for folder in ("home", "here"):
        (tmp_path / folder).mkdir()
    (tmp_path / name).write_text(text)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from thirdshift.flows.orchestration.server import server_named; print(server_named())",
        ],
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")},
            "PREFECT_HOME": str(tmp_path / "home"),
        },
        cwd=tmp_path / "here",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(named)
