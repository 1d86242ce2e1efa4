"""Make `tests/formats/VERSION/night.tar.xz`: a warehouse with a finished run and a run that was killed half-way.

    python -m tests.formats.make VERSION COMMAND...

`COMMAND` is the `thirdshift` of the version whose files are to be kept, as its words: a program of another
environment, or `env PYTHONPATH=CHECKOUT python -m …`. The provider is this checkout's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import duckdb

from tests.support.nights import environment, write_job, write_sums
from tests.support.servers import cheap, dear, emulated

FOLDER = "/night"
"""What the archive's files hold in place of the folder that they were made in."""
ENDPOINTS = {
    "dear": {"price": {"input": 5, "output": 25}, "limits": {"concurrency": 4}},
    "cheap": {"price": {"input": 0.1, "output": 0.4}, "limits": {"concurrency": 4}},
}
REQUESTS = 240
SERVED = 140
"""Calls after which the second run is killed: its pilot is over, a part of its requests is answered."""


def main(version: str, *command: str) -> None:
    """Run both nights with `command` and keep their files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sums = write_sums(folder / "requests.parquet", REQUESTS)
        models = [dear(latency_seconds=0.2), cheap(latency_seconds=0.2)]
        with emulated(models, items=sums, seed=3) as emulator:
            job = write_job(
                folder,
                emulator,
                ENDPOINTS,
                quality={"floor": 0.75, "scorer": "numeric", "pilot": 30},
                budget={"cap_usd": 5},
            )
            run = [*command, "run", str(job), "--yes", "--run-id"]
            subprocess.run([*run, "finished"], env=environment(), check=True)
            before = len(emulator.books())
            night = subprocess.Popen([*run, "unfinished"], env=environment())
            while len(emulator.books()) < before + SERVED:
                if night.poll() is not None:
                    raise SystemExit("the second run ended before it could be killed")
                time.sleep(0.02)
            night.kill()
            night.wait()
            clean(folder, emulator.api_base)
        place = Path(__file__).parent / version / "night.tar.xz"
        place.parent.mkdir(exist_ok=True)
        with tarfile.open(place, "w:xz") as archive:
            archive.add(folder, ".", filter=nobodys)


def clean(folder: Path, api_base: str) -> None:
    """Put FOLDER and a port that nobody listens at where this machine's stand."""
    for path in [folder / "job.yaml", *folder.glob("warehouse.duckdb.d/*/job.json")]:
        text = path.read_text(encoding="utf-8")
        path.write_text(
            text.replace(str(folder), FOLDER).replace(api_base, "http://127.0.0.1:1/v1"), encoding="utf-8"
        )
    with duckdb.connect(str(folder / "warehouse.duckdb")) as warehouse:
        configs = warehouse.execute("select distinct config from runs").fetchall()
    if any(str(folder) in json.dumps(row) for row in configs):
        raise SystemExit("the warehouse holds the folder's path")


def nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Take the user's names out of an archive's entry."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main(*sys.argv[1:])
