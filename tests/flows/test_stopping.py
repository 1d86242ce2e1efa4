"""A night that is told to stop, as a process: what is in flight may come in, and then it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_SECONDS

NIGHT = """
import os, signal, sys, threading, time
from decimal import Decimal
from pathlib import Path
from thirdshift.engines.core.budget import RunBudget
from thirdshift.flows.dispatch.dispatcher import Dispatcher
from thirdshift.flows.execution.stopping import stoppable
from thirdshift.router.interfaces import EngineContext
from thirdshift.warehouse.journal.journal import FileJournal

folder, name, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
budget = RunBudget(None)
with FileJournal(folder) as journal:
    dispatcher = Dispatcher("tonight", folder, {}, EngineContext(journal, budget), journal)
    budget.reserve(Decimal(1))
    threading.Timer(seconds, budget.settle, (Decimal(1), Decimal(1))).start()
    with stoppable("tonight", dispatcher):
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
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 143, done.stderr
    assert done.stderr.strip() == "stopped; what was answered is kept, go on with: thirdshift resume tonight"
    assert done.stdout == "", "nothing of the night's went on"
