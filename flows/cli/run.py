"""The `run`, `resume` and `rehearse` commands: a run, told to stop by signals, and how it ended."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict, replace

from thirdshift.flows.api.runs import run_to_end
from thirdshift.flows.runs.options import RunOptions


def run_job(call: RunOptions, *, as_json: bool) -> int:
    """Run the job and print how it ended; return the exit code."""
    from thirdshift.flows.console import RunConsole
    from thirdshift.flows.execution.stopping import kept, last_words
    from thirdshift.flows.formats import jsonable
    from thirdshift.flows.runs.context import name_of_run
    from thirdshift.flows.runs.summary import show_end

    run_id = name_of_run(call, RunConsole().say)
    try:
        # a library that prints, prints to stderr: stdout is the answer's
        with last_words(run_id), redirect_stdout(sys.stderr):
            summary = run_to_end(replace(call, run_id=run_id))
    except KeyboardInterrupt:
        print(f"\n{kept(run_id)}", file=sys.stderr)
        return 130
    if as_json:
        print(json.dumps(asdict(summary), default=jsonable))
    else:
        show_end(summary)
    return summary.exit_code
