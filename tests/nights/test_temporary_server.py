"""Prefect's API for a night without a server: a database of its own, whatever others did to the user's."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.nights import PROGRAM, answer, write_job, write_sums
from tests.support.patience import PATIENCE_SECONDS
from tests.support.servers import cheap, emulated


def run(job: Path, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command without any Prefect server, in the home of a user who has none of ours."""
    stays = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return subprocess.run(
        [PROGRAM, "run", job, "--fresh", "--run-id", "tonight", "--json"],
        env={
            **stays,
            "PREFECT_HOME": str(home / "prefect"),
            "THIRDSHIFT_HOME": str(home / "ours"),
            **variables,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )


def test_a_night_minds_neither_anothers_database_nor_a_broken_one_of_its_own(tmp_path: Path) -> None:
    theirs = tmp_path / "prefect" / "prefect.db"
    theirs.parent.mkdir()
    with closing(sqlite3.connect(theirs)) as other:  # as a later Prefect leaves it
        other.execute("create table alembic_version (version_num text)")
        other.execute("insert into alembic_version values ('feedfacecafe')")
        other.commit()
    before = theirs.read_bytes()
    template = tmp_path / "ours" / f"prefect-{version('prefect')}.db"
    items = write_sums(tmp_path / "requests.parquet", 10)
    with emulated([cheap()], items=items) as emulator:
        job = write_job(tmp_path, emulator, {"cheap": {"price": {"input": 0.1, "output": 0.4}}})
        for number, kept in enumerate((None, b"no database")):
            if kept is not None:
                template.write_bytes(kept)
            done = run(job, tmp_path)
            assert (done.returncode, answer(done)["results"]) == (0, 10), (number, done.stderr)
            assert template.read_bytes().startswith(b"SQLite format 3"), "kept for the next night"
    assert theirs.read_bytes() == before
    assert list((tmp_path / "warehouse.duckdb.d").glob("**/prefect*")) == []


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
