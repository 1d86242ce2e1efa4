"""A night that is told to stop, as a process: what is in flight may come in, and then it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
NIGHT = """
import os, signal, sys, threading, time
from decimal import Decimal
from pathlib import Path
from engines.escrow import RunEscrow
from flows.crew import Crew
from flows.stopping import stoppable
from router.values import Desk
from warehouse.journal import FileJournal

folder, name, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
escrow = RunEscrow(None)
with FileJournal(folder) as journal:
    crew = Crew("tonight", folder, {}, Desk(journal, escrow), journal)
    escrow.reserve(Decimal(1))
    threading.Timer(seconds, escrow.settle, (Decimal(1), Decimal(1))).start()
    with stoppable("tonight", crew):
        try:
            os.kill(os.getpid(), getattr(signal, name))
            time.sleep(60)
        finally:
            print("went on")
"""


def test_it_ends_when_what_is_in_flight_is_in_and_says_how_to_go_on(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}
    done = subprocess.run(
        [sys.executable, "-c", NIGHT, str(tmp_path), "SIGTERM", "0.5"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 143, done.stderr
    assert done.stderr.strip() == "stopped; what was answered is kept, go on with: thirdshift resume tonight"
    assert done.stdout == "", "nothing of the night's went on"
