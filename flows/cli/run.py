"""The `run`, `resume` and `rehearse` commands: a run, told to stop by signals, and how it ended."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path

from thirdshift.flows.api.runs import run_to_end
from thirdshift.flows.errors import UserError
from thirdshift.flows.runs.options import RunOptions


def run_job(call: RunOptions, *, as_json: bool, batch_output: Path | None = None) -> int:
    """Run the job and print how it ended; return the exit code. `batch_output`: a file for the results in OpenAI's form."""
    from thirdshift.flows.console import RunConsole
    from thirdshift.flows.execution.stopping import kept, last_words
    from thirdshift.flows.formats import json_text
    from thirdshift.flows.runs.context import load, name_of_run
    from thirdshift.flows.runs.summary import show_end

    if batch_output is not None and (not batch_output.parent.is_dir() or batch_output.is_dir()):
        raise UserError(f"--batch-output {batch_output}: its folder is missing, or it is one; name a file")
    run_id = name_of_run(call, RunConsole().say)
    try:
        # a library that prints, prints to stderr: stdout is the answer's
        with last_words(run_id), redirect_stdout(sys.stderr):
            summary = run_to_end(replace(call, run_id=run_id))
    except KeyboardInterrupt:
        print(f"\n{kept(run_id)}", file=sys.stderr)
        return 130
    if batch_output is not None:
        from thirdshift.warehouse.exchange.batch_output import write_batch_output

        lines = write_batch_output(load(call)[1], summary.run_id, batch_output)
        print(f"{lines:,} lines in {batch_output}, in the form of an OpenAI batch's output", file=sys.stderr)
    if as_json:
        print(json_text(asdict(summary)))
    else:
        show_end(summary)
    return summary.exit_code
