"""The dbt package over a night's warehouse, by dbt-duckdb itself, in an environment of its own (dbt's pins are dbt's)."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "integrations" / "dbt"
ENVIRONMENT = ROOT / ".venv-dbt"


@pytest.fixture(scope="module")
def dbt() -> Iterator[Path]:
    """dbt, installed from the package's own lock where it is not there yet. Another clone may share the environment by
    a link: whoever installs is alone with it, and nobody installs while others use it."""
    lock, program = PACKAGE / "requirements.txt", ENVIRONMENT / "bin" / "dbt"
    place = ENVIRONMENT.resolve()
    installed = place / "requirements.txt"
    with open(place.with_name(f"{place.name}.lock"), "w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not installed.exists() or installed.read_bytes() != lock.read_bytes():
            subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
            pip = [
                ENVIRONMENT / "bin" / "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "-r",
                lock,
            ]
            subprocess.run(pip, check=True)
            shutil.copy(lock, installed)
        fcntl.flock(turn, fcntl.LOCK_SH)
        yield program


@pytest.mark.timeout(900)
def test_dbt_builds_the_package_over_a_night_and_takes_only_what_is_new(
    dbt: Path, demo_night: Path, tmp_path: Path
) -> None:
    shutil.copytree(PACKAGE, tmp_path / "dbt", ignore=shutil.ignore_patterns("target", "logs", "*.duckdb"))
    warehouse, own = tmp_path / "warehouse.duckdb", tmp_path / "analytics.duckdb"
    shutil.copy(demo_night / "warehouse.duckdb", warehouse)

    environment = os.environ | {"THIRDSHIFT_WAREHOUSE": str(warehouse), "DBT_DUCKDB_PATH": str(own)}

    def run(*words: str) -> dict[str, str]:
        done = subprocess.run(
            [dbt, *words, "--profiles-dir", "."], cwd=tmp_path / "dbt", env=environment, text=True,
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        results = json.loads((tmp_path / "dbt/target/run_results.json").read_text())["results"]
        return {result["unique_id"].split(".")[2]: result["status"] for result in results}

    def freshness() -> str:
        """What `dbt source freshness` says of the answers."""
        subprocess.run(
            [dbt, "source", "freshness", "--profiles-dir", "."], cwd=tmp_path / "dbt", env=environment,
            capture_output=True, check=False,
        )  # fmt: skip
        results = json.loads((tmp_path / "dbt/target/sources.json").read_text())["results"]
        (status,) = (r["status"] for r in results if r["unique_id"].endswith("thirdshift.answers"))
        return str(status)

    assert freshness() == "pass"
    for hours, status in ((30, "warn"), (60, "error")):
        with duckdb.connect(str(warehouse)) as con:
            con.execute(f"update runs set published_at = now() - interval {hours} hour")
        assert freshness() == status
    built = run("build")
    assert set(built.values()) == {"success", "pass"}
    assert {"thirdshift_answers", "thirdshift_chargeback", "chargeback_is_the_ledger"} <= built.keys()
    with duckdb.connect(str(warehouse)) as con:
        (expected,) = con.execute("select count(*) from answers").fetchone() or (0,)
        con.execute("insert into runs by name select * replace ('later' as run_id) from runs")
        con.execute(
            "update runs set published_at = published_at + $later where run_id = 'later'",
            {"later": timedelta(days=1)},
        )
        con.execute(
            "insert into results by name select * replace ('later' as run_id, 'newer' as output) from results "
            "order by request_id limit 3"
        )
    assert run("run")["thirdshift_answers"] == "success"
    with duckdb.connect(str(own)) as con:
        rows = con.execute("select run_id, count(*) from thirdshift_answers group by all").fetchall()
    assert dict(rows) == {"demo": expected - 3, "later": 3}
